"""Retrieval and reranking: are the right documents near the top? Measures by trec_eval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from unmask.data.ranking import Beir, Candidates, Judgements, read_beir, read_candidates
from unmask.errors import DataError
from unmask.evaluation.tasks.record import InputFile, InputFolder, Measure, Task, scored_by
from unmask.settings import Settings

if TYPE_CHECKING:
    from unmask.encoder import TextEncoder

Run = Mapping[str, Mapping[str, float]]  # query id -> document id -> score
_DEPTH = 1000
_QueryPrompt = Annotated[
    str | None, Field(description="instruction put in front of queries; by default the encoder's own")
]
_DocumentPrompt = Annotated[
    str | None, Field(description="instruction put in front of documents; by default the encoder's own")
]


class RetrievalSettings(Settings):
    """A BEIR folder."""

    folder: InputFolder = Field(
        description="folder with corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv; or a hub data set name@split"
    )
    split: str = Field("test", description="whose judgements (default: test)")
    prompt: _QueryPrompt = None
    document_prompt: _DocumentPrompt = None
    ignore_identical_ids: bool = Field(False, description="ArguAna, Quora: a query is a document")
    max_length: int | None = Field(None, ge=1, description="cut documents and queries shorter than the encoder does")


class RerankingSettings(Settings):
    """Queries with candidates."""

    file: InputFile = Field(
        description="jsonl with query, positive[], negative[]; on the command line also a hub data set of that form"
    )
    prompt: _QueryPrompt = None
    document_prompt: _DocumentPrompt = None


@dataclass(frozen=True, slots=True)
class RankingResult:
    """Means over queries, in percent: nDCG@10, mean average precision, MRR@10, recall@100."""

    ndcg_at_10: float
    map: float
    mrr_at_10: float
    recall_at_100: float
    queries: int
    documents: int


def evaluate_beir(
    encoder: "TextEncoder",
    data: Beir,
    *,
    prompt: str | None = None,
    document_prompt: str | None = None,
    max_length: int | None = None,
    ignore_identical_ids: bool = False,
    progress: bool = False,
) -> RankingResult:
    """Exact search by cosine over the whole corpus; the 1,000 best documents of each query are scored.

    Memory holds the queries and their best documents, not the corpus.

    Args:
        encoder: frozen.
        data: a BEIR folder.
        prompt: instruction put in front of queries; None for the one that is saved for them.
        document_prompt: instruction put in front of documents, likewise; the paper has none.
        max_length: most tokens of a query or document; by default as the encoder's settings say.
        ignore_identical_ids: drop a document that has its query's id (ArguAna, Quora).
        progress: show a bar.
    """
    from unmask.encoder import search

    names = list(data.queries)
    texts = list(data.queries.values())
    queries = encoder.encode_query(texts, prompt=prompt, normalize=True, max_length=max_length, progress=progress)
    scores, ids, count = search(
        encoder,
        queries,
        data.documents(),
        depth=_DEPTH,
        prompt=document_prompt,
        max_length=max_length,
        progress=progress,
    )
    run = {
        name: {
            document: float(score)
            for document, score in zip(ids[row], scores[row], strict=True)
            if document is not None and not (ignore_identical_ids and document == name)
        }
        for row, name in enumerate(names)
    }
    return rank_measures(run, data.judgements, count)


def evaluate_candidates(
    encoder: "TextEncoder",
    data: Sequence[Candidates],
    *,
    prompt: str | None = None,
    document_prompt: str | None = None,
    progress: bool = False,
) -> RankingResult:
    """Put each query's own candidates in order of cosine; prompts as of `evaluate_beir`.

    Raises:
        DataError: nothing to rank.
    """
    if not data:
        raise DataError("There is no query with candidates.")
    texts = list(dict.fromkeys(text for one in data for text in (*one.positive, *one.negative)))
    number = {text: i for i, text in enumerate(texts)}
    vectors = encoder.encode_document(texts, prompt=document_prompt, normalize=True, progress=progress)
    queries = encoder.encode_query([one.query for one in data], prompt=prompt, normalize=True, progress=progress)
    run: dict[str, dict[str, float]] = {}
    judgements: Judgements = {}
    for row, one in enumerate(data):
        own = list(dict.fromkeys([*one.positive, *one.negative]))
        scores = vectors[[number[text] for text in own]] @ queries[row]
        run[str(row)] = {str(number[text]): float(score) for text, score in zip(own, scores, strict=True)}
        judgements[str(row)] = {str(number[text]): int(text in one.positive) for text in own}
    return rank_measures(run, judgements, len(texts))


def rank_measures(run: Run, judgements: Judgements, documents: int) -> RankingResult:
    """trec_eval's measures of a run, averaged over all judged queries."""
    import pytrec_eval

    evaluator = pytrec_eval.RelevanceEvaluator(judgements, {"ndcg_cut.10", "map", "recip_rank", "recall.100"})
    found = evaluator.evaluate(run)
    # trec_eval's reciprocal rank has no cut-off: beyond rank 10 it counts as 0 here.
    means = {
        key: 100 * float(np.mean([found[query][key] if query in found else 0.0 for query in judgements]))
        for key in ("ndcg_cut_10", "map", "recall_100")
    }
    ranks = [found[query]["recip_rank"] if query in found else 0.0 for query in judgements]
    mrr = 100 * float(np.mean([rank if rank >= 0.1 else 0.0 for rank in ranks]))
    return RankingResult(means["ndcg_cut_10"], means["map"], mrr, means["recall_100"], len(judgements), documents)


def _left_out(data: Beir) -> str | None:
    said = f"{data.left_out} queries without judgements in this split are left out; {len(data.queries)} are scored."
    return said if data.left_out else None


RETRIEVAL = Task(
    name="retrieval",
    help="a BEIR folder: nDCG@10, MAP, MRR@10, recall@100 of exact search",
    settings=RetrievalSettings,
    read=lambda settings: read_beir(settings.folder, settings.split),
    score=scored_by(evaluate_beir, "prompt", "document_prompt", "max_length", "ignore_identical_ids"),
    measures=(Measure("ndcg_at_10", "nDCG@10, %", " nDCG@10"),),
    example="retrieval pocket-bi --data scifact --prompt 'Given a claim, find its source: '",
    note=_left_out,
    revision=1,  # saved prompts were not read
)
RERANKING = Task(
    name="reranking",
    help="queries with candidates: MAP, MRR@10, nDCG@10",
    settings=RerankingSettings,
    read=lambda settings: read_candidates(settings.file),
    score=scored_by(evaluate_candidates, "prompt", "document_prompt"),
    measures=(Measure("map", "mean average precision, %", " MAP"),),
    example="reranking pocket-bi --data candidates.jsonl",
    revision=1,
)

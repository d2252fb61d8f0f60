"""What can be had without the recipe, on the tasks of a recipe: other readings of the decoder, BM25, a trained encoder.

python examples/baselines.py examples/every_task.yaml --out baselines.json --encoder all-MiniLM-L6-v2=FOLDER

weighted mean, last token: the causal decoder pooled in two other ways (SGPT; PromptEOL's position).
Echo: every text twice, pooled over the second, which has seen all of the first (arXiv 2402.15449).
input embeddings: the mean of what the embedding layer says, in no context.
BM25: words alone, for tasks that rank documents (package bm25s).
A figure that is in the file already is not computed again, so figures of another recipe belong in another file.
"""

import argparse
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from unmask import TextEncoder
from unmask.backbone.devices import precision_here
from unmask.backbone.structure import body, decoder_layers
from unmask.data.ranking import Beir, Candidates
from unmask.encoder.opening import reader_for
from unmask.evaluation.tasks import Task
from unmask.evaluation.tasks.retrieval import Run, rank_measures
from unmask.files import read_json, write_json
from unmask.runs.recipe import load_recipe
from unmask.runs.schema import Recipe
from unmask.runs.sources import with_paths
from unmask.settings import Dtype
from unmask.text.prompts import Rendered
from unmask.text.reader import Reader
from unmask.text.spans import TokenizedText, tokenize

BEFORE, BETWEEN = "Rewrite the sentence: ", ", rewritten sentence: "
_FRAME = 32  # tokens that are more than enough for both
_DEPTH = 1000


class EchoReader(Reader):
    """Every text twice, each cut to `max_length` tokens; the second is pooled."""

    def tokenize(
        self, texts: Sequence[str], prompt: str = "", *, max_length: int | None = None, first: int = 0
    ) -> list[TokenizedText]:
        """See `Reader.tokenize`; the prompt stands in front of the first of the two."""
        limit = max_length or self.settings.max_length
        once = super().tokenize(texts, prompt, max_length=limit, first=first)
        kept = [text[: one.offsets[one.in_text, 1].max(initial=0)] for text, one in zip(texts, once, strict=True)]
        frames = [f"{prompt}{BEFORE}{text}{BETWEEN}" for text in kept]
        twice = [
            Rendered(frame + text, len(frame), len(frame) + len(text)) for frame, text in zip(frames, kept, strict=True)
        ]
        return tokenize(self.tokenizer, twice, max_length=2 * limit + _FRAME)


def causal(recipe: Recipe, pooling: str) -> TextEncoder:
    """The untouched decoder, read as the recipe reads."""
    settings = recipe.model.encoder_settings().changed(pooling=pooling)
    options = {"pooling": pooling, "chat_template": settings.chat_template, "dtype": dtype(recipe)}
    encoder = TextEncoder.load(recipe.model.name, attention="causal", **options)
    encoder.reader = reader_for(encoder.model, encoder.tokenizer, settings, encoder.reader.chat)
    return encoder


def dtype(recipe: Recipe) -> Dtype:
    """In which a run scores its rungs."""
    return "bfloat16" if precision_here(recipe.evaluation.precision) == "bf16" else "float32"


def echo(recipe: Recipe) -> TextEncoder:
    """The untouched decoder, reading every text twice."""
    encoder = causal(recipe, "mean")
    encoder.reader = EchoReader(encoder.tokenizer, encoder.settings)
    return encoder


def input_embeddings(recipe: Recipe) -> TextEncoder:
    """The decoder, its layers handing on what they are given."""
    encoder = causal(recipe, "mean")
    for layer in decoder_layers(encoder.model):
        layer.forward = lambda hidden_states, *_, **__: hidden_states
    inner: Any = body(encoder.model)
    inner.norm = nn.Identity()
    return encoder


def bm25(task: Task, data: Any) -> dict[str, float] | None:
    """Figures of BM25 (Lucene's form, English stop words, no stemming) on a task that ranks documents."""
    if isinstance(data, Beir):
        found = _search(data)
    elif task.name == "reranking":
        found = _rerank(data)
    else:
        return None
    return {measure.key: getattr(found, measure.key) for measure in task.measures}


def _search(data: Beir) -> Any:
    ids, texts = zip(*data.documents(), strict=True)
    scores = _scores(texts, list(data.queries.values()))
    best = np.argsort(-scores, axis=1, kind="stable")[:, :_DEPTH]
    run: Run = {
        query: {ids[column]: float(scores[row, column]) for column in best[row]}
        for row, query in enumerate(data.queries)
    }
    return rank_measures(run, data.judgements, len(ids))


def _rerank(data: Sequence[Candidates]) -> Any:
    texts = list(dict.fromkeys(text for one in data for text in (*one.positive, *one.negative)))
    scores = _scores(texts, [one.query for one in data])
    number = {text: column for column, text in enumerate(texts)}
    run: dict[str, dict[str, float]] = {}
    judgements: dict[str, dict[str, int]] = {}
    for row, one in enumerate(data):
        own = dict.fromkeys([*one.positive, *one.negative])
        run[str(row)] = {str(number[text]): float(scores[row, number[text]]) for text in own}
        judgements[str(row)] = {str(number[text]): int(text in one.positive) for text in own}
    return rank_measures(run, judgements, len(texts))


def _scores(documents: Sequence[str], queries: Sequence[str]) -> np.ndarray:
    """[queries, documents]."""
    import bm25s

    quiet = {"stopwords": "en", "show_progress": False}
    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(documents), **quiet), show_progress=False)
    return np.stack([index.get_scores(words) for words in bm25s.tokenize(list(queries), return_ids=False, **quiet)])


def tasks(recipe: Recipe, only: Collection[str] | None) -> Iterator[tuple[Task, str, Any]]:
    """Every task of the recipe, or those with some names, with their settings, paths resolved."""
    for task, name, settings in recipe.evaluation.tasks():
        if only is None or name in only:
            yield task, name, with_paths(settings)


def refuse_unknown(parser: argparse.ArgumentParser, option: str, asked: Collection[str], known: Sequence[str]) -> None:
    """End with what there is, if something else is asked for."""
    if unknown := sorted(set(asked) - set(known)):
        parser.error(f"{option} {unknown[0]}: there are {', '.join(known)}")


def main() -> None:
    """Score every baseline on every task that it is made for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--out", type=Path, required=True, help="JSON file: baseline -> figure -> value")
    parser.add_argument("--encoder", action="append", default=[], metavar="NAME=FOLDER", help="a trained encoder")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of baselines and encoders (default: all)")
    parser.add_argument("--tasks", nargs="+", metavar="NAME", help="of the recipe's evaluation (default: all)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in `unmask train`")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, arguments.set)
    trained = [entry.split("=", 1) for entry in arguments.encoder]
    openers: dict[str, Callable[[], TextEncoder]] = {
        "weighted mean": lambda: causal(recipe, "weighted_mean"),
        "last token": lambda: causal(recipe, "last"),
        "Echo": lambda: echo(recipe),
        "input embeddings": lambda: input_embeddings(recipe),
        **{name: (lambda folder=folder: TextEncoder.load(folder, dtype=dtype(recipe))) for name, folder in trained},  # type: ignore[misc]
    }
    known = (*openers, "BM25")
    refuse_unknown(parser, "--only", arguments.only or (), known)
    refuse_unknown(parser, "--tasks", arguments.tasks or (), [name for _, name, _ in recipe.evaluation.tasks()])
    found: dict[str, dict[str, float]] = read_json(arguments.out) if arguments.out.is_file() else {}
    encoders: dict[str, TextEncoder] = {}
    for task, name, settings in tasks(recipe, arguments.tasks):
        data = task.read(settings)
        for baseline in arguments.only or known:
            own = found.setdefault(baseline, {})
            # Words: of the causal readings all have the states of Uni, which a run scores; Echo's states are twice.
            wordless = task.name == "words" and baseline in ("weighted mean", "last token", "Echo", "BM25")
            if wordless or any(figure.figure(name) in own for figure in task.measures):
                continue
            if baseline == "BM25":
                figures = bm25(task, data)
                own |= {one.figure(name): figures[one.key] for one in task.measures} if figures else {}
            else:
                if baseline not in encoders:
                    encoders[baseline] = openers[baseline]()
                own |= task.figures(encoders[baseline], name, settings, data=data, progress=True)
            write_json(arguments.out, found)
            print(json.dumps({"baseline": baseline, "task": name, **own}))


if __name__ == "__main__":
    main()

"""The demo from end to end: texts, the four rungs, encoder folder, report."""

import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from unmask.analysis.layers import attention_maps
from unmask.analysis.page import Section, rungs_table, write_page
from unmask.analysis.plots import attention_figure, lines_figure
from unmask.backbone.locate import resolve_model
from unmask.demo.texts import DemoTexts, chunk_sentences, collect_texts
from unmask.encoder import TextEncoder
from unmask.errors import ArtifactError
from unmask.evaluation.masked import evaluate_masked
from unmask.evaluation.words import cross_validate
from unmask.runs.evaluate import head_beside
from unmask.runs.plan import duration, make_plan
from unmask.runs.recipe import load_recipe
from unmask.runs.run import train
from unmask.runs.rungs import RungPlace, open_rung, read_losses
from unmask.runs.schema import Recipe

logger = logging.getLogger(__name__)

MODELS = {
    "pocket": "A 6.8M-parameter decoder, pretrained on Wikipedia,",
    "smollm2": "SmolLM2-135M-Instruct, a decoder of 135M parameters,",
}
# A decoder that has read two trillion tokens is changed more gently than the small one.
_SETTINGS = {
    "pocket": [],
    "smollm2": [
        *("model.name=smollm2", "stages.mntp.lr=4e-4", "stages.simcse.lr=3e-4", "stages.simcse.scale=20"),
        *("stages.simcse.attention_dropout=0.1", "stages.simcse.hidden_dropout=0.1", "evaluation.precision=auto"),
    ],
}
_QUERIES = 300
_EXAMPLES = 6
_FOLDS = 5
_MARK = ".unmask-demo"  # says that a folder is ours to empty
_PARTS = ("texts", "run", "encoder", "report.html")
_SENTENCE = "The bank raised its rates because the river had flooded the town."


def run_demo(out: str | Path, *, model: str = "pocket", seed: int = 0, progress: bool = False) -> dict[str, Any]:
    """Run the four rungs and write everything into `out`; an earlier demo there is replaced.

    Args:
        out: folder.
        model: one of `MODELS`; how long training a larger one takes is estimated and logged first.
        seed: of the run.
        progress: show bars.

    Returns:
        The rungs (name, masked_accuracy, retrieval as mean reciprocal rank, words as chunking accuracy, in percent),
        the encoder's folder, which sentence-transformers opens, the report's page and the seconds of all of it.

    Raises:
        ArtifactError: `out` holds something else.
        MissingExtraError: `smollm2` is not installed.
    """
    resolve_model(model)
    started = time.perf_counter()
    folder = Path(out)
    _claim(folder)
    texts = collect_texts(num_queries=_QUERIES)
    recipe = _write_recipe(folder, texts, model, seed)
    if model != "pocket":
        seconds = sum(stage.seconds for stage in make_plan(recipe).stages)
        logger.info(
            "Training %s takes about %s here (estimated), scoring its rungs comes on top.", model, duration(seconds)
        )
    run = train(recipe, folder / "run", progress=progress, evaluate=lambda encoder: _score(encoder, recipe, texts))
    encoder = folder / "encoder"
    run.encoder.rename(encoder)
    found = run.to_dict()
    report = _write_report(folder, recipe, found["rungs"], texts, [rung.encoder for rung in run.rungs])
    taken = round(time.perf_counter() - started, 1)
    return {**found, "encoder": str(encoder), "report": str(report), "seconds": taken}


def _claim(folder: Path) -> None:
    """Make the folder, or empty it of an earlier demo; refuse anything else."""
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder} is a file; choose another --out.")
    present = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if present and (_MARK not in present or present - {_MARK, *_PARTS}):
        raise ArtifactError(f"{folder} holds something else than an earlier demo; choose another --out.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).touch()
    for name in present & set(_PARTS):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _write_recipe(folder: Path, texts: DemoTexts, model: str, seed: int) -> Recipe:
    """Put the texts into files, as a user's own would be, and point the demo's recipe at them."""
    raw = yaml.safe_load((files("unmask") / "demo" / "recipe.yaml").read_text(encoding="utf-8"))
    raw["seed"] = seed
    (folder / "texts").mkdir()
    for name in raw["data"]:
        path = folder / "texts" / f"{name}.jsonl"
        rows = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in getattr(texts, name))
        path.write_text("".join(rows), encoding="utf-8")
        raw["data"][name]["files"] = [str(path)]
    return load_recipe(raw, _SETTINGS[model])


def _score(encoder: TextEncoder, recipe: Recipe, texts: DemoTexts) -> dict[str, float]:
    masked = evaluate_masked(
        encoder, head_beside(encoder, recipe.model.name), texts.held_out, block_size=128, num_blocks=96
    )
    return {
        "masked_accuracy": 100 * masked["masked_accuracy"],
        "retrieval": _mrr(encoder, texts.queries, texts.answers),
        "words": cross_validate(encoder, chunk_sentences(), folds=_FOLDS),
    }


def _mrr(encoder: TextEncoder, queries: Sequence[str], answers: Sequence[str]) -> float:
    """Mean reciprocal rank of each query's own answer within the first 10, in percent; ties count against it."""
    scores = encoder.encode(queries, normalize=True) @ encoder.encode(answers, normalize=True).T
    ranks = (scores >= scores.diagonal()[:, None]).sum(axis=1)  # the answer itself is one of them
    return 100 * float(np.where(ranks <= 10, 1 / ranks, 0.0).mean())


def _neighbours(
    encoders: Mapping[str, TextEncoder], queries: Sequence[str], answers: Sequence[str]
) -> list[dict[str, Any]]:
    """What each encoder finds closest to a few evenly spaced queries; answer i belongs to query i."""
    chosen = np.linspace(0, len(queries) - 1, min(_EXAMPLES, len(queries))).astype(int).tolist()
    shown = [queries[i] for i in chosen]
    examples: list[dict[str, Any]] = [{"query": query, "found": []} for query in shown]
    for name, encoder in encoders.items():
        scores = encoder.encode(shown, normalize=True) @ encoder.encode(answers, normalize=True).T
        for own, row, example in zip(chosen, scores, examples, strict=True):
            at = int(row.argmax())
            hit = {"encoder": name, "text": answers[at], "cosine": float(row[at]), "right": at == own}
            example["found"].append(hit)
    return examples


def _write_report(
    folder: Path, recipe: Recipe, rungs: list[dict[str, Any]], texts: DemoTexts, encoders: Sequence[str]
) -> Path:
    """The page: what each step changed, in figures, curves, attention and neighbours."""
    mntp, simcse = read_losses(folder / "run").values()
    before = open_rung(recipe, RungPlace("Uni", encoders[0], "causal"))
    after = open_rung(recipe, RungPlace("last", encoders[-1], "bidirectional"))
    queries, answers = texts.queries, texts.answers
    page = folder / "report.html"
    write_page(
        page,
        title="From a decoder to an encoder",
        lead=f"{MODELS[recipe.model.name]} became a text encoder by the three steps of LLM2Vec. "
        "Everything below was measured in this run, on text that it was not trained on; small figures say what each "
        "step changed.",
        table=rungs_table(
            {
                "masked_accuracy": "masked tokens guessed, %",
                "retrieval": f"docstring retrieval, MRR@10 of {len(queries)}",
                "words": "chunk labels of words, %",
            },
            rungs,
        ),
        sections=[
            Section(
                "Masked next-token prediction",
                "Loss on masked tokens while the bidirectional model learns to use both sides. A masked token is "
                "predicted from the state one position before it.",
                svg=lines_figure(mntp, {"loss": "training", "masked_loss": "held-out"}, "nats per masked token"),
            ),
            Section(
                "SimCSE",
                "Contrastive loss: find the other dropout view of a sentence among all sentences of the batch.",
                svg=lines_figure(simcse, {"loss": "training"}, "contrastive loss"),
            ),
            Section(
                "Attention before and after",
                "Who looks at whom (rows look at columns; mean over heads and layers). The causal model's upper "
                "triangle is empty by construction.",
                svg=attention_figure(
                    [attention_maps(before, _SENTENCE), attention_maps(after, _SENTENCE)],
                    ["decoder (causal)", "encoder (bidirectional)"],
                ),
            ),
            Section(
                "Nearest neighbours",
                "For the first line of a docstring, the closest remaining text among "
                f"{len(answers)}; a check marks the right one.",
                neighbours=_neighbours({"decoder": before, "encoder": after}, queries, answers),
            ),
        ],
        code='from sentence_transformers import SentenceTransformer\n\nencoder = SentenceTransformer("'
        + str(folder / "encoder")
        + '")\nvectors = encoder.encode(["one text", "another"])',
    )
    return page

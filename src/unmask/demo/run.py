"""The demo from end to end: texts, the four rungs, encoder folder, report."""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from unmask.analysis.attention import attention_maps
from unmask.analysis.neighbours import nearest
from unmask.analysis.page import Section, rungs_table, write_page
from unmask.analysis.plots import attention_figure, curves_figure
from unmask.backbone.loading import load_model
from unmask.demo.texts import DemoTexts, chunk_sentences, collect_texts
from unmask.encoder import TextEncoder
from unmask.errors import ArtifactError
from unmask.evaluation.masked import evaluate_masked
from unmask.evaluation.tasks.retrieval import evaluate_retrieval
from unmask.evaluation.words import cross_validate
from unmask.runs.recipe import load_recipe
from unmask.runs.run import train
from unmask.runs.rungs import RungPlace, open_rung
from unmask.runs.schema import Recipe
from unmask.training.monitor import read_metrics

_QUERIES = 300
_FOLDS = 5
_MARK = ".unmask-demo"  # says that a folder is ours to empty
_PARTS = ("texts", "run", "encoder", "report.html")
_SENTENCE = "The bank raised its rates because the river had flooded the town."


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The ladder as figures, and where encoder and report are.

    Attributes:
        rungs: name, masked_accuracy, retrieval (mean reciprocal rank) and words (chunking accuracy), in percent.
        encoder: folder that sentence-transformers opens.
        report: the page.
        seconds: what all of it took.
    """

    rungs: list[dict[str, Any]]
    encoder: str
    report: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "rungs": self.rungs,
            "encoder": self.encoder,
            "report": self.report,
            "seconds": round(self.seconds, 1),
        }


def run_demo(out: str | Path, *, seed: int = 0, progress: bool = False) -> DemoResult:
    """Run the four rungs and write everything into `out`; an earlier demo there is replaced.

    Raises:
        ArtifactError: `out` holds something else.
    """
    started = time.perf_counter()
    folder = Path(out)
    _claim(folder)
    texts = collect_texts(num_queries=_QUERIES)
    recipe = _write_recipe(folder, texts, seed)
    run = train(recipe, folder / "run", progress=progress, evaluate=lambda encoder: _score(encoder, recipe, texts))
    encoder = folder / "encoder"
    run.encoder.rename(encoder)
    rungs = [{"name": rung.name, **rung.figures} for rung in run.rungs]
    _write_report(folder, recipe, rungs, texts, [rung.encoder for rung in run.rungs])
    return DemoResult(rungs, str(encoder), str(folder / "report.html"), time.perf_counter() - started)


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


def _write_recipe(folder: Path, texts: DemoTexts, seed: int) -> Recipe:
    """Put the texts into files, as a user's own would be, and point the demo's recipe at them."""
    raw = yaml.safe_load((files("unmask") / "demo" / "recipe.yaml").read_text(encoding="utf-8"))
    raw["seed"] = seed
    (folder / "texts").mkdir()
    for name in raw["data"]:
        path = folder / "texts" / f"{name}.jsonl"
        rows = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in getattr(texts, name))
        path.write_text("".join(rows), encoding="utf-8")
        raw["data"][name]["files"] = [str(path)]
    return load_recipe(raw)


def _score(encoder: TextEncoder, recipe: Recipe, texts: DemoTexts) -> dict[str, float]:
    """The three figures of a rung."""
    base = load_model(recipe.model.name, head=True, dtype="float32")
    masked = evaluate_masked(encoder, base, texts.held_out, block_size=128, num_blocks=96)
    retrieval = evaluate_retrieval(encoder, texts.queries, texts.answers)
    words = cross_validate(encoder, chunk_sentences(), folds=_FOLDS)
    return {
        "masked_accuracy": 100 * masked["masked_accuracy"],
        "retrieval": retrieval.mrr_at_10,
        "words": words.accuracy,
    }


def _write_report(
    folder: Path, recipe: Recipe, rungs: list[dict[str, Any]], texts: DemoTexts, encoders: Sequence[str]
) -> None:
    """The page: what each step changed, in figures, curves, attention and neighbours."""
    logs = sorted((folder / "run" / "stages").glob("*/metrics.jsonl"))
    mntp, simcse = (read_metrics(path) for path in logs)
    before = open_rung(recipe, RungPlace("Uni", encoders[0], "causal"))
    after = open_rung(recipe, RungPlace("last", encoders[-1], "bidirectional"))
    queries, answers = texts.queries, texts.answers
    write_page(
        folder / "report.html",
        title="From a decoder to an encoder",
        lead="A 6.8M-parameter decoder, pretrained on Wikipedia, became a text encoder by the three steps of LLM2Vec. "
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
                svg=curves_figure(mntp, {"loss": "training", "masked_loss": "held-out"}, "nats per masked token"),
            ),
            Section(
                "SimCSE",
                "Contrastive loss: find the other dropout view of a sentence among all sentences of the batch.",
                svg=curves_figure(simcse, {"loss": "training"}, "contrastive loss"),
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
                neighbours=nearest({"decoder": before, "encoder": after}, queries, answers, examples=6),
            ),
        ],
        code='from sentence_transformers import SentenceTransformer\n\nencoder = SentenceTransformer("'
        + str(folder / "encoder")
        + '")\nvectors = encoder.encode(["one text", "another"])',
    )

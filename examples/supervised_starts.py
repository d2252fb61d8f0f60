"""Does what came before help supervised training? The same stage from four starts, scored at every checkpoint.

UNMASK_DATA=... python examples/supervised_starts.py --out runs/starts --seeds 0 1 2

Trains every variant of supervised_starts.yaml (uni, bi, mntp, full) with every seed, scores the encoder that each ends
with on all tasks of the recipe, and STS-B at every checkpoint of the supervised stage. A run that is there is read.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from unmask import TextEncoder
from unmask.runs.evaluate import evaluate_rung, score_checkpoints
from unmask.runs.recipe import load_recipe
from unmask.runs.run import train
from unmask.runs.sources import open_data

RECIPE = Path(__file__).with_name("supervised_starts.yaml")
STARTS = ("uni", "bi", "mntp", "full")
CURVE = "STS-B test"


def run(start: str, seed: int, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Final figures, and the curve: supervised step -> Spearman."""
    folder = out / f"{start}-{seed}"
    scores = folder / "scores.json"
    recipe = load_recipe(f"{RECIPE}:{start}", [f"seed={seed}", *overrides])
    if scores.is_file():
        if load_recipe(folder / "recipe.yaml") != recipe:
            raise SystemExit(f"{folder} was made by other settings; choose another --out.")
        return dict(json.loads(scores.read_text()))
    result = train(recipe, folder, evaluate=lambda _: {}, progress=True)
    encoder = TextEncoder.load(result.encoder, dtype="float32")
    figures = evaluate_rung(encoder, recipe, open_data(recipe).texts)
    points = score_checkpoints(recipe, folder, [CURVE])
    last = result.rungs[-1].name
    curve = {row["stage_step"]: row[CURVE] for row in points if row["rung"] == last}
    before = [row[CURVE] for row in points if row["rung"] != last][-1]
    found = {"figures": figures, "curve": {0: before, **curve}}
    scores.write_text(json.dumps(found))
    return found


def cell(values: list[float]) -> str:
    """Mean and half the range."""
    spread = (max(values) - min(values)) / 2
    return f"{np.mean(values):.2f}" + (f" ± {spread:.2f}" if len(values) > 1 else "")


def table(head: list[str], rows: dict[str, list[list[float]]]) -> str:
    """Markdown, a row a start."""
    lines = [f"| | {' | '.join(head)} |", f"| --- |{' --: |' * len(head)}"]
    lines += [f"| {name} | {' | '.join(cell(values) for values in cells)} |" for name, cells in rows.items()]
    return "\n".join(lines)


def main() -> None:
    """Train, score, print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--starts", nargs="+", default=list(STARTS), choices=STARTS)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe")
    arguments = parser.parse_args()
    found = {
        start: [run(start, seed, arguments.out, arguments.set) for seed in arguments.seeds]
        for start in arguments.starts
    }
    tasks = list(next(iter(found.values()))[0]["figures"])
    print(table(tasks, {s: [[one["figures"][task] for one in runs] for task in tasks] for s, runs in found.items()}))
    steps = [str(step) for step in next(iter(found.values()))[0]["curve"]]
    curves = {
        start: [[{str(k): v for k, v in one["curve"].items()}[step] for one in runs] for step in steps]
        for start, runs in found.items()
    }
    print(f"\n{CURVE} after so many supervised steps:\n\n{table(steps, curves)}")


if __name__ == "__main__":
    main()

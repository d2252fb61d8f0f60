"""One table and one picture of several runs of a recipe (seeds): mean and spread of every rung.

python examples/ladder_table.py runs/pocket-wiki-0 runs/pocket-wiki-1 --svg docs/ladder.svg
"""

import argparse
import json
import statistics
from pathlib import Path

from matplotlib.figure import Figure

COLOURS = ("#9ca3af", "#60a5fa", "#34d399", "#f97316", "#a78bfa")


def load(runs: list[Path]) -> dict[str, dict[str, list[float]]]:
    """Rung -> figure -> its value in every run."""
    found: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        for rung in json.loads((run / "results.json").read_text())["rungs"]:
            figures = found.setdefault(rung.pop("name"), {})
            for name, value in rung.items():
                figures.setdefault(name, []).append(value)
    return found


def markdown(rungs: dict[str, dict[str, list[float]]]) -> str:
    """A row a figure, a column a rung; mean ± half the range where runs differ."""
    lines = [f"| | {' | '.join(rungs)} |", f"| --- | {'--: | ' * len(rungs)}"]
    for figure in next(iter(rungs.values())):
        cells = []
        for figures in rungs.values():
            values = figures[figure]
            spread = (max(values) - min(values)) / 2
            digits = 3 if "loss" in figure else 2
            mean = f"{statistics.mean(values):.{digits}f}"
            cells.append(f"{mean} ± {spread:.{digits}f}" if spread else mean)
        lines.append(f"| {figure} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _step(rung: str) -> str:
    """What a rung adds to the one before it."""
    _, plus, added = rung.rpartition("+")
    return plus + added


def picture(rungs: dict[str, dict[str, list[float]]], wanted: list[str], path: Path) -> None:
    """A small chart a figure: a point a rung, named by what it adds, whiskers the range over runs."""
    figure = Figure(figsize=(max(2.6, 0.7 * len(rungs)) * len(wanted), 2.7), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(wanted), squeeze=False)[0], wanted, strict=True):
        values = [figures[name] for figures in rungs.values()]
        means = [statistics.mean(v) for v in values]
        errors = [[m - min(v) for m, v in zip(means, values, strict=True)]]
        errors.append([max(v) - m for m, v in zip(means, values, strict=True)])
        axes.plot(means, color="#80889466")
        axes.errorbar(range(len(means)), means, yerr=errors, fmt="none", ecolor="#808894")
        axes.scatter(
            range(len(means)), means, color=[COLOURS[i % len(COLOURS)] for i in range(len(means))], zorder=3, s=60
        )
        axes.margins(0.15)
        axes.set_title(name, color="#808894", fontsize=10)
        axes.set_xticks(range(len(rungs)), [_step(rung) for rung in rungs], fontsize=7)
        axes.tick_params(colors="#808894")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, transparent=True, metadata={"Date": None})


def main() -> None:
    """Print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--figures", nargs="+", default=["masked accuracy", "STS-B test", "chunking F1", "NER F1"])
    arguments = parser.parse_args()
    rungs = load(arguments.runs)
    print(markdown(rungs))
    if arguments.svg:
        picture(rungs, arguments.figures, arguments.svg)


if __name__ == "__main__":
    main()

"""Runs and the paper's published figures side by side, one table a measure.

Token accuracy and the F1 of entities are different measures of the same task, and the paper's Table 4 is the first of
them; they never share a table here.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from unmask.artifact import read_json
from unmask.errors import DataError

# How a figure's name in a run's results ends -> what is measured; everything else is told by its task.
_ENDINGS = {
    " F1": "F1 of whole spans, %",
    " AP": "average precision, %",
    " V-measure": "V-measure, %",
    " nDCG@10": "nDCG@10, %",
    " MAP": "mean average precision, %",
    " accuracy": "classification accuracy, %",
}
_WORDS = "token accuracy, %"
_STS = "Spearman correlation of the cosine, x 100"
_MASKED = "masked tokens (loss in nats, accuracy in %)"
_MTEB = "MTEB main scores, %"
_MAIN = {  # of `unmask eval TASK --json`
    "sts": ("spearman", _STS),
    "pairs": ("average_precision", _ENDINGS[" AP"]),
    "classification": ("accuracy", _ENDINGS[" accuracy"]),
    "clustering": ("v_measure", _ENDINGS[" V-measure"]),
    "retrieval": ("ndcg_at_10", _ENDINGS[" nDCG@10"]),
    "reranking": ("map", _ENDINGS[" MAP"]),
}


@dataclass(frozen=True, slots=True)
class Row:
    """Figures of one model that share a measure.

    Attributes:
        label: which model or rung.
        measure: what the figures are.
        values: task -> figure.
        source: the run, or the table of the paper.
    """

    label: str
    measure: str
    values: Mapping[str, float]
    source: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows of one measure; columns are the tasks that any of them has."""

    measure: str
    columns: list[str]
    rows: list[Row]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def compare(rows: Sequence[Row]) -> list[Comparison]:
    """Rows by measure, in the order of their first coming.

    Raises:
        DataError: nothing to compare.
    """
    if not rows:
        raise DataError("Nothing to compare: give runs, --paper tables, or both.")
    found = []
    for measure in dict.fromkeys(row.measure for row in rows):
        own = [row for row in rows if row.measure == measure]
        found.append(Comparison(measure, list(dict.fromkeys(task for row in own for task in row.values)), own))
    return found


def read_run(path: Path) -> Iterator[Row]:
    """The figures of a run folder, of an MTEB folder, or of a saved `--json` output.

    Raises:
        DataError: none of them.
    """
    if (path / "results.json").is_file():
        recipe = path / "recipe.yaml"
        yield from _ladder(read_json(path / "results.json"), path.name, _word_tasks(recipe))
    elif (path / "summary.json").is_file():
        yield from _mteb(read_json(path / "summary.json"), path.name)
    elif path.is_file():
        yield from _saved(read_json(path), path.name)
    else:
        raise DataError(f"{path} holds no results: no results.json, no summary.json, and it is no JSON file.")


def read_published(table: str, model: str | None = None) -> list[Row]:
    """Rows of one of the paper's tables; the source names the table.

    Raises:
        DataError: a table or model that is not among the published figures.
    """
    data = json.loads((files("unmask") / "evaluation" / "published.json").read_text(encoding="utf-8"))
    tables = {one["id"]: one for one in data["tables"]}
    if table not in tables:
        raise DataError(f"No published table {table!r}; there are {', '.join(tables)}.")
    one = tables[table]
    measure = _WORDS if table == "table4" else one["measure"]
    known = list(dict.fromkeys(row["model"] for row in one["rows"]))
    if model is not None and model not in known:
        raise DataError(f"{one['table']} has no model {model!r}; it has {', '.join(known)}.")
    source = f"{data['source'].split(',')[-1].strip()}, {one['table']}"
    return [
        Row(f"{row['model']} {row['variant']}".strip(), measure, row["values"], source)
        for row in one["rows"]
        if model in (None, row["model"])
    ]


def _ladder(results: Any, name: str, words: set[str]) -> Iterator[Row]:
    """A row a rung and measure."""
    for rung in results["rungs"]:
        by_measure: dict[str, dict[str, float]] = {}
        for key, value in rung.items():
            if key != "name":
                measure, task = _measure(key, words)
                by_measure.setdefault(measure, {})[task] = float(value)
        for measure, values in by_measure.items():
            yield Row(str(rung["name"]), measure, values, name)


def _measure(key: str, words: set[str]) -> tuple[str, str]:
    """What a figure of a rung is, and of which task."""
    if key.startswith("masked"):
        return _MASKED, key
    for ending, measure in _ENDINGS.items():
        if key.endswith(ending):
            return measure, key.removesuffix(ending)
    return (_WORDS if key.removesuffix(" (previous)") in words else _STS), key


def _word_tasks(recipe: Path) -> set[str]:
    import yaml

    if not recipe.is_file():
        return set()
    evaluation = (yaml.safe_load(recipe.read_text(encoding="utf-8")) or {}).get("evaluation") or {}
    return set(evaluation.get("words") or {})


def _mteb(summary: Any, name: str) -> Iterator[Row]:
    values = {score["task"]: float(score["score"]) for score in summary["scores"]}
    if summary.get("average") is not None:
        values["average"] = float(summary["average"])
    yield Row(str(summary["settings"]["encoder"]), _MTEB, values, name)


def _saved(found: Any, name: str) -> Iterator[Row]:
    """What `unmask eval ... --json` printed."""
    task = found.get("task") if isinstance(found, dict) else None
    if task == "words":
        for measure, key in ((_WORDS, "accuracy"), (_ENDINGS[" F1"], "f1")):
            for place in dict.fromkeys((one["layer"], one["position"]) for one in found["results"]):
                own = [r for r in found["results"] if (r["layer"], r["position"]) == place and r[key] is not None]
                if own:
                    label = f"{found['encoder']} (layer {place[0]}, {place[1]})"
                    yield Row(label, measure, {one["task"]: one[key] for one in own}, name)
    elif task == "mteb":
        yield from _mteb(found, name)
    elif task in _MAIN:
        key, measure = _MAIN[task]
        yield Row(str(found["encoder"]), measure, {task: found[key]}, name)
    else:
        raise DataError(f"{name} is not what `unmask eval ... --json` prints.")

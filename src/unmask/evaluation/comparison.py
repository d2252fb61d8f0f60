"""Runs and the paper's published figures side by side, one table a measure.

Token accuracy and the F1 of entities are different measures of the same task, and the paper's Table 4 is the first of
them; they never share a table here.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from unmask.errors import DataError, UnmaskError
from unmask.evaluation.tasks import TASKS
from unmask.files import read_json

_MASKED = "masked tokens (loss in nats, accuracy in %)"
_MTEB = "MTEB main scores, %"
_OTHER = "other figures"
_CONLL = " on CoNLL-2003"
_NEW_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")  # PairClassification is pair_classification in the tables
_PUBLISHED_MEASURES = {"table4": TASKS["words"].measures[0].title, "table11": _MTEB, "table12": _MTEB}
_BROKEN = (KeyError, TypeError, AttributeError, ValueError, yaml.YAMLError)


@dataclass(frozen=True, slots=True)
class Row:
    """Figures of one model that share a measure.

    Attributes:
        label: which model or rung.
        measure: what the figures are.
        values: task -> figure.
        source: the run, or the table of the paper.
        approximate: tasks whose figure is not exact (read off a plot, partly covered).
        order: the columns of the table it comes from; by default those of its figures.
    """

    label: str
    measure: str
    values: Mapping[str, float]
    source: str
    approximate: tuple[str, ...] = ()
    order: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows of one measure; columns are the tasks that any of them has."""

    measure: str
    columns: list[str]
    rows: list[Row]


def compare(rows: Sequence[Row]) -> list[Comparison]:
    """Rows by measure, in the order of their first coming.

    Raises:
        DataError: nothing to compare.
    """
    filled = [row for row in rows if row.values]
    if not filled:
        why = "no run given has a figure" if rows else "give runs, --paper tables, or both"
        raise DataError(f"Nothing to compare: {why}.")
    found = []
    for measure in dict.fromkeys(row.measure for row in filled):
        own = [row for row in filled if row.measure == measure]
        there = {task for row in own for task in row.values}
        columns = dict.fromkeys(task for row in own for task in (row.order or row.values) if task in there)
        found.append(Comparison(measure, list(columns), own))
    return found


def read_runs(paths: Sequence[Path]) -> list[Row]:
    """The figures of several runs; each is called by as much of its path as tells it from the others.

    Raises:
        DataError: see `read_run`.
    """
    whole = [path.resolve() for path in paths]
    deepest = max((len(path.parts) for path in whole), default=1)
    for depth in range(1, deepest + 1):
        names = ["/".join(path.parts[-depth:]) for path in whole]
        if len(set(names)) == len(set(whole)):
            break
    return [row for path, name in zip(paths, names, strict=True) for row in read_run(path, name)] if paths else []


def read_run(path: Path, name: str | None = None) -> list[Row]:
    """The figures of a run folder, of an MTEB folder, or of a saved `--json` output.

    Args:
        path: of the run.
        name: what its rows are called as their source; by default the last part of the path.

    Raises:
        DataError: none of them, or not as this package writes it.
    """
    ladder, summary, source = path / "results.json", path / "summary.json", name or path.resolve().name
    place = next((one for one in (ladder, summary, path) if one.is_file()), None)
    if place is None:
        raise DataError(f"{path} holds no results: no results.json, no summary.json, and it is no JSON file.")
    try:
        found = read_json(place)
        if place == ladder:
            return list(_ladder(found["rungs"], path / "recipe.yaml", source))
        if place == summary or found["task"] == "mteb":
            return list(_mteb(found, source))
        return list(_saved(found, source))
    except _BROKEN as error:
        if isinstance(error, UnmaskError):
            raise
        raise DataError(f"{path} is not what this version writes ({type(error).__name__}: {error}).") from error


def subset_tasks() -> tuple[str, ...]:
    """The 15 tasks of the paper's ablations (its Table 3)."""
    return tuple(_published()["subset"]["tasks"])


def _published() -> Any:
    return json.loads((files("unmask") / "evaluation" / "published.json").read_text(encoding="utf-8"))


def read_published(table: str, model: str | None = None) -> list[Row]:
    """Rows of one of the paper's tables; the source names the table.

    Raises:
        DataError: a table or model that is not among the published figures.
    """
    data = _published()
    tables = {one["id"]: one for one in data["tables"]}
    if table not in tables:
        raise DataError(f"No published table {table!r}; there are {', '.join(tables)}.")
    one = tables[table]
    measure = _PUBLISHED_MEASURES.get(table, one["measure"])
    known = list(dict.fromkeys(row["model"] for row in one["rows"]))
    if model is not None and model not in known:
        raise DataError(f"{one['table']} has no model {model!r}; it has {', '.join(known)}.")
    source = f"{data['source'].split(',')[-1].strip()}, {one['table']}"
    # The paper's words are those of one corpus; another one's have columns of their own.
    corpus = _CONLL if table == "table4" else ""
    return [
        Row(
            f"{row['model']} {row['variant']}".strip(),
            measure,
            {f"{task}{corpus}": value for task, value in row["values"].items()},
            source,
            tuple(row.get("approximate", ())),
            tuple(f"{task}{corpus}" for task in one["columns"]),
        )
        for row in one["rows"]
        if model in (None, row["model"])
    ]


def _ladder(rungs: Sequence[Mapping[str, Any]], recipe: Path, source: str) -> Iterator[Row]:
    """A row a rung and measure; the recipe tells what each figure is."""
    measures = _measures(recipe)
    for rung in rungs:
        rows: dict[tuple[str, str], dict[str, float]] = {}
        for key, value in rung.items():
            if key != "name":
                measure, task, place = measures.get(key, (_OTHER, key, ""))
                rows.setdefault((measure, place), {})[task] = float(value)
        for (measure, place), values in rows.items():
            yield Row(f"{rung['name']}{place}", measure, values, source)


def _measures(recipe: Path) -> dict[str, tuple[str, str, str]]:
    """Name of a figure in a run's results -> what is measured, the task, and where words are read otherwise."""
    found = {name: (_MASKED, name, "") for name in ("masked loss", "masked accuracy")}
    if not recipe.is_file():
        return found
    evaluation = (yaml.safe_load(recipe.read_text(encoding="utf-8")) or {}).get("evaluation") or {}
    for kind, task in TASKS.items():
        for name, settings in (evaluation.get(kind) or {}).items():
            corpus = _corpus(str(settings.get("test")))
            first = (settings.get("positions") or ["same"])[0]
            place = "" if first == "same" else f" ({first})"
            for one in task.measures:
                shown = "" if one.variant else place  # a variant says its own place
                found[one.figure(name)] = (one.title, f"{name}{one.variant}{corpus}", shown)
    return found


def _corpus(source: str) -> str:
    """What is added to a task's name where its data is the paper's, so that it shares the paper's column."""
    named = source.lower()
    other = re.search(r"(?<![a-z])(valid|dev|train|testa)", named.rpartition("conll2003")[2])
    return _CONLL if "conll2003" in named and not other else ""


def _mteb(summary: Any, source: str) -> Iterator[Row]:
    """Single tasks; and for the paper's 56 or its 15 the means that its tables give."""
    plain = " without instructions" * (summary["settings"].get("instructions") == "none")
    label = f"{summary['settings']['encoder']}{plain}"
    values = {score["task"]: float(score["score"]) for score in summary["scores"]}
    average = summary.get("average")
    published = {one["id"]: one for one in _published()["tables"]}
    every = set(values) == set(published["table11"]["columns"]) - {"average"}
    mean = "average" if every else f"average of these {len(values)}"  # the paper's averages are over its 56 tasks
    yield Row(label, _MTEB, values | ({} if average is None else {mean: average}), source)
    if average is not None and every:
        means = {_NEW_WORD.sub("_", category).lower(): float(mean) for category, mean in summary["categories"].items()}
        yield Row(label, published["table1"]["measure"], means | {"average": average}, source)
    if average is not None and set(values) == set(subset_tasks()):
        pooling = summary["settings"]["settings"]["pooling"]
        yield Row(label, published["table5"]["measure"], {pooling: average}, source)


def _saved(found: Mapping[str, Any], source: str) -> Iterator[Row]:
    """What `unmask eval ... --json` printed; figures from different data have different columns."""
    rows = found.get("results", [found])  # of several probes on words, or one
    for measure in [one for one in TASKS[found["task"]].measures if not one.variant]:
        for label in dict.fromkeys(_label(found, row) for row in rows):
            own = [row for row in rows if _label(found, row) == label and row[measure.key] is not None]
            if own:
                values = {f"{row['task']}{_named(found)}": row[measure.key] for row in own}
                yield Row(label, measure.title, values, source)


def _label(found: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """The encoder, and where in it the words of a probe were read."""
    probe = ", the paper's probe" if row.get("probe") == "paper" else ""
    place = f" (layer {row['layer']}, {row['position']}{probe})" if "layer" in row else ""
    return f"{found['encoder']}{place}"


def _named(found: Mapping[str, Any]) -> str:
    """The data of a saved result as its columns show it."""
    data = str(found.get("data") or "")
    return _corpus(data) or (f" on {data}" if data else "")

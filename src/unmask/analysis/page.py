"""report.html: one file, nothing fetched, tables that sort, readable on a phone, light and dark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from unmask.analysis.neighbours import NeighbourExample


@dataclass(frozen=True, slots=True)
class Cell:
    """What a table shows: text, the number it sorts by, a small remark, and whether it is the best of its column."""

    text: str
    value: float | None = None
    note: str = ""
    best: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose columns a reader can sort; the first column is left-aligned."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a sentence or two, and tables, pictures or examples."""

    title: str
    text: str
    svg: str = ""
    neighbours: list[NeighbourExample] = field(default_factory=list)
    table: Table | None = None


def rungs_table(columns: Mapping[str, str], rungs: Sequence[Mapping[str, Any]]) -> Table:
    """One row a rung, with what each step changed.

    Args:
        columns: key of a rung's figure -> column heading.
        rungs: name and figures, first to last.
    """
    lower = {key for key in columns if "loss" in key}
    present = {key: [float(rung[key]) for rung in rungs if key in rung] for key in columns}
    best = {key: (min if key in lower else max)(values) for key, values in present.items() if values}
    rows = []
    for number, rung in enumerate(rungs):
        cells = [Cell(str(rung["name"]))]
        for key in columns:
            if key not in rung:
                cells.append(Cell("–"))
                continue
            value, before = float(rung[key]), rungs[number - 1].get(key) if number else None
            change = f"{value - float(before):+.1f}" if before is not None else ""
            cells.append(Cell(f"{value:.2f}" if key in lower else f"{value:.1f}", value, change, value == best[key]))
        rows.append(cells)
    return Table(["rung", *columns.values()], rows)


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], digits: int = 2) -> Table:
    """A table of names and numbers."""
    return Table(
        columns,
        [
            [Cell(f"{v:.{digits}f}", v) if isinstance(v, float) else Cell(str(v), _number(v)) for v in row]
            for row in rows
        ],
    )


def write_page(
    path: Path, *, title: str, lead: str, table: Table | None, sections: Sequence[Section], code: str = ""
) -> None:
    """Render the page.

    Args:
        path: file to write.
        title: heading.
        lead: what the reader looks at.
        table: the main table, if there is one.
        sections: in order.
        code: how to use the encoder.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = (files("unmask") / "analysis" / "page.html").read_text(encoding="utf-8")
    html = environment.from_string(template).render(title=title, lead=lead, table=table, sections=sections, code=code)
    path.write_text(html, encoding="utf-8")


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int) else None

"""report.html: one file, nothing fetched, tables that sort, readable on a phone, light and dark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any


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
    """A heading, a sentence or two, and tables, pictures or examples.

    Attributes:
        title: heading.
        text: below it.
        svg: pictures.
        neighbours: for each `query` what was `found`: `encoder`, `text`, `cosine`, and whether it is the `right` one.
        table: below the text.
    """

    title: str
    text: str
    svg: str = ""
    neighbours: Sequence[Mapping[str, Any]] = ()
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

    def cell(value: Any) -> Cell:
        text = f"{value:.{digits}f}" if isinstance(value, float) else str(value)
        return Cell(text, float(value) if isinstance(value, int | float) else None)

    return Table(columns, [[cell(value) for value in row] for row in rows])


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

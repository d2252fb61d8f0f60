"""report.html: one file, nothing fetched, readable on a phone, light and dark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from unmask.analysis.neighbours import NeighbourExample


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a sentence or two, and a picture or examples."""

    title: str
    text: str
    svg: str = ""
    neighbours: list[NeighbourExample] = field(default_factory=list)


def write_page(
    path: Path,
    *,
    title: str,
    lead: str,
    columns: Mapping[str, str],
    rungs: Sequence[Mapping[str, Any]],
    sections: Sequence[Section],
    code: str,
) -> None:
    """Render the page.

    Args:
        path: file to write.
        title: heading.
        lead: what the reader looks at.
        columns: key of a rung's figure -> column heading.
        rungs: name and figures, first to last.
        sections: in order.
        code: how to use the encoder.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = (files("unmask") / "analysis" / "page.html").read_text(encoding="utf-8")
    best = {key: max(float(rung[key]) for rung in rungs) for key in columns}
    html = environment.from_string(template).render(
        title=title, lead=lead, columns=columns, rungs=rungs, best=best, sections=sections, code=code
    )
    path.write_text(html, encoding="utf-8")

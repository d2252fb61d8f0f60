"""All analyses of one model or run, as one JSON file and one page."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unmask.analysis.context import Context, context
from unmask.analysis.future_tokens import Separation, Triple, separation
from unmask.analysis.geometry import Geometry, geometry
from unmask.analysis.layers import LayerSimilarity, layer_similarity
from unmask.analysis.page import Section, Table, plain_table, write_page
from unmask.analysis.plots import lines_figure, separation_figure, similarity_figure, similarity_map
from unmask.encoder import TextEncoder
from unmask.files import write_json

# Any running text will do; the paper takes the opening of an encyclopaedia's article on a city.
TEXT = (
    "The harbour town lies where the river meets the sea, on a narrow strip of land that the tide covers twice a day. "
    "Fishermen settled here nine hundred years ago, and for most of that time salted herring was the only thing the "
    "rest of the country knew about the place. When the railway came, the old quarter was torn down to make room for "
    "the station, and the painters who had discovered its crooked houses moved to the villages along the coast. Today "
    "the port handles grain and timber, the university has more students than the town has families, and the "
    "herring is served in restaurants at a price that would have astonished those who caught it."
)


@dataclass(frozen=True, slots=True)
class Subject:
    """One rung or model to look at: its name, how to open it, and the name of the causal one it is compared with."""

    name: str
    open: Callable[[], TextEncoder]
    compare_with: str | None = None


@dataclass(slots=True)
class Findings:
    """What the analyses found, by the subjects' names."""

    similarities: dict[str, LayerSimilarity] = field(default_factory=dict)
    separations: dict[str, Separation] = field(default_factory=dict)
    geometries: dict[str, Geometry] = field(default_factory=dict)
    contexts: dict[str, Context] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For `--json` and analysis.json."""
        return {
            "layers": {
                name: {"tokens": one.tokens, "cosines": one.cosines.tolist(), "means": one.means()}
                for name, one in self.similarities.items()
            },
            "future_tokens": {
                name: {
                    "auc": one.auc,
                    "right": one.right,
                    "positive": one.positive.tolist(),
                    "negative": one.negative.tolist(),
                }
                for name, one in self.separations.items()
            },
            "geometry": {name: asdict(one) for name, one in self.geometries.items()},
            "context": {name: asdict(one) for name, one in self.contexts.items()},
        }

    def summary(self) -> tuple[list[str], list[list[Any]]]:
        """One row a subject: columns and cells for a table."""
        columns = ["", "prefix AUC", "prefix right, %", "anisotropy", "alignment", "uniformity", "dimensions"]
        rows: list[list[Any]] = []
        for name, shape in self.geometries.items():
            split = self.separations[name]
            figures = [split.auc, 100 * split.right, shape.anisotropy, shape.alignment, shape.uniformity]
            rows.append([name, *figures, shape.dimensions])
        return columns, rows


def analyse(
    subjects: Sequence[Subject],
    *,
    text: str = TEXT,
    triples: Sequence[Triple],
    pairs: Sequence[tuple[str, str]],
    running: Sequence[str] = (),
    progress: bool = False,
) -> Findings:
    """Run every analysis on every subject, opening one after the other.

    Args:
        subjects: those that others are compared with come first and stay open.
        text: whose states are compared layer by layer.
        triples: for the information on future tokens.
        pairs: texts that mean the same, for the shape of the vectors.
        running: paragraphs, for what states know of their neighbours; left out if there are none.
        progress: show a bar.
    """
    from tqdm import tqdm

    found = Findings()
    wanted = {subject.compare_with for subject in subjects}
    opened: dict[str, TextEncoder] = {}
    for subject in tqdm(subjects, desc="analysing", unit="model", disable=not progress):
        encoder = subject.open()
        if subject.name in wanted:
            opened[subject.name] = encoder
        if subject.compare_with is not None:
            found.similarities[subject.name] = layer_similarity(opened[subject.compare_with], encoder, text)
        found.separations[subject.name] = separation(encoder, triples)
        found.geometries[subject.name] = geometry(encoder, pairs)
        if running:
            found.contexts[subject.name] = context(encoder, running)
    return found


def write_report(
    folder: Path,
    found: Findings,
    *,
    title: str,
    lead: str,
    rungs: Table | None = None,
    before: Sequence[Section] = (),
    curves: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write `analysis.json` and `report.html` into a folder.

    Args:
        folder: made if it is not there.
        found: what `analyse` found.
        title: of the page.
        lead: first sentence.
        rungs: the ladder's table, if there is one.
        before: sections on how it was trained.
        curves: rows of step, rung and figures at every checkpoint.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "analysis.json", {**found.to_dict(), "checkpoints": list(curves)})
    columns, rows = found.summary()
    sections = [*before]
    if curves:
        sections.append(_efficiency(curves))
    sections.append(
        Section(
            "What the beginning knows of the end",
            "Three sentences share their beginning; only its tokens are pooled. If they carry information on what "
            "comes after, two sentences that go on alike are closer than two that do not. AUC 0.5: nothing, as in any "
            "causal model.",
            svg=separation_figure(found.separations),
        )
    )
    if found.contexts:
        sections.append(_context(found.contexts))
    for name, one in found.similarities.items():
        means = ", ".join(f"{mean:.2f}" for mean in one.means())
        sections.append(
            Section(
                f"States of {name} against the causal decoder",
                f"Cosine of each layer's states, token by token. Means from the embeddings upwards: {means}.",
                svg=similarity_figure(one) + similarity_map(one),
            )
        )
    explained = (
        "Anisotropy: mean cosine of different texts. Alignment: squared distance of texts that mean the same. "
        "Uniformity: how evenly vectors lie on the sphere. Lower is better for all three. Dimensions: directions that "
        "carry the variance."
    )
    sections.append(Section("The shape of the vectors", explained, table=plain_table(columns, rows, digits=3)))
    page = folder / "report.html"
    write_page(page, title=title, lead=lead, table=rungs, sections=sections)
    return page


def training_sections(metrics: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Section]:
    """A section of loss curves for each stage of a run: name -> rows of metrics."""
    sections = []
    for name, rows in metrics.items():
        shown = {key: name for key, name in (("loss", "training"), ("masked_loss", "held-out")) if _has(rows, key)}
        sections.append(Section(f"Stage {name}", "Loss over steps.", svg=lines_figure(rows, shown, "loss")))
    return sections


def context_figure(contexts: Mapping[str, Context]) -> str:
    """A line a model over the neighbours' places, as SVG."""
    rows = [
        {"offset": offset, **{name: one.known[at] for name, one in contexts.items()}}
        for at, offset in enumerate(next(iter(contexts.values())).offsets)
    ]
    return lines_figure(rows, {name: name for name in contexts}, "known, %", across="offset", from_zero=False)


def _context(contexts: Mapping[str, Context]) -> Section:
    offsets = next(iter(contexts.values())).offsets
    return Section(
        "What a state knows of its neighbours",
        "A linear probe reads a token so many places away out of a single state: 0 is guessing the most frequent one, "
        "100 always right. Left of 0 is the context that a causal decoder sees, right of it what only bidirectional "
        "attention can know.",
        svg=context_figure(contexts),
        table=plain_table(["", *(f"{offset:+d}" for offset in offsets)], [[n, *o.known] for n, o in contexts.items()]),
    )


def _efficiency(curves: Sequence[Mapping[str, Any]]) -> Section:
    """Figures over the steps of a run, stage after stage."""
    names = list(dict.fromkeys(key for row in curves for key in row if key not in ("step", "rung", "stage_step")))
    rows = [[row["rung"], row["stage_step"], *(float(row[name]) for name in names)] for row in curves]
    return Section(
        "Sample efficiency",
        "Every checkpoint scored; stages follow each other.",
        # losses are in nats and would be a flat line among percentages
        svg=lines_figure(curves, {n: n for n in names if "loss" not in n}, "score", from_zero=False),
        table=plain_table(["rung", "step", *names], rows),
    )


def _has(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    return any(key in row for row in rows)

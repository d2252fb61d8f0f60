"""Plots as SVG text that reads on light and dark pages: transparent ground, grey ink, two clear colours."""

import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, Literal

import numpy as np

from unmask.analysis.future_tokens import Separation
from unmask.analysis.layers import AttentionMap, LayerSimilarity

_ACROSS = {"step": "step", "layer": "layer (0: embeddings)", "offset": "tokens to the left (-) or right (+)"}
_INK = "#808894"
_COLOURS = ("#3b82f6", "#f97316", "#16a34a", "#a855f7", "#e11d48", "#0891b2")


def lines_figure(
    rows: Sequence[Mapping[str, float]],
    series: Mapping[str, str],
    label: str,
    *,
    across: Literal["step", "layer", "offset"] = "step",
    from_zero: bool = True,
) -> str:
    """Figures over steps, layers or neighbours: `series` maps a key of the rows to the name shown."""
    figure, axes = _plot(3.0)
    for colour, (key, name) in zip(cycle(_COLOURS), series.items(), strict=False):
        points = [(row[across], row[key]) for row in rows if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, label=name, marker="o", markersize=3)
    axes.set_xlabel(_ACROSS[across])
    axes.set_ylabel(label)
    if from_zero:
        axes.set_ylim(bottom=0)
    if len(series) > 1 or across != "step":
        axes.legend(frameon=False, labelcolor=_INK)
    return _svg(figure)


def similarity_figure(similarity: LayerSimilarity) -> str:
    """Cosine over token positions, one line a layer, as the paper plots it (its Figure 5)."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    figure, axes = _plot(3.2)
    rows = similarity.cosines[:-1]
    shades = LinearSegmentedColormap.from_list("layers", colormaps["viridis"](np.linspace(0.25, 0.9, 64)))
    for layer, cosines in enumerate(rows):  # the ends of the scale would vanish on dark or on light pages
        axes.plot(cosines, color=shades(layer / max(1, len(rows) - 1)), linewidth=1, label=f"{layer}")
    axes.set_xlabel("token position")
    axes.set_ylabel("cosine, causal and bidirectional")
    axes.set_ylim(min(0.0, float(rows.min())), 1.02)
    if len(rows) <= 16:
        axes.legend(title="layer", frameon=False, labelcolor=_INK, fontsize=8, ncols=2).get_title().set_color(_INK)
    else:
        _colour_bar(figure, axes, ScalarMappable(Normalize(0, len(rows) - 1), shades), "layer")
    return _svg(figure)


def similarity_map(similarity: LayerSimilarity) -> str:
    """The same as a heat map: layers up, positions to the right, the state after the final norm on top."""
    figure, axes = _plot(0.6 + 0.28 * len(similarity.cosines))
    axes.grid(visible=False)
    image = axes.imshow(similarity.cosines, cmap="viridis", vmin=0, vmax=1, aspect="auto", origin="lower")
    last = len(similarity.cosines) - 1
    axes.set_yticks(range(last + 1), [*map(str, range(last)), f"{last}, normed"], fontsize=8)
    axes.set_xlabel("token position")
    axes.set_ylabel("layer")
    _colour_bar(figure, axes, image, "cosine")
    return _svg(figure)


def separation_figure(found: Mapping[str, Separation]) -> str:
    """Histograms of prefix cosines to positives and negatives, one panel a rung, each on a scale of its own."""
    columns = min(2, len(found))
    rows = -(-len(found) // columns)
    figure, panels = _figure(3.3 * columns, 2.3 * rows, rows, columns)
    for axes, (name, one) in zip(panels, found.items(), strict=False):
        values = np.concatenate([one.positive, one.negative])
        low, high = float(values.min()), float(values.max())
        margin = max((high - low) * 0.02, 1e-3)
        bins = np.linspace(low - margin, high + margin, 16)
        for colour, label, own in ((_COLOURS[0], "same meaning", one.positive), (_COLOURS[1], "other", one.negative)):
            axes.hist(own, bins=bins, color=colour, alpha=0.6, label=label)
        axes.set_title(f"{name}: AUC {one.auc:.2f}", color=_INK, fontsize=10)
        axes.set_xlabel("cosine to the query's prefix")
        axes.legend(frameon=False, labelcolor=_INK, fontsize=8)
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    return _svg(figure)


def attention_figure(maps: Sequence[AttentionMap], titles: Sequence[str]) -> str:
    """Heat maps side by side, on one scale."""
    figure, panels = _figure(4.2 * len(maps), 4.6, 1, len(maps))
    # The first token soaks up most attention in any decoder; the scale is set by the rest.
    top = max(float(m.weights[:, 1:].max()) for m in maps)
    for axes, attention, title in zip(panels, maps, titles, strict=True):
        axes.imshow(attention.weights, cmap="viridis", vmin=0, vmax=top)
        positions = range(len(attention.tokens))
        axes.set_xticks(positions, attention.tokens, rotation=90, fontsize=7)
        axes.set_yticks(positions, attention.tokens, fontsize=7)
        axes.set_title(title, color=_INK, fontsize=10)
    return _svg(figure)


def _plot(height: float) -> tuple[Any, Any]:
    """One panel of the usual width, with a grid and two sides."""
    figure, (axes,) = _figure(6.4, height)
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, list[Any]]:
    """A figure and its panels, in grey ink."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.tick_params(colors=_INK)
        axes.xaxis.label.set_color(_INK)
        axes.yaxis.label.set_color(_INK)
        for spine in axes.spines.values():
            spine.set_color(_INK)
    return figure, panels


def _colour_bar(figure: Any, axes: Any, shades: Any, label: str) -> None:
    bar = figure.colorbar(shades, ax=axes)
    bar.ax.tick_params(colors=_INK)
    bar.set_label(label, color=_INK)
    bar.outline.set_edgecolor(_INK)


def _svg(figure: Any) -> str:
    """The figure as an inline SVG element, without XML header and without fixed size."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]

"""Every family through `convert` and `verify`, and docs/support.md from what came out.

make support
"""

import functools
import logging
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.sweep.families import family_config, reason_aside, text_decoders
from unmask.backbone.forward import TokenStates, token_states
from unmask.backbone.head import LanguageModelHead
from unmask.backbone.structure import body, decoder_layers
from unmask.backbone.truth.convert import compatibility_gaps, convert, reads_alike
from unmask.backbone.truth.flat import reads_flat
from unmask.backbone.truth.twins import tiny_model
from unmask.backbone.truth.verify import VerificationReport, backend_in_use, verify
from unmask.data.blocks import BlockBatch
from unmask.errors import ConversionError

TRIES = (("refuse", "keep"), ("refuse", "lift"), ("two-way", "keep"), ("two-way", "lift"))


@dataclass
class Row:
    """What came out for one family."""

    family: str
    report: VerificationReport | None = None
    layers: int = 0
    recurrent: str = "refuse"
    window: str = "keep"
    naive: bool = False  # setting config.is_causal alone would have done
    forward: int = 0  # layers that still read left to right with recurrent: forward
    mixers: set[str] = field(default_factory=set)
    mntp: str = ""  # why the logits path does not work
    half: str = ""  # why it does not convert in bfloat16
    packs: bool = False
    flat: bool = False
    gaps: list[str] = field(default_factory=list)
    reason: str = ""  # of the refusal


@functools.cache
def measure(name: str) -> Row:
    """Convert a tiny model of the family in the mildest way that passes, and look at everything else."""
    row = Row(name)
    for recurrent, window in TRIES:
        model = _build(name)
        try:
            row.report = convert(model, recurrent=recurrent, window=window)
        except ConversionError as error:
            row.reason = row.reason or str(error)
            continue
        row.recurrent, row.window = recurrent, window
        row.layers = len(decoder_layers(model))
        row.packs = _packs(model)
        row.flat = bool(reads_flat(model))
        row.gaps = compatibility_gaps(model)
        row.naive = _naive(name)
        row.mntp = _logits_path(name, recurrent, window)
        row.half = _half(name, recurrent, window)
        if recurrent != "refuse":
            _forward(row)
        break
    return row


def _build(name: str, *, head: bool = False):
    return tiny_model(family_config(name), head=head)


def _packs(model) -> bool:
    """Do documents of one block get the states that they get alone?"""
    ids, pieces = torch.arange(40, 64)[None], torch.tensor([[1] * 7 + [2] * 12 + [3] * 5])
    batch = BlockBatch(ids, pieces, torch.zeros_like(ids), pieces > 0, None if reads_flat(model) else 24)
    with torch.no_grad():
        together = batch.read_by(TokenStates(model), ids)[0]
        apart = torch.cat([token_states(model, part, torch.ones_like(part))[0] for part in ids.split([7, 12, 5], 1)])
    return bool((together - apart).norm() <= 1e-3 * apart.norm())


def _naive(name: str) -> bool:
    """Would the config's flag, set before the model is built, have turned it?"""
    config = family_config(name)
    config.is_causal = False
    model = tiny_model(config, head=False)
    report = verify(model)
    return report.bidirectional and not report.one_sided and reads_alike(model)


def _forward(row: Row) -> None:
    model = _build(row.family)
    report = convert(model, recurrent="forward", window=row.window, backends=[backend_in_use(model)])
    row.forward = len({check.layer for check in report.checks if check.blind})
    row.mixers = {type(model.get_submodule(name)).__name__ for name in model.config.unmask_recurrent["mixers"]}


def _half(name: str, recurrent: str, window: str) -> str:
    """Does the same hold for weights of sixteen bits?"""
    try:
        model = _build(name).to(torch.bfloat16)
        convert(model, recurrent=recurrent, window=window, backends=[backend_in_use(model)])
    except ConversionError as error:
        return str(error)
    return ""


def _logits_path(name: str, recurrent: str, window: str) -> str:
    """Logits of the head at chosen positions: equal to the model's own, with a gradient that reaches every layer."""
    causal_lm = _build(name, head=True)
    backbone = body(causal_lm)
    try:
        convert(backbone, recurrent=recurrent, window=window, backends=[backend_in_use(backbone)])
        head = LanguageModelHead(causal_lm)
        head.check(causal_lm)
    except ConversionError as error:
        return str(error)
    ids = torch.arange(40, 60)[None]
    states = token_states(backbone, ids, torch.ones_like(ids), torch.arange(20)[None])
    torch.nn.functional.cross_entropy(head(states[0, 4:6]), ids[0, 5:7]).backward()
    silent = [i for i, layer in enumerate(decoder_layers(backbone)) if not _moved(layer)]
    return f"no gradient reaches layers {silent}" if silent else ""


def _moved(layer: torch.nn.Module) -> bool:
    gradients = [p.grad for p in layer.parameters() if p.grad is not None]
    return any(bool(g.any()) for g in gradients) and all(bool(g.isfinite().all()) for g in gradients)


_INTRO = """
A tiny random model of each family's real config class goes through `convert` and `verify`: every layer, in each
attention backend the class runs in, one text and several, unpadded, padded left and right, texts shorter and longer
than the windows; then the logits path of MNTP, with a gradient into every layer. That test writes this page:

```bash
make support
```

- *layers*: see both sides / all. A layer that is an MLP alone mixes no tokens and does not count.
- *needed*: what `is_causal: false` in the config does not do by itself. `switches`: attributes, mask buffers and
  biases of attention, which `convert` sets. `window lift`, `recurrent two-way`: options you must choose, because they
  change more than the mask; without them the family is refused and the message names them. `float32`: refused in
  bfloat16, in which all others are converted too.
- *opens elsewhere*: whether plain transformers, and so sentence-transformers, reads the saved folder alike.
- *packs*: in MNTP the documents of a block see themselves only; in one row, or in padded rows of their own.
- *batches*: `flat`, texts one after the other without padding, in training and encoding; or `padded`.

| family | backends | layers | needed | opens elsewhere | packs | batches |
| --- | --- | --: | --- | --- | --- | --- |"""


def page(rows: list[Row]) -> str:
    """docs/support.md."""
    turned = [row for row in rows if row.report is not None]
    refused = [row for row in rows if row.report is None]
    aside = {name: reason_aside(name) for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if reason_aside(name)}
    count = f"{sum(row.naive for row in turned)} of them by the flag alone"
    lines = [
        "# Supported models",
        "",
        f"Every text decoder in the causal-LM mapping of transformers {transformers.__version__}: **{len(turned)} of "
        f"{len(rows)} families convert** ({count}), {len(refused)} are refused by name.",
        _INTRO,
        *(_line(row) for row in turned),
        "",
        "## Refused",
        "",
        "| family | reason |",
        "| --- | --- |",
        *(f"| {row.family} | {_short(row.reason)} |" for row in refused),
        "",
        "## Layers that follow no mask",
        "",
        "With `recurrent: two-way` these modules read the text and the reversed text; with `forward` they stay as is.",
        "",
        "| family | modules | layers that read left to right with `forward` |",
        "| --- | --- | --: |",
        *(f"| {r.family} | {', '.join(sorted(r.mixers))} | {r.forward} of {r.layers} |" for r in turned if r.mixers),
        "",
        "## Not text decoders",
        "",
        f"{len(aside)} names in the mapping stand for something else and are not converted:",
        "",
        "| name | what it is |",
        "| --- | --- |",
        *(f"| {name} | {reason} |" for name, reason in aside.items()),
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    assert row.report is not None
    mixing = {check.layer for check in row.report.checks if check.looks_back}
    seeing = {check.layer for check in row.report.checks if check.bidirectional} & mixing
    needed = [f"window {row.window}"] * (row.window != "keep") + [f"recurrent {row.recurrent}"] * bool(row.mixers)
    needed = needed or ["switches"] * (not row.naive)
    needed += ["float32"] * bool(row.half)
    elsewhere = "no" if row.gaps else "yes"
    cells = (row.family, ", ".join(row.report.backends), f"{len(seeing)}/{len(mixing)}", ", ".join(needed), elsewhere)
    return f"| {' | '.join(cells)} | {'yes' if row.packs else 'no'} | {'flat' if row.flat else 'padded'} |"


def _short(reason: str) -> str:
    """Without what every message begins with."""
    return reason.partition("cannot be converted: ")[2] or reason


def main() -> None:
    """Run the sweep and write the page."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    rows = []
    for name in text_decoders():
        rows.append(measure(name))
        sys.stderr.write(f"{name} {'converts' if rows[-1].report else 'is refused'}\n")
    Path(sys.argv[1]).write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()

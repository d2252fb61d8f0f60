"""What runtimes without this package make of a converted model's config."""

from torch import nn

from unmask.backbone.families.switches import attention_mode, lift_windows, window_mode
from unmask.backbone.structure import MODEL_ERRORS, backend_in_use, family, first_line, text_config
from unmask.backbone.truth.recurrent import installed_mixers, layers_with, recurrent_mode
from unmask.backbone.truth.twins import tiny_config, tiny_model
from unmask.backbone.truth.verify import named, verify


def compatibility_gaps(model: nn.Module) -> list[str]:
    """Where plain transformers (and sentence-transformers on it) reads a saved model unlike we do, in words.

    Found out by building a tiny twin from the config alone, without any of our switches, and measuring it.
    """
    if attention_mode(model) == "causal":
        return []
    gaps = []
    if recurrent_mode(model) == "two-way":
        gaps.append(
            f"Only unmask reads {len(installed_mixers(model))} modules of this {family(model)} in both directions "
            f"({named(installed_mixers(model))}); other runtimes run them left to right and give other vectors."
        )
    try:
        twin = tiny_model(tiny_config(text_config(model)))
        if window_mode(model) == "lift":
            lift_windows(twin)
            twin = tiny_model(text_config(twin))
        report = verify(twin, backends=[backend_in_use(twin)])
    except MODEL_ERRORS as error:
        return [*gaps, f"Not checked how other runtimes read this {family(model)}: {first_line(error)}."]
    mixed = layers_with(model, installed_mixers(model))
    blind = [check for check in report.failures() if check.layer not in mixed]
    if blind:
        gaps.append(
            f"Plain transformers does not obey `is_causal: false` for {family(model)}: layer {blind[0].layer} "
            f"{blind[0].reason()}. Other runtimes will give other vectors; load this folder with unmask.TextEncoder."
        )
    elif any(map(report.depends_on_padding, report.backends)):
        gaps.append(
            f"In plain transformers padding moves the states of a text in {family(model)}; encode one text at a time "
            "there."
        )
    return gaps

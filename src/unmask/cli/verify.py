"""`unmask verify MODEL`: what every layer can see; exit code 1 if any layer cannot see the future."""

import argparse

from unmask.cli.console import MODEL_HELP, add_json, quiet_transformers, show

HELP = "per-layer table: can the first token see the last? (exit code 1 if not)"
EXAMPLE = "verify pocket-bi"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("model", metavar="MODEL", help=f"{MODEL_HELP}; decoder or encoder")
    parser.add_argument(
        "--backend",
        action="append",
        metavar="NAME",
        help="attention implementation to try; repeat for several",
    )
    parser.add_argument(
        "--config-only", action="store_true", help="a small random model of this config; no weights are read"
    )
    parser.add_argument(
        "--layer-by-layer",
        action="store_true",
        help="read each layer from disk when it runs (default where the weights would fill half of the memory)",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Load as it is, measure, print."""
    quiet_transformers()
    from unmask.backbone.families.switches import attention_mode, set_attention_mode
    from unmask.backbone.loading import load_from_disk, load_model, load_twin, weights_fit
    from unmask.backbone.locate import resolve_model
    from unmask.backbone.truth.convert import compatibility_gaps
    from unmask.backbone.truth.verify import verify
    from unmask.encoder.runner import Runner

    if arguments.config_only:
        model = load_twin(arguments.model)
    elif arguments.layer_by_layer or not weights_fit(resolve_model(arguments.model)):
        model = load_from_disk(arguments.model)
    else:
        model = load_model(arguments.model, head=False)
    if attention_mode(model) == "bidirectional":
        set_attention_mode(model, "bidirectional")  # the switches that a config cannot hold, as TextEncoder.load does
    report = verify(model, backends=arguments.backend)
    gaps = compatibility_gaps(model)
    paths = {name: str(taken) for name, taken in Runner(model, "mean").paths().items()}
    more = {"config_only": arguments.config_only, "other_runtimes": gaps, "fast_paths": paths}
    lines = [report.table(), *(f"fast path {name}: {taken}" for name, taken in paths.items()), *gaps]
    show(arguments, report.to_dict() | more, "\n".join(lines))
    return 0 if report.bidirectional else 1

"""`unmask export ENCODER --out DIR --for RUNTIME`: a folder that another runtime serves, read back and compared."""

import argparse
from dataclasses import asdict

from unmask.cli.console import MODEL_HELP, add_encoder_options, check_new, open_encoder, show
from unmask.export.targets import TARGETS

HELP = "write an encoder for another runtime; read it back and compare (exit code 1 if vectors differ)"
EXAMPLE = "export pocket-bi --for onnx --out pocket-onnx"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("encoder", metavar="ENCODER", help=MODEL_HELP)
    parser.add_argument("--for", dest="runtime", required=True, choices=tuple(TARGETS), help="what will serve it")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder")
    parser.add_argument(
        "--precision", choices=("fp32", "int8"), default="fp32", help="of an ONNX graph (default: fp32)"
    )
    parser.add_argument(
        "--pool-special-tokens",
        action="store_true",
        help="average BOS and EOS in where the runtime cannot leave them out",
    )
    parser.add_argument(
        "--pool-prompts", action="store_true", help="average prompts in where the runtime cannot leave them out"
    )
    parser.add_argument("--gpu", action="store_true", help="the runtime has a CUDA GPU, where TEI serves more families")
    add_encoder_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Look at the folder before the model is loaded; write, compare, say how to serve it."""
    check_new(arguments.out, folder=True)
    encoder = open_encoder(arguments)
    from unmask.export.exporting import export_encoder

    report = export_encoder(
        encoder,
        arguments.out,
        arguments.runtime,
        precision=arguments.precision,
        pool_special_tokens=arguments.pool_special_tokens,
        pool_prompts=arguments.pool_prompts,
        gpu=arguments.gpu,
    )
    lines = ["not read back: sentence-transformers is not installed here"]
    if report.cosine is not None:
        lines = [f"read back with {report.read_with}: cosine {report.cosine:.6f} or more, {report.samples} texts"]
    if report.cost is not None:
        lines.append(f"pooled as the runtime does: cosine {report.cost:.4f} or more to the encoder before")
    lines += [*(f"note: {known}" for known in report.known), *report.serve]
    show(arguments, asdict(report), "\n".join(lines), f"written to {arguments.out}")

"""`unmask convert MODEL --out DIR`: step 1 alone, verified."""

import argparse

from unmask.cli.console import MODEL_HELP, add_json, quiet_transformers, show
from unmask.pooling import POOLINGS

HELP = "make a decoder bidirectional, verify every layer, save it as an encoder"
EXAMPLE = "convert pocket --out pocket-bi"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the encoder")
    parser.add_argument("--pooling", choices=tuple(POOLINGS), help="default: mean, or as an encoder folder has it")
    parser.add_argument(
        "--max-length", type=int, metavar="N", help="most tokens of a text (default: what the model takes)"
    )
    parser.add_argument(
        "--recurrent",
        default="refuse",
        choices=("refuse", "forward", "two-way"),
        help="layers that follow no mask (Mamba, delta nets, convolutions): leave them as they are, or read both ways",
    )
    parser.add_argument(
        "--window", default="keep", choices=("keep", "lift"), help="sliding windows: keep (two-sided) or lift"
    )
    parser.add_argument(
        "--attention-implementation", metavar="NAME", help="eager, sdpa, ... (default: transformers' choice)"
    )
    parser.add_argument(
        "--include-special-tokens",
        action=argparse.BooleanOptionalAction,
        help="pool BOS and EOS too, as every runtime can (default: as saved, else yes)",
    )
    parser.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        help="scale vectors to length 1 (default: as saved, else no)",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Convert, save, say what was found."""
    quiet_transformers()
    from unmask.encoder import convert_and_save

    report = convert_and_save(
        arguments.model,
        arguments.out,
        recurrent=arguments.recurrent,
        window=arguments.window,
        pooling=arguments.pooling,
        max_length=arguments.max_length,
        include_special_tokens=arguments.include_special_tokens,
        normalize=arguments.normalize,
        attention_implementation=arguments.attention_implementation,
    )
    found = report.to_dict() | {"encoder": arguments.out}
    show(arguments, found, report.table(), f"encoder written to {arguments.out}")

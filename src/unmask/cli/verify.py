"""`unmask verify MODEL`: what every layer can see; exit code 1 if any layer cannot see the future."""

import argparse
from typing import Any

from unmask.cli.console import add_json, print_json, quiet_transformers


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "verify",
        help="per-layer table: can the first token see the last? (exit code 1 if not)",
        epilog="example: unmask verify pocket-bi",
    )
    parser.add_argument("model", metavar="MODEL", help="folder, hub id, or `pocket`; decoder or encoder")
    parser.add_argument(
        "--backend",
        action="append",
        metavar="NAME",
        help="attention implementation to try; repeat for several",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Load as it is, measure, print."""
    quiet_transformers()
    from unmask.backbone.loading import load_model, load_tokenizer
    from unmask.backbone.verify import verify

    load_tokenizer(arguments.model)
    report = verify(load_model(arguments.model, head=False), backends=arguments.backend)
    if arguments.json:
        print_json(report.to_dict())
    else:
        print(report.table())
    return 0 if report.bidirectional else 1

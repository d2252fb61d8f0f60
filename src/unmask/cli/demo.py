"""`unmask demo`: a pretrained decoder becomes an encoder, in about two minutes on a CPU, offline."""

import argparse

from unmask.cli.console import add_json, progress_wanted, quiet_transformers, rungs_table, show

HELP = "two minutes on a CPU, nothing downloaded: ladder table, encoder folder, report.html"
EXAMPLE = "demo --out unmask-demo"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--out", default="unmask-demo", metavar="DIR", help="folder to write (default: unmask-demo)")
    parser.add_argument(
        "--model",
        default="pocket",
        choices=("pocket", "smollm2"),
        help="smollm2: SmolLM2-135M, half an hour and more (default: pocket)",
    )
    parser.add_argument("--seed", type=int, default=0)
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the ladder and print it."""
    quiet_transformers()
    from unmask.demo.run import run_demo

    found = run_demo(arguments.out, model=arguments.model, seed=arguments.seed, progress=progress_wanted())
    note = f"\nencoder  {found['encoder']}\nreport   {found['report']}\nseconds  {found['seconds']:.0f}"
    show(arguments, found, rungs_table(found["rungs"]), note)

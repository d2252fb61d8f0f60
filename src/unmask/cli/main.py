"""`unmask COMMAND ...`: results on stdout, progress and notes on stderr; exit code 0 done, 1 failed, 2 wrong use."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from unmask import __version__
from unmask.cli.console import LazyParser, process_number
from unmask.errors import TrainingError, UnmaskError

COMMANDS = ("demo", "convert", "verify", "train", "recipes", "mine", "encode", "eval", "tag", "analyze", "report")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each command's module adds its own."""
    parser = LazyParser(
        prog="unmask",
        description="Turn a decoder-only language model into a text encoder (LLM2Vec, arXiv 2404.05961).",
        epilog="Start with `unmask demo`: two minutes on a CPU, nothing downloaded. MODEL and ENCODER are a folder, "
        "a hub id, or `pocket`, the small decoder that comes with the package.",
    )
    parser.add_argument("--version", action="version", version=f"unmask {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        import_module(f"unmask.cli.{name}").add_parser(commands)
    return parser


def _not_on_stdout(record: logging.LogRecord) -> bool:
    """DeepSpeed, where it is installed, logs to stdout from its import on, which would break `--json`."""
    if record.filename != "real_accelerator.py":  # on a CPU it says so each time
        logging.getLogger().handle(record)
    return False


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("DeepSpeed").addFilter(_not_on_stdout)
    logging.getLogger("unmask").setLevel(logging.WARNING if process_number() else logging.INFO)
    try:
        code: int = arguments.run(arguments)
    except UnmaskError as error:
        number = process_number()
        print(f"unmask{f' (process {number})' if number else ''}: {error}", file=sys.stderr)
        return 1 if isinstance(error, TrainingError) else 2
    except KeyboardInterrupt:
        goes_on = " The same command goes on from the last checkpoint." if arguments.command == "train" else ""
        print(f"unmask: stopped.{goes_on}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


if __name__ == "__main__":
    sys.exit(main())

"""`unmask COMMAND ...`: results on stdout, progress and notes on stderr; exit code 0 done, 1 failed, 2 wrong use."""

import argparse
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module

from unmask import __version__
from unmask.cli.console import LazyParser, add_command, process_number
from unmask.errors import CorpusError, ExportError, PushError, TrainingError, UnmaskError

COMMANDS = (
    *("demo", "convert", "verify", "train", "compress", "recipes", "mine", "encode", "search"),
    *("index", "eval", "tag", "analyze", "report", "export", "check", "push", "serve"),
)

_RESUMES = {
    "train": " The same command resumes from the last checkpoint.",
    "encode": " The same command goes on behind the last shard.",
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each command's module says its own."""
    parser = LazyParser(
        prog="unmask",
        description="Turn a decoder-only language model into a text encoder (LLM2Vec, arXiv 2404.05961).",
        epilog="Start with `unmask demo`: two minutes on a CPU, nothing downloaded. MODEL and ENCODER are a folder, "
        "a GGUF file, a hub id, or a name: `pocket`, the small decoder that comes with the package, `smollm2` (extra "
        "smollm2), `smollm2-mntp`, `smollm2-unsupervised`, `smollm2-supervised` (package unmask-pretrained).",
    )
    parser.add_argument("--version", action="version", version=f"unmask {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        add_command(commands, name, import_module(f"unmask.cli.{name}"))
    _add_debug(parser)
    return parser


def _add_debug(parser: argparse.ArgumentParser) -> None:
    """`--debug` on every command, before or behind its name."""
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show where an error comes from, and all logs"
    )
    if isinstance(parser, LazyParser) and parser.fill is not None:
        parser.fill = partial(_fill_and_add_debug, parser.fill)
    _add_debug_below(parser)


def _fill_and_add_debug(fill: Callable[[argparse.ArgumentParser], None], parser: argparse.ArgumentParser) -> None:
    fill(parser)
    _add_debug_below(parser)


def _add_debug_below(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in dict.fromkeys(action.choices.values()):
                _add_debug(command)


def _set_up_logging(debug: bool) -> None:
    """Our own notes on stderr; of other libraries only errors, unless everything is asked for."""
    for name, level in (("unmask", logging.WARNING if process_number() else logging.INFO), ("", logging.ERROR)):
        logger = logging.getLogger(name)
        for old in [handler for handler in logger.handlers if getattr(handler, "of_the_command_line", False)]:
            logger.removeHandler(old)
        handler = logging.StreamHandler(sys.stderr)
        handler.of_the_command_line = True  # type: ignore[attr-defined]
        handler.setLevel(logging.DEBUG if debug else level)
        handler.setFormatter(logging.Formatter("%(message)s"))
        handler.addFilter(lambda record, name=name: bool(name) or not record.name.startswith("unmask"))  # type: ignore[misc]
        logger.addHandler(handler)
    logging.getLogger("unmask").setLevel(logging.DEBUG if debug else logging.INFO)
    # DeepSpeed, where it is installed, logs to stdout from its import on, which would break `--json`.
    logging.getLogger("DeepSpeed").addFilter(_not_on_stdout)
    if not debug:
        os.environ.setdefault("TORCH_LOGS", "-all")  # torch has handlers of its own; this leaves its errors
        warnings.simplefilter("ignore")


def _not_on_stdout(record: logging.LogRecord) -> bool:
    logging.getLogger().handle(record)
    return False


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    debug = getattr(arguments, "debug", False) or os.environ.get("UNMASK_DEBUG", "0") not in ("", "0")
    _set_up_logging(debug)
    try:
        code: int = arguments.run(arguments) or 0
    except UnmaskError as error:
        if debug:
            traceback.print_exc()
        number = process_number()
        print(f"unmask{f' (process {number})' if number else ''}: {error}", file=sys.stderr)
        return 1 if isinstance(error, CorpusError | ExportError | PushError | TrainingError) else 2
    except KeyboardInterrupt:
        print(f"unmask: stopped.{_RESUMES.get(arguments.command, '')}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a disk that is full, a folder that may not be written to
        if debug:
            traceback.print_exc()
        print(f"unmask: {f'{error.filename}: {error.strerror}' if error.filename else error}", file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())

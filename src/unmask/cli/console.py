"""What the commands share: JSON on stdout, tables, common options, quiet libraries."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from unmask.errors import ArtifactError
from unmask.pooling import POOLINGS

MODEL_HELP = "folder, GGUF file, hub id, or a name that `unmask --help` lists"


class LazyParser(argparse.ArgumentParser):
    """A parser that may get its arguments when it is first used, if what tells them takes time to load."""

    fill: Callable[[argparse.ArgumentParser], None] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As ever, after `fill`."""
        if self.fill is not None:
            fill, self.fill = self.fill, None
            fill(self)
        return super().parse_known_args(args, namespace)


def add_command(commands: Any, name: str, module: Any) -> None:
    """A command or a task of `eval` as its module says: HELP, EXAMPLE, add_options, run."""
    example = f"example: unmask {module.EXAMPLE}" if module.EXAMPLE else None
    parser = commands.add_parser(name, help=module.HELP, epilog=example)
    parser.set_defaults(run=module.run)
    module.add_options(parser)


def show(arguments: argparse.Namespace, found: Any, text: str = "", note: str = "") -> None:
    """With `--json` what was found, as one JSON object on stdout; else `text` on stdout and `note` on stderr."""
    if arguments.json:
        print(json.dumps(found, ensure_ascii=False, default=asdict))
        return
    if text:
        print(text)
    if note:
        print(note, file=sys.stderr)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned for a terminal; the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [header, *rows]
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def rungs_table(rungs: Sequence[dict[str, Any]]) -> str:
    """The ladder: a row a rung, a column a figure; `-` where a rung has none."""
    names = list(dict.fromkeys(key for rung in rungs for key in rung if key != "name"))
    rows = [[str(rung["name"]), *(f"{rung[n]:.1f}" if n in rung else "-" for n in names)] for rung in rungs]
    return table(["rung", *names], rows)


def process_number() -> int:
    """Which of several processes this is, as their launcher says; 0 is the one that speaks."""
    return int(os.environ.get("RANK", "0"))


def progress_wanted() -> bool:
    """Bars are for people: only where stderr is a terminal, and from one process."""
    return sys.stderr.isatty() and process_number() == 0


def quiet_transformers() -> None:
    """Turn off transformers' own bars; import it first, so call this inside a command."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def positive(text: str) -> int:
    """An argparse type: a whole number from 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def check_new(path: str | None, *, folder: bool) -> None:
    """Refuse, before any work, a place where the result could not be written.

    Raises:
        ArtifactError: what is there already, or that there is no such folder.
    """
    if path is None:
        return
    place = Path(path)
    if folder and place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ArtifactError(f"{path} exists already and is not an empty folder; choose another.")
    if not folder and (place.is_dir() or not place.parent.is_dir()):
        raise ArtifactError(f"{path} cannot be written: {'it is a folder' if place.is_dir() else 'no such folder'}.")
    there = next(parent for parent in place.absolute().parents if parent.exists())
    if not os.access(there, os.W_OK):
        raise ArtifactError(f"{path} cannot be written: {there} may not be written to.")


_JSON = "print one JSON object on stdout"
INT8_SAMPLE = 64  # texts that the cost of eight bits is told on
ENCODER_OPTIONS = ("attention", "adapter", "recurrent", "window", "pooling", "max_length", "dtype", "device")


def opening(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that say how an encoder is opened, those that were given (adapters by their full path)."""
    given = {key: getattr(arguments, key) for key in ENCODER_OPTIONS if key not in ("dtype", "device")}
    given["adapter"] = [str(Path(a).resolve()) if Path(a).is_dir() else a for a in given["adapter"]]
    return {key: value for key, value in given.items() if value}


def add_json(parser: argparse.ArgumentParser, what: str = _JSON) -> None:
    """`--json`, the same everywhere."""
    parser.add_argument("--json", action="store_true", help=what)


def add_quoting(parser: argparse.ArgumentParser) -> None:
    """How csv and tsv files are quoted, the same everywhere."""
    parser.add_argument(
        "--quoting",
        choices=("standard", "none"),
        default="standard",
        help="of csv and tsv; none: quotation marks are ordinary characters (default: standard)",
    )


def add_encoder_options(parser: argparse.ArgumentParser, json_help: str = _JSON) -> None:
    """How an encoder is opened; and `--json`, which every command that opens one has."""
    parser.add_argument(
        "--attention", choices=("causal", "bidirectional"), help="default: what the model's config says"
    )
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="DIR", help="LoRA adapter to merge; repeat, in training order"
    )
    parser.add_argument("--recurrent", choices=("refuse", "forward", "two-way"), help="default: as saved, else refuse")
    parser.add_argument("--window", choices=("keep", "lift"), help="default: as saved, else keep")
    parser.add_argument("--pooling", choices=tuple(POOLINGS), help="default: as saved")
    parser.add_argument("--max-length", type=positive, metavar="N", help="most tokens of a text (default: as saved)")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    parser.add_argument("--device", help="for example cpu or cuda:0 (default: the GPU if there is one)")
    add_json(parser, json_help)


def open_encoder(arguments: argparse.Namespace) -> Any:
    """The encoder that a command's options ask for."""
    quiet_transformers()
    from unmask import TextEncoder

    return TextEncoder.load(**loading(arguments))


def loading(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `TextEncoder.load` is given by a command's options."""
    options = {key: getattr(arguments, key) for key in ENCODER_OPTIONS if key != "adapter"}
    return {"name": arguments.encoder, "adapters": arguments.adapter, **options}


def put_in_int8(encoder: Any, texts: Iterable[str]) -> dict[str, float]:
    """Put an encoder's linear layers into eight bits, and say what that costs on the first texts."""
    from unmask.encoder import to_int8

    cosines = to_int8(encoder, list(islice(texts, INT8_SAMPLE)))
    print(
        f"int8: cosine to full precision on {len(cosines)} texts {cosines.mean():.4f}, smallest {cosines.min():.4f}",
        file=sys.stderr,
    )
    return {"int8_cosine_mean": float(cosines.mean()), "int8_cosine_min": float(cosines.min())}

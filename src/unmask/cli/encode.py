"""`unmask encode ENCODER INPUT... --out OUT`: texts to Parquet files of ids and vectors."""

import argparse
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from unmask.cli.console import (
    INT8_SAMPLE,
    MODEL_HELP,
    add_encoder_options,
    add_quoting,
    loading,
    open_encoder,
    positive,
    progress_wanted,
    put_in_int8,
    show,
)

if TYPE_CHECKING:
    from unmask.corpus.plan import CorpusOptions

HELP = "encode files of texts, packed or not, into Parquet files of ids and vectors; goes on where it was stopped"
EXAMPLE = "encode pocket-bi articles/ --field text --id-field id --keep title --out vectors/"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    # argparse lets arguments that look like negative numbers be what they are; `-.csv` is one of ours.
    parser._negative_number_matcher = re.compile(r"-\d+$|-\d*\.\d+$|-\.[a-z]")
    parser.add_argument("encoder", metavar="ENCODER", help=MODEL_HELP)
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="txt (a text a line), csv, tsv, JSON or Parquet, also .gz and .zst: files, folders, patterns in quotes, "
        "hub data sets name@split, - for standard input (-.csv where that holds csv)",
    )
    parser.add_argument(
        "--out", required=True, metavar="OUT", help="a folder of shards; one file if it ends in .parquet or .npy"
    )
    _add_reading(parser)
    _add_writing(parser)
    parser.add_argument("--prompt", help="instruction in front of every text (default: the saved one for documents)")
    parser.add_argument("--prompt-name", metavar="NAME", help="one of the encoder's saved prompts")
    parser.add_argument("--normalize", action="store_true", default=None, help="scale vectors to length 1")
    parser.add_argument(
        "--batch-tokens", type=int, metavar="N", help="most tokens in a batch (default: what suits the device)"
    )
    parser.add_argument(
        "--int8", action="store_true", help="linear layers in eight bits; prints what that costs on the first texts"
    )
    _add_engine(parser)
    add_encoder_options(parser)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="who encodes (default: local)")
    parser.add_argument("--ray-address", metavar="ADDRESS", help="of a cluster (default: Ray on this machine)")
    parser.add_argument("--ray-workers", type=positive, metavar="N", help="default: one a GPU, or one without any")


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--field", default="text", help="column or key of the text (default: text)")
    parser.add_argument("--id-field", metavar="NAME", help="column or key of the id (default: path and line)")
    parser.add_argument("--keep", nargs="+", default=[], metavar="COLUMN", help="columns to write beside the vectors")
    add_quoting(parser)
    parser.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="skip: rows that cannot be used go to a file of rejects (default: stop)",
    )


def _add_writing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=("float32", "float16", "int8", "binary"),
        default="float32",
        help="of what is written; int8 has a scale a row, binary a bit a number (default: float32)",
    )
    parser.add_argument(
        "--dimensions", type=positive, metavar="N", help="keep the first numbers, scaled to length 1 (Matryoshka)"
    )
    parser.add_argument("--shard-rows", type=positive, metavar="N", help="most rows of a shard (default: 32768)")
    parser.add_argument("--append", action="store_true", help="add the rows whose ids the output does not have")
    parser.add_argument("--shard", type=_part, metavar="I/N", help="only the I-th of N parts, for arrays of jobs")


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no part; 3/16 is the third of sixteen")
    return int(found[1]), int(found[2])


def run(arguments: argparse.Namespace) -> None:
    """Look at the inputs before the model is loaded."""
    from unmask.corpus.encode import Engine, carry_out
    from unmask.corpus.inputs import kept_stdin
    from unmask.corpus.plan import make_plan
    from unmask.corpus.ray_engine import RayEngine
    from unmask.corpus.shards import encode_shards
    from unmask.errors import DataError

    if arguments.int8 and arguments.engine == "ray":
        raise DataError("--int8 is for the local engine; leave it out with --engine ray.")
    engine: Engine = encode_shards
    if arguments.engine == "ray":
        engine = RayEngine(loading(arguments), arguments.ray_address, arguments.ray_workers)
    out, progress = Path(arguments.out), progress_wanted()
    with kept_stdin(arguments.inputs, out, arguments.shard) as stdin:
        plan = make_plan(arguments.inputs, out, _options(arguments), stdin=stdin, progress=progress)
        encoder = open_encoder(arguments)
        loss = put_in_int8(encoder, plan.sample(INT8_SAMPLE)) if arguments.int8 else {}
        done = carry_out(plan, encoder, name=arguments.encoder, engine=engine, progress=progress)
    rejects = f" (see {plan.output.rejects(plan.addition)})" if done.rejected else ""
    show(arguments, {**asdict(done), **loss}, note=f"{done}{rejects}")


def _options(arguments: argparse.Namespace) -> "CorpusOptions":
    from unmask.corpus.plan import CorpusOptions

    same = (
        *("field", "id_field", "quoting", "on_error", "prompt", "prompt_name", "normalize", "precision", "dimensions"),
        *("shard_rows", "append", "batch_tokens"),
    )
    given = {name: getattr(arguments, name) for name in same}
    return CorpusOptions(**given, keep=tuple(arguments.keep), part=arguments.shard)

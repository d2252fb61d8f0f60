"""`unmask encode ENCODER INPUT... --out OUT`: texts to a Parquet file of ids and vectors."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from unmask.cli.console import add_encoder_options, add_quoting, open_encoder, progress_wanted, put_in_int8, show

if TYPE_CHECKING:
    from unmask.encoder import TextEncoder

HELP = "encode txt, csv, tsv, JSON or Parquet files into a Parquet file of ids and vectors"
EXAMPLE = "encode pocket-bi articles.jsonl --field text --id-field id --out vectors.parquet"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("encoder", metavar="ENCODER", help="folder, hub id, or `pocket`")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="files; a txt file holds one text a line")
    parser.add_argument("--out", required=True, metavar="FILE", help="Parquet file to write")
    parser.add_argument("--field", default="text", help="column or key of the text (default: text)")
    parser.add_argument("--id-field", metavar="NAME", help="column or key of the id (default: path and line)")
    add_quoting(parser)
    parser.add_argument("--prompt", help="instruction put in front of every text")
    parser.add_argument("--prompt-name", metavar="NAME", help="one of the encoder's saved prompts")
    parser.add_argument("--normalize", action="store_true", default=None, help="scale vectors to length 1")
    parser.add_argument(
        "--batch-tokens", type=int, metavar="N", help="most tokens in a batch (default: what suits the device)"
    )
    parser.add_argument(
        "--int8", action="store_true", help="linear layers in eight bits; prints what that costs on the first texts"
    )
    add_encoder_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Look at the files before the model is loaded."""
    from unmask.corpus.encode import check_inputs, encode_files

    inputs, out = [Path(p) for p in arguments.inputs], Path(arguments.out)
    columns = {"field": arguments.field, "id_field": arguments.id_field, "quoting": arguments.quoting}
    check_inputs(inputs, out, **columns)
    encoder = open_encoder(arguments)
    loss = _int8(encoder, inputs, arguments) if arguments.int8 else {}
    count = encode_files(
        encoder,
        inputs,
        out,
        **columns,
        prompt=arguments.prompt,
        prompt_name=arguments.prompt_name,
        normalize=arguments.normalize,
        batch_tokens=arguments.batch_tokens,
        progress=progress_wanted(),
    )
    show(arguments, {"texts": count, "out": str(out), **loss}, note=f"{count:,} vectors written to {out}")


def _int8(encoder: "TextEncoder", inputs: list[Path], arguments: argparse.Namespace) -> dict[str, float]:
    """Change the encoder, by the first of its texts."""
    from unmask.data.records import read_records

    records = read_records(inputs[0], field=arguments.field, quoting=arguments.quoting)
    return put_in_int8(encoder, (record.text for record in records))

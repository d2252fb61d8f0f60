"""`unmask compress ENCODER --out DIR`: what training changed, as a small LoRA folder."""

import argparse
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from unmask.cli.console import add_json, check_new, positive, quiet_transformers, show

HELP = "keep what training changed, of full training too, as a small LoRA folder over the base model"
EXAMPLE = "compress runs/pocket/encoder --rank 16 --out pocket-lora --texts sentences.txt"
_SAMPLE, _WEIGH = 64, 512


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("encoder", metavar="ENCODER", help="encoder folder")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the adapter")
    parser.add_argument("--rank", type=positive, default=16, metavar="R", help="of each weight's change (default: 16)")
    parser.add_argument("--base", metavar="MODEL", help="what training began with (default: as the encoder says)")
    parser.add_argument(
        "--texts",
        required=True,
        metavar="FILE",
        help=f"like those to come: the first {_SAMPLE} are compared before and after, {_WEIGH} more say what counts",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Compress, open again, say what is lost."""
    check_new(arguments.out, folder=True)
    quiet_transformers()
    from unmask.data.records import read_records
    from unmask.encoder.compress import compress

    texts = [record.text for record in islice(read_records(Path(arguments.texts)), _SAMPLE + _WEIGH)]
    sample, weigh = texts[:_SAMPLE], texts[_SAMPLE:]
    found = compress(arguments.encoder, arguments.out, sample, rank=arguments.rank, base=arguments.base, weigh=weigh)
    smallest, mean = min(found.cosines), sum(found.cosines) / len(found.cosines)
    figures = asdict(found) | {"cosine_min": smallest, "cosine_mean": mean, "adapter": arguments.out}
    text = (
        f"{found.matrices} weights differ from the base; rank {arguments.rank} holds {found.kept:.1%} of what that "
        f"changes in layers' outputs, in {found.megabytes:.1f} MB\n"
        f"cosine to the encoder on {len(sample)} texts: mean {mean:.4f}, smallest {smallest:.4f}"
    )
    show(arguments, figures, text, f"adapter written to {arguments.out}")

"""`unmask push FOLDER OWNER/NAME`: an encoder folder or an export to the Hugging Face hub; `--dry-run` asks nobody."""

import argparse
from dataclasses import asdict

from unmask.cli.console import add_json, quiet_transformers, show, table

HELP = "upload an encoder folder or an export to the Hugging Face hub; --dry-run prints what would go"
EXAMPLE = "push pocket-bi my-name/pocket-encoder --dry-run"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("folder", metavar="FOLDER", help="of an encoder, or written by `unmask export`")
    parser.add_argument("repository", metavar="OWNER/NAME", help="on the hub")
    parser.add_argument("--dry-run", action="store_true", help="print what would go, and send nothing")
    parser.add_argument("--public", action="store_true", help="a new repository is for everybody (default: private)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Look at the folder, then send it."""
    quiet_transformers()
    from unmask.export.pushing import plan_push, push

    plan = plan_push(arguments.folder, arguments.repository, private=not arguments.public)
    address = None if arguments.dry_run else push(plan)
    total = sum(plan.files.values())
    rows = [[name, f"{size:,}"] for name, size in plan.files.items()]
    lines = [
        table(["file", "bytes"], [*rows, [f"{len(rows)} files", f"{total:,}"]]),
        f"checked: {plan.checked}",
        *(f"card: {key}: {value}" for key, value in plan.card.items()),
        *(f"note: {note}" for note in plan.notes),
        f"{plan.repository}, {'private' if plan.private else 'public'} if it is new",
    ]
    note = f"sent: {address}" if address else "nothing was sent"
    show(arguments, {**asdict(plan), "address": address}, "\n".join(lines), note)

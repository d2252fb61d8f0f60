"""`unmask report RUN...`: runs side by side, beside the paper's published figures."""

import argparse
from pathlib import Path

from unmask.cli.console import add_json, show, table

HELP = "several runs or saved results side by side, and the paper's published figures beside them"
EXAMPLE = "report runs/a runs/b --paper table4 --markdown"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="run folders, folders of `unmask eval mteb --out`, or files of `unmask eval ... --json`",
    )
    parser.add_argument(
        "--paper",
        nargs="+",
        default=[],
        metavar="TABLE",
        help="published figures: table1, table2, table4, table5, table11, table12, figure6",
    )
    parser.add_argument("--model", metavar="NAME", help="of the published figures, those of this model only")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """One table a measure, because accuracy, F1 and MTEB's scores do not belong into one column."""
    from unmask.evaluation.comparison import compare, read_published, read_runs

    rows = read_runs([Path(run) for run in arguments.runs])
    rows += [row for name in arguments.paper for row in read_published(name, arguments.model)]
    tables = compare(rows)
    blocks = []
    for one in tables:
        cells = [
            [
                row.label,
                *(_cell(row.values.get(column), column in row.approximate) for column in one.columns),
                row.source,
            ]
            for row in one.rows
        ]
        header = ["", *one.columns, "source"]
        body = _markdown(header, cells) if arguments.markdown else table(header, cells)
        blocks.append(f"{one.measure}\n\n{body}")
    show(arguments, {"tables": tables}, "\n\n".join(blocks))


def _cell(value: float | None, approximate: bool) -> str:
    return "-" if value is None else f"{'≈' if approximate else ''}{value:.2f}"


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["--:"] * (len(header) - 2), "---"], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

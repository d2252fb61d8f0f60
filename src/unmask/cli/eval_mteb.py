"""`unmask eval mteb ENCODER ...`: MTEB tasks through the mteb package."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from unmask.cli.console import MODEL_HELP, add_encoder_options, open_encoder, progress_wanted, show, table

HELP = "MTEB: the paper's 56 tasks, its subset of 15, any benchmark or task (needs the extra `mteb`)"
EXAMPLE = "eval mteb runs/mine/encoder --tasks paper-15 --out runs/mine/mteb"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("encoder", metavar="ENCODER", help=MODEL_HELP)
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=["paper-15"],
        metavar="NAME",
        help="paper (56), paper-15 (default), a benchmark such as 'MTEB(eng, v2)', or names of tasks",
    )
    parser.add_argument("--out", metavar="DIR", help="results; the same command resumes where it stopped")
    parser.add_argument(
        "--instructions",
        default="paper",
        metavar="NAME",
        help="paper (default): an instruction for every task, on queries and on both sides of symmetric tasks; none; "
        "or a JSON file of task -> text",
    )
    parser.add_argument("--dry-run", action="store_true", help="say how long it will take, and stop")
    add_encoder_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Say how long it takes, run, and report failures at the end."""
    from unmask.errors import RecipeError
    from unmask.evaluation.mteb import evaluate_mteb, finished_tasks, select_tasks
    from unmask.evaluation.mteb_instructions import load_instructions
    from unmask.evaluation.mteb_plan import plan_tasks

    if not arguments.out and not arguments.dry_run:
        raise RecipeError("--out DIR is needed: results are kept there, and a stopped run resumes from it.")
    load_instructions(arguments.instructions)
    logging.getLogger("mteb").setLevel(logging.ERROR)
    tasks = select_tasks(arguments.tasks)
    encoder = open_encoder(arguments)
    plans = plan_tasks(encoder, tasks)
    if arguments.dry_run and arguments.json:
        show(arguments, {"encoder": arguments.encoder, "task": "mteb", "plan": plans})
        return 0
    if arguments.dry_run:
        rows = [[p.task, p.category, _number(p.texts), _number(p.characters), _duration(p.seconds)] for p in plans]
        print(table(["task", "category", "texts", "mean length", "encoding"], rows))
    done: list[str] = []
    if arguments.out and Path(arguments.out).is_dir():
        done = finished_tasks(
            encoder, tasks, arguments.out, name=arguments.encoder, instructions=arguments.instructions
        )
        print(f"{len(done)} of {len(tasks)} tasks have scores in {arguments.out} already.", file=sys.stderr)
    left = [plan for plan in plans if plan.task not in done]
    known = [plan.seconds for plan in left if plan.seconds is not None]
    note = f"; {len(left) - len(known)} tasks of unknown size" if len(known) < len(left) else ""
    print(f"{len(left)} tasks, about {_duration(sum(known))} of encoding on this machine{note}.", file=sys.stderr)
    if arguments.dry_run:
        return 0
    result = evaluate_mteb(
        encoder,
        tasks,
        arguments.out,
        name=arguments.encoder,
        instructions=arguments.instructions,
        progress=progress_wanted(),
    )
    found = {"encoder": arguments.encoder, "task": "mteb", **result.to_dict()}
    show(arguments, found, _table(result) if result.scores else "")
    for task, reason in result.failures.items():
        print(f"unmask: {task} failed: {reason}", file=sys.stderr)
    return 1 if result.failures else 0


def _table(result: Any) -> str:
    rows = [[score.task, score.category, f"{score.score:.2f}", _duration(score.seconds)] for score in result.scores]
    rows += [[f"mean {category}", "", f"{score:.2f}", ""] for category, score in result.categories.items()]
    if result.average is not None:
        rows.append(["mean of all", "", f"{result.average:.2f}", ""])
    return table(["task", "category", "main score", "time"], rows)


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

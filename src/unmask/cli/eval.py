"""`unmask eval TASK ENCODER ...`: what an encoder is worth."""

from importlib import import_module
from typing import Any

TASKS = ("words", "sts", "pairs", "classification", "clustering", "retrieval", "reranking", "mteb")


def add_parser(commands: Any) -> None:
    """Add the command and its tasks; each family of tasks has a module of its own."""
    parser = commands.add_parser("eval", help=f"evaluate an encoder: {', '.join(TASKS)}")
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    for module in ("words", "sequences", "mteb"):
        import_module(f"unmask.cli.eval_{module}").add_tasks(tasks)

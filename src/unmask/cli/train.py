"""`unmask train RECIPE`: all stages of a recipe; resumes by itself."""

import argparse
from pathlib import Path

from unmask.cli.console import add_json, process_number, progress_wanted, quiet_transformers, rungs_table, show

HELP = "run a recipe: train every stage, evaluate every rung; resumes where it was stopped"
EXAMPLE = "train pocket-wiki --out runs/first --set seed=1 --set stages.mntp.steps=100"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "recipe", metavar="RECIPE", help="YAML file, or the name of a recipe that comes with the package"
    )
    parser.add_argument("--out", metavar="DIR", help="run folder (default: runs/NAME)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key, for example stages.mntp.lr=1e-4",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the resolved plan, parameters, tokens and memory")
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Read the recipe first: its mistakes cost no waiting."""
    from unmask.runs.recipe import load_recipe
    from unmask.runs.sources import check_files

    recipe = load_recipe(arguments.recipe, arguments.set)
    check_files(recipe)
    quiet_transformers()
    if arguments.dry_run:
        from unmask.runs.plan import make_plan
        from unmask.runs.rehearsal import measured

        plan = measured(make_plan(recipe), recipe)
        show(arguments, plan.to_dict(), plan.text())
        return
    from unmask.runs.run import train

    out = arguments.out or str(Path("runs") / recipe.name)
    result = train(recipe, out, progress=progress_wanted()).to_dict()
    if not process_number():
        show(arguments, result, rungs_table(result["rungs"]), f"encoder: {result['encoder']}")

"""`unmask eval TASK ENCODER ...`: what an encoder is worth. The options of a task are its settings."""

import argparse
import sys
from typing import Any, get_args, get_origin

from unmask.cli.console import (
    ENCODER_OPTIONS,
    MODEL_HELP,
    LazyParser,
    add_command,
    add_encoder_options,
    open_encoder,
    progress_wanted,
    show,
    table,
)

HELP = "evaluate an encoder: labelled words, sentence pairs, labelled texts, retrieval, MTEB"
EXAMPLE = ""
_SETTING = "setting "  # in front of a setting's name among the parsed arguments; no option is called like that


def add_options(parser: LazyParser) -> None:
    """Add the tasks, which are looked up when the command is used."""
    parser.fill = _add_tasks


def _add_tasks(parser: argparse.ArgumentParser) -> None:
    from unmask.cli import eval_mteb, eval_words
    from unmask.evaluation.tasks import TASKS

    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    add_command(tasks, "words", eval_words)
    for task in TASKS.values():
        if task.name != "words":
            _add_task(tasks, task)
    add_command(tasks, "mteb", eval_mteb)


def _add_task(tasks: Any, task: Any) -> None:
    """An option for each setting; a setting that the encoder has too, such as max_length, is left to it."""
    example = f"example: unmask eval {task.example}" if task.example else None
    parser = tasks.add_parser(task.name, help=task.help, epilog=example)
    parser.add_argument("encoder", metavar="ENCODER", help=MODEL_HELP)
    for name, setting in task.settings.model_fields.items():
        if name not in ENCODER_OPTIONS:
            parser.add_argument(
                "--data" if name in ("file", "folder") else f"--{name.replace('_', '-')}",
                dest=_SETTING + name,
                default=argparse.SUPPRESS,
                required=setting.is_required(),
                help=(setting.description or "").replace("%", "%%"),
                **_shape(name, setting.annotation),
            )
    add_encoder_options(parser)


def _shape(name: str, annotation: Any) -> dict[str, Any]:
    """How many values an option takes, and what they are called."""
    for kind in (annotation, *get_args(annotation)):
        if kind is bool:
            return {"action": "store_true"}
        if get_origin(kind) in (list, tuple):
            return {"nargs": "+" if get_origin(kind) is list else len(get_args(kind)), "metavar": "NAME"}
    return {"metavar": name.upper()}


def run(arguments: argparse.Namespace) -> None:
    """Read the data, then load the encoder."""
    from unmask.evaluation.tasks import TASKS, inputs

    task = TASKS[arguments.task]
    settings = _settings(arguments, task.settings)
    data = task.read(settings)
    note = task.note(data)
    if note:
        print(note, file=sys.stderr)
    figures = task.score(open_encoder(arguments), data, settings, progress_wanted())
    scored = [getattr(settings, name) for name, _ in inputs(task.settings)]  # what is tested on comes last
    head = {"encoder": arguments.encoder, "task": task.name, "data": scored[-1] if scored else None}
    text = table([task.name, ""], [[key, _cell(value)] for key, value in figures.items()])
    show(arguments, {**head, **figures}, text)


def _settings(arguments: argparse.Namespace, known: Any) -> Any:
    """The settings that the options say, checked as those of a recipe are."""
    from unmask.settings import checked

    given = {key.removeprefix(_SETTING): value for key, value in vars(arguments).items() if key.startswith(_SETTING)}
    return checked(known, given, strict=False)


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}"

"""What stands in front of the texts of an MTEB task: the paper's instructions (its Table 10), none, or a user's own."""

import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from unmask.errors import DataError
from unmask.files import read_json

Instructions = Literal["paper", "none"] | str
_RENAMED = {"Touche2020Retrieval": "Touche2020", "SummEvalSummarization": "SummEval"}
_VARIANT = re.compile(r"(HardNegatives|\.v\d+)+$")


def task_instructions(wanted: Instructions, tasks: Sequence[Any]) -> dict[str, str]:
    """What stands in front of the texts of each task, and of each part of a task that has parts.

    With `paper`, a later version of one of its tasks has that task's instruction; others have mteb's own, if any.

    Raises:
        DataError: a file that lacks one of the tasks, or cannot be read.
    """
    texts = load_instructions(wanted)
    if wanted == "none":
        return {}
    found: dict[str, str | None] = {}
    missing = []
    for task in tasks:
        own = wanted == "paper"
        whole, parts = _instruction(task.metadata, texts, own=own), getattr(task, "tasks", [])
        found[task.metadata.name] = whole
        for part in parts:
            text = _instruction(part.metadata, texts, own=own)
            found[part.metadata.name] = whole if text is None else text
        if any(found[one.metadata.name] is None for one in parts or (task,)):  # parts are what is read
            missing.append(task.metadata.name)
    if missing and wanted != "paper":
        raise DataError(f"{wanted} has no instruction for {', '.join(missing)}; an empty text stands for none.")
    return {name: text or "" for name, text in found.items()}


def _instruction(task: Any, texts: Mapping[str, str], *, own: bool) -> str | None:
    base = _VARIANT.sub("", task.name)
    for name in (task.name, base, _RENAMED.get(base, base)):
        if name in texts:
            return texts[name]
    prompt = task.prompt.get("query") if isinstance(task.prompt, dict) else task.prompt
    return f"{prompt}: " if own and prompt else None


def load_instructions(wanted: Instructions) -> dict[str, str]:
    """Task -> instruction as it stands in front of a text.

    Args:
        wanted: `paper` for Table 10, `none`, or a JSON file of task -> text that is used as it is.

    Raises:
        DataError: no such file, or something else in it.
    """
    if wanted == "none":
        return {}
    if wanted == "paper":
        data = json.loads((files("unmask") / "evaluation" / "instructions.json").read_text(encoding="utf-8"))
        return {task: text + data["separator"] for task, text in data["tasks"].items()}
    if not Path(wanted).is_file():
        raise DataError(f"--instructions {wanted!r}: choose paper, none, or a JSON file of task -> text.")
    found = read_json(Path(wanted))
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise DataError(f"{wanted}: expected one JSON object of task -> text.")
    return found

"""The table of evaluation tasks, one record each; recipes, runs, the command line and reports know no others."""

from unmask.errors import RecipeError
from unmask.evaluation.tasks.classification import CLASSIFICATION
from unmask.evaluation.tasks.clustering import CLUSTERING
from unmask.evaluation.tasks.record import InputFile, InputFolder, Measure, Task, inputs
from unmask.evaluation.tasks.retrieval import RERANKING, RETRIEVAL
from unmask.evaluation.tasks.similarity import PAIRS, STS
from unmask.evaluation.tasks.words import WORDS
from unmask.settings import Settings

__all__ = ["TASKS", "InputFile", "InputFolder", "Measure", "Settings", "Task", "inputs", "register_task"]

TASKS: dict[str, Task] = {
    task.name: task for task in (STS, PAIRS, CLASSIFICATION, CLUSTERING, RETRIEVAL, RERANKING, WORDS)
}
_TAKEN = ("masked", "tasks", "mteb")  # other keys of a recipe's evaluation, other words after `unmask eval`


def register_task(task: Task) -> None:
    """Add a task, for recipes, `unmask eval` and `unmask report` in this process.

    Raises:
        RecipeError: its name is taken, or is no plain word.
    """
    taken = task.name in (*TASKS, *_TAKEN) or hasattr(Settings, task.name)
    if taken or not task.name.isidentifier() or task.name.startswith("_"):
        raise RecipeError(f"An evaluation task cannot be called {task.name!r}: that is taken, or no plain word.")
    TASKS[task.name] = task

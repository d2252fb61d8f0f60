"""MTEB through the `mteb` package: the paper's tasks and instructions, resumable; a failed task costs only itself."""

import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from unmask.data.errors import LIBRARY_ERRORS
from unmask.encoder import Floats, TextEncoder
from unmask.errors import DataError, MissingExtraError, UnmaskError
from unmask.evaluation.comparison import subset_tasks
from unmask.evaluation.mteb_instructions import Instructions, load_instructions, task_instructions
from unmask.evaluation.quiet import quiet
from unmask.evaluation.tagger import weights_fingerprint
from unmask.files import read_json, write_json

try:
    import mteb
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta, ScoringFunction
    from mteb.types import PromptType
except ImportError as missing:
    raise MissingExtraError("MTEB needs the package mteb: pip install 'unmask[mteb]'") from missing

logger = logging.getLogger(__name__)
_PAPER = "MTEB(eng, v1)"
_PACKAGES = ("mteb", "torch", "transformers", "tokenizers", "numpy", "scikit-learn", "unmask")
_MEMO_BYTES = 1 << 30
# Of one task: what its download, its data and its scoring can raise. Anything else is a bug, or the machine's end.
_FAULTS: tuple[type[Exception], ...] = (UnmaskError, OSError, ImportError, ValueError, TypeError, LookupError)
_FAULTS += (AttributeError, ArithmeticError, RuntimeError, *LIBRARY_ERRORS)


@dataclass(frozen=True, slots=True)
class TaskScore:
    """One task's main score in percent, and the seconds it took (0 if an earlier run had it)."""

    task: str
    category: str
    score: float
    seconds: float


@dataclass(frozen=True, slots=True)
class MtebResult:
    """Scores in the order of the tasks, means, and what failed.

    Attributes:
        scores: of the tasks that have one.
        failures: task -> reason.
        categories: mean over the tasks of each category.
        average: mean over all tasks; None while a task is missing.
        settings: everything that the scores depend on.
    """

    scores: list[TaskScore]
    failures: dict[str, str]
    categories: dict[str, float]
    average: float | None
    settings: dict[str, Any] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def select_tasks(names: Sequence[str]) -> list[Any]:
    """Tasks by name: `paper` (its 56), `paper-15` (its subset), a benchmark such as `MTEB(eng, v2)`, or single tasks.

    A single task that `MTEB(eng, v1)` has is taken as it is there (English, test split).

    Raises:
        DataError: a name that mteb does not know.
    """
    tasks: dict[str, Any] = {}
    classic = {task.metadata.name: task for task in mteb.get_benchmark(_PAPER).tasks}
    for name in names:
        if name == "paper":
            found = list(classic.values())
        elif name == "paper-15":
            found = [classic[task] for task in subset_tasks()]
        elif name in classic:
            found = [classic[name]]
        else:
            found = _known_elsewhere(name)
        tasks |= {task.metadata.name: task for task in found}
    return list(tasks.values())


def _known_elsewhere(name: str) -> list[Any]:
    """The tasks of a benchmark, or one task, English where it has languages."""
    try:
        return list(mteb.get_benchmark(name).tasks)
    except (KeyError, ValueError):
        pass
    try:
        return [mteb.get_task(name, languages=["eng"], exclusive_language_filter=True)]
    except (KeyError, ValueError) as error:
        raise DataError(f"mteb knows no task or benchmark {name!r} ({str(error).splitlines()[0][:200]}).") from error


class MtebEncoder(AbsEncoder):  # type: ignore[misc]
    """A TextEncoder as mteb wants it.

    Symmetric tasks get the instruction on both sides; retrieval and reranking on queries, never on documents
    (section 3.2 of the paper). A text that a task asks for more than once is encoded once.
    """

    def __init__(self, encoder: TextEncoder, meta: ModelMeta, instructions: Mapping[str, str]) -> None:
        self.encoder = encoder
        self.mteb_model_meta = meta
        self.instructions = instructions
        self._memo: dict[str, Floats] = {}
        self._memo_of: tuple[str, str] = ("", "")

    def instruction(self, task: Any, prompt_type: PromptType | None) -> str:
        """What stands in front of a text of this task and side."""
        return "" if prompt_type == PromptType.document else self.instructions.get(task.name, "")

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **_: Any,
    ) -> Floats:
        """Vectors [texts, width] of the loader's texts, in order."""
        prompt = self.instruction(task_metadata, prompt_type)
        if self._memo_of != (task_metadata.name, prompt):
            self._memo, self._memo_of = {}, (task_metadata.name, prompt)
        texts = [text for batch in inputs for text in batch["text"]]
        new = [text for text in dict.fromkeys(texts) if text not in self._memo]
        vectors = self.encoder.encode(new, prompt=prompt)
        known = self._memo | dict(zip(new, vectors, strict=True))
        if len(known) * self.encoder.dimension * 4 <= _MEMO_BYTES:
            self._memo = known
        return np.stack([known[text] for text in texts])


def evaluate_mteb(
    encoder: TextEncoder,
    tasks: Sequence[Any],
    out: str | Path,
    *,
    name: str,
    instructions: Instructions = "paper",
    progress: bool = False,
) -> MtebResult:
    """Run tasks one after the other; what an earlier call with the same encoder and settings finished is not run again.

    Args:
        encoder: frozen.
        tasks: mteb's task objects; see `select_tasks`.
        out: folder: mteb's own result files, `settings.json`, `summary.json`.
        name: of the encoder, for the result files.
        instructions: see `load_instructions`.
        progress: show a bar.

    Raises:
        DataError: no task, or instructions that cannot be read.
    """
    if not tasks:
        raise DataError("There is no task to run.")
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be a folder for results ({error.strerror}).") from error
    texts = task_instructions(instructions, tasks)
    settings = _settings(encoder, name, instructions, texts)
    bridge = MtebEncoder(encoder, _meta(encoder, settings), texts)
    cache = mteb.ResultCache(folder)
    scores, failures, done = [], {}, []
    for task in tqdm(tasks, desc="mteb", unit="task", disable=not progress):
        own = task.metadata.name
        started = time.perf_counter()
        had = _has_result(cache, own, bridge.mteb_model_meta)
        try:
            score = _run(bridge, task, cache)
        except _FAULTS as error:  # told at the end; it costs no other task
            logger.debug("%s failed", own, exc_info=True)
            failures[own] = _reason(error)
            continue
        seconds = 0.0 if had else round(time.perf_counter() - started, 1)
        scores.append(TaskScore(own, task.metadata.type, score, seconds))
        done += [] if had else [own]
        _keep_settings(folder / "settings.json", settings, done)
    result = MtebResult(scores, failures, _means(scores), _average(scores, failures), settings)
    write_json(folder / "summary.json", _with_earlier(folder / "summary.json", result).to_dict())
    return result


def finished_tasks(
    encoder: TextEncoder, tasks: Sequence[Any], out: str | Path, *, name: str, instructions: Instructions
) -> list[str]:
    """Names of the tasks that a folder has scores of, for this very encoder and these settings."""
    settings = _settings(encoder, name, instructions, task_instructions(instructions, tasks))
    cache, meta = mteb.ResultCache(Path(out)), _meta(encoder, settings)
    names = [task.metadata.name for task in tasks]
    return [one for one in names if _has_result(cache, one, meta)]


def _has_result(cache: Any, task: str, meta: Any) -> bool:
    """True if a folder has a task's scores; a file that writing was cut short in is taken away."""
    try:
        return cache.load_task_result(task, meta) is not None
    except ValueError:
        cache.get_task_result_path(task, meta).unlink(missing_ok=True)
        return False


def _with_earlier(path: Path, result: MtebResult) -> MtebResult:
    """The result of a call with those of earlier calls of the same encoder and settings in the folder."""
    earlier = read_json(path, missing={})
    if (earlier.get("settings") or {}).get("revision") != result.settings["revision"]:
        return result
    told = {score.task for score in result.scores} | set(result.failures)
    kept = [TaskScore(**score) for score in earlier["scores"] if score["task"] not in told]
    scores = [*kept, *result.scores]
    failures = {task: why for task, why in earlier["failures"].items() if task not in told} | dict(result.failures)
    return MtebResult(scores, failures, _means(scores), _average(scores, failures), result.settings)


def _holds_more(result: Any, task: Any) -> bool:
    """Whether a results file has splits or subsets that are not asked for, of another benchmark."""
    held = {one["hf_subset"] for scores in result.scores.values() for one in scores}
    return not task.is_aggregate and not (set(result.scores) <= set(task.eval_splits) and held <= set(task.hf_subsets))


def _run(bridge: MtebEncoder, task: Any, cache: Any) -> float:
    """The main score of one task in percent."""
    try:
        with quiet():  # most of the paper's tasks have successors, and mteb says so at each
            found = mteb.evaluate(
                bridge,
                task,
                cache=cache,
                overwrite_strategy="only-missing",
                encode_kwargs={"batch_size": 512, "show_progress_bar": False},
                show_progress_bar=False,
                co2_tracker=False,
            )
    finally:
        if getattr(task, "data_loaded", False):
            task.unload_data()
    result = found.task_results[0]
    if _holds_more(result, task):
        result = result.validate_and_filter_scores(task)
    score = result.get_score() if result.scores else None
    if score is None or not np.isfinite(score):
        # mteb takes such a file for a finished task; without it the next call runs the task again
        for one in (task, *getattr(task, "tasks", [])):
            cache.get_task_result_path(one.metadata.name, bridge.mteb_model_meta).unlink(missing_ok=True)
        raise DataError(f"{task.metadata.name} has no score ({score}); are the vectors finite?")
    return round(100 * float(score), 4)  # mteb's files keep six digits


def _settings(encoder: TextEncoder, name: str, instructions: Instructions, texts: Mapping[str, str]) -> dict[str, Any]:
    """Everything that scores depend on; its hash names the results."""
    place = Path(name)
    known = {
        "encoder": str(place.resolve()) if place.is_dir() else name,  # however the folder was named
        "weights": weights_fingerprint(encoder),
        "settings": encoder.settings.model_dump(),
        "dtype": str(encoder.model.dtype).removeprefix("torch."),
        "instructions": instructions if instructions in ("paper", "none") else load_instructions(instructions),
        "attention": str(getattr(encoder.model.config.get_text_config(), "is_causal", None)),
    }
    revision = sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
    versions = {package: version(package) for package in _PACKAGES}
    rest = {"instruction_texts": dict(texts), "lineage": encoder.lineage, "versions": versions}
    return {"revision": revision, **known, "encoder": name, **rest}


def _keep_settings(path: Path, settings: dict[str, Any], done: Sequence[str]) -> None:
    """One entry for each revision that ever wrote into the folder, with the versions that made each of its scores."""
    kept = read_json(path, missing={})
    before = kept.get(settings["revision"], {})
    texts = before.get("instruction_texts", {}) | settings["instruction_texts"]
    versions = before.get("versions", {}) | dict.fromkeys(done, settings["versions"])
    write_json(path, {**kept, settings["revision"]: {**settings, "instruction_texts": texts, "versions": versions}})


def _meta(encoder: TextEncoder, settings: Mapping[str, Any]) -> ModelMeta:
    slug = re.sub(r"[^\w.-]+", "-", str(settings["encoder"]).strip("/")).strip("-.") or "encoder"
    return ModelMeta.create_empty(
        overwrites={
            "name": f"unmask/{slug}",
            "revision": settings["revision"],
            "similarity_fn_name": ScoringFunction.COSINE,
            "embed_dim": encoder.dimension,
            "max_tokens": encoder.settings.max_length,
            "use_instructions": bool(settings["instruction_texts"]),
        }
    )


def _means(scores: Sequence[TaskScore]) -> dict[str, float]:
    categories = dict.fromkeys(score.category for score in scores)
    return {
        category: float(np.mean([score.score for score in scores if score.category == category]))
        for category in categories
    }


def _average(scores: Sequence[TaskScore], failures: Mapping[str, str]) -> float | None:
    return None if failures or not scores else float(np.mean([score.score for score in scores]))


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"

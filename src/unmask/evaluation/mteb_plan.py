"""How long MTEB tasks will take, before they start: their sizes as mteb ships them, times this machine's speed."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unmask.encoder import TextEncoder

# English of ordinary word lengths; only its number of tokens matters.
_TEXT = "The committee met on Tuesday to discuss how the new water supply would be paid for by the towns nearby. "
_LENGTHS = (40, 400, 2000)  # characters
_SAMPLE = (32, 16, 8)  # texts
_PARTS = {
    "Classification": ("text_statistics",),
    "Clustering": ("text_statistics",),
    "PairClassification": ("text1_statistics", "text2_statistics"),
    "STS": ("text1_statistics", "text2_statistics"),
    "Retrieval": ("documents_text_statistics", "queries_text_statistics"),
    "Reranking": ("documents_text_statistics", "queries_text_statistics"),
    "Summarization": ("human_summaries_statistics", "machine_summaries_statistics"),
}


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """One task before it starts: different texts, their mean length in characters, seconds of encoding.

    Texts and seconds are None where mteb has no statistics of the task.
    """

    task: str
    category: str
    texts: int | None
    characters: float | None
    seconds: float | None


def plan_tasks(encoder: TextEncoder, tasks: Sequence[Any]) -> list[TaskPlan]:
    """Sizes of tasks and estimated seconds of encoding (downloads and scoring come on top)."""
    seconds_at = [_seconds_a_text(encoder, length, count) for length, count in zip(_LENGTHS, _SAMPLE, strict=True)]
    plans = []
    for task in tasks:
        name, category = task.metadata.name, task.metadata.type
        size = _size(task)
        if size is None:
            plans.append(TaskPlan(name, category, None, None, None))
            continue
        texts, characters = size
        mean = characters / max(1, texts)
        plans.append(TaskPlan(name, category, texts, mean, texts * float(np.interp(mean, _LENGTHS, seconds_at))))
    return plans


def _seconds_a_text(encoder: TextEncoder, length: int, count: int) -> float:
    texts = [(f"{number}. " + _TEXT * (length // len(_TEXT) + 1))[:length] for number in range(count)]
    encoder.encode(texts[:2])
    started = time.perf_counter()
    encoder.encode(texts)
    return (time.perf_counter() - started) / count


def _size(task: Any) -> tuple[int, int] | None:
    """Different texts and characters that a task sends to be encoded."""
    if getattr(task, "is_aggregate", False):
        sizes = [_size(part) for part in task.tasks]
        known = [size for size in sizes if size]
        return (sum(n for n, _ in known), sum(c for _, c in known)) if len(known) == len(sizes) else None
    statistics = task.metadata.descriptive_stats
    keys = _PARTS.get(task.metadata.type)
    if not statistics or keys is None:
        return None
    texts = characters = 0
    for split in task.eval_splits:
        for own in _subsets(task, statistics.get(split, {})):
            for key in keys:
                part = own[key]
                if part is None:  # pictures are not counted in characters
                    return None
                texts += part["unique_texts"]
                characters += round(part["average_text_length"] * part["unique_texts"])
    if task.metadata.type == "Classification" and task.train_split in statistics:
        for own in _subsets(task, statistics[task.train_split]):
            labels = own["label_statistics"]["labels"].values()
            drawn = sum(min(label["count"], task.samples_per_label * task.n_experiments) for label in labels)
            texts += drawn
            characters += round(drawn * own["text_statistics"]["average_text_length"])
    return texts, characters


def _subsets(task: Any, statistics: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    inner = statistics.get("hf_subset_descriptive_stats")
    return [inner[subset] for subset in task.hf_subsets if subset in inner] if inner else [statistics]

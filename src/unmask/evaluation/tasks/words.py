"""Labelled words in a recipe: the converged probe on the last layer. `unmask eval words` has options of its own."""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from unmask.data.words import ColumnFile
from unmask.evaluation.tasks.record import InputFile, Measure, Task
from unmask.settings import Position, Settings

if TYPE_CHECKING:
    from unmask.encoder import TextEncoder
    from unmask.evaluation.words import WordsData

_VARIANTS = ("", " (same)", " (previous)", " (auto)")  # the first position of a task names its figure


class WordsSettings(Settings):
    """Labelled words for a linear probe."""

    train: InputFile = Field(description="CoNLL columns, CoNLL-U; docs/reading.md")
    test: InputFile = Field(description="of the same form")
    word_column: int | None = Field(None, description="counted from 0; by default the first (CoNLL-U: FORM)")
    label_column: int | None = Field(None, description="counted from 0; by default the last (CoNLL-U: UPOS)")
    limit: int | None = Field(None, ge=1, description="train the probe on the first so many sentences")
    positions: list[Position] = Field(["same"], min_length=1, description="same, previous or auto; the first names it")


def _read(settings: WordsSettings) -> "WordsData":
    from unmask.evaluation.words import WordsData

    labels = None if settings.label_column is None else {"label": settings.label_column}
    train = ColumnFile(Path(settings.train), labels, settings.word_column, settings.limit)
    return WordsData(train, ColumnFile(Path(settings.test), labels, settings.word_column))


def _score(
    encoder: "TextEncoder", data: "WordsData", settings: WordsSettings, progress: bool
) -> dict[str, float | None]:
    from unmask.evaluation.words import evaluate_words

    results = evaluate_words(encoder, data, positions=settings.positions, progress=progress)
    figures: dict[str, float | None] = {}
    for asked in settings.positions:
        result = next(one for one in results if (one.chosen if asked == "auto" else one.position == asked))
        variant = "" if asked == settings.positions[0] else f" ({asked})"
        figures |= {f"accuracy{variant}": result.accuracy, f"f1{variant}": result.f1}
    return figures


WORDS = Task(
    name="words",
    help="labelled words: accuracy of a linear probe, and F1 of whole spans for BIO labels",
    settings=WordsSettings,
    read=_read,
    score=_score,
    revision=1,  # `auto` was `previous` for every encoder that went through MNTP
    measures=tuple(
        Measure(key, title, ending, variant)
        for variant in _VARIANTS
        for key, title, ending in (("accuracy", "token accuracy, %", ""), ("f1", "F1 of whole spans, %", " F1"))
    ),
)

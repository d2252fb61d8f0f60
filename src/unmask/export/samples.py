"""Sample texts on which an export is compared with its encoder, and how near two lists of vectors are."""

from dataclasses import dataclass

import numpy as np

from unmask.encoder import Floats, TextEncoder
from unmask.pooling import POOLINGS
from unmask.text.spans import special_affixes

_TEXTS = (
    *("The cat sat on the mat.", "word", "Two short sentences. In one text.", " a space before, and one behind "),
    *("2024-02-29: 1,234,567.89 EUR", "naïve café", "Русский текст", "日本語のテキスト", "نص عربي", "😀"),
    *("def f(x):\n    return x + 1", "<p>HTML &amp; a tab\there</p>", "UPPER lower MiXeD iPhone"),
)
_LONG = "A longer sentence about the history of rail transport in Great Britain and its many consequences. "
_LONGEST = 600  # words of the long text: enough to be cut where models of 512 tokens are cut


@dataclass(frozen=True, slots=True)
class Sample:
    """A text and the prompt in front of it."""

    text: str
    prompt: str = ""

    def __str__(self) -> str:
        shown = self.text if len(self.text) <= 40 else f"{self.text[:40]}..."
        return f"{shown!r} behind the prompt {self.prompt!r}" if self.prompt else repr(shown)


def samples_for(encoder: TextEncoder, *, prompts: bool) -> list[Sample]:
    """Short, long, cut, empty texts in several scripts; a few behind each saved prompt where `prompts` is asked for."""
    words = min(2 * encoder.settings.max_length, _LONGEST)
    long = (_LONG * (words // 15 + 1)).strip()
    # An empty text of a tokenizer that adds nothing has no token at all, which no other runtime can read.
    empty = [Sample("")] if any(special_affixes(encoder.tokenizer)) else []
    behind = [Sample(text, prompt) for prompt in encoder.settings.prompts.values() for text in (*_TEXTS[:4], long)]
    return [*map(Sample, (*_TEXTS, long)), *empty, *(behind if prompts else [])]


def pools_prompts(encoder: TextEncoder) -> bool:
    """True where a prompt makes no difference to which tokens a runtime that knows no prompts must pool."""
    settings = encoder.settings
    return settings.include_prompt or not POOLINGS[settings.pooling].averages


def vectors_of(encoder: TextEncoder, samples: list[Sample]) -> Floats:
    """What the encoder itself gives, [samples, width]."""
    found: Floats = np.empty((len(samples), encoder.dimension), dtype=np.float32)
    for prompt in dict.fromkeys(sample.prompt for sample in samples):
        rows = [row for row, sample in enumerate(samples) if sample.prompt == prompt]
        found[rows] = encoder.encode([samples[row].text for row in rows], prompt=prompt, compile=False)
    return found


def cosines(a: Floats, b: Floats) -> Floats:
    """The cosine of each pair, [samples]; 0 where one is not finite or has no length."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        found: Floats = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)

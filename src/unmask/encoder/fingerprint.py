"""A short id of what an encoder computes, made from its vectors of texts that stand here; never from names or settings.

Two parts of the vectors, each scaled to length 1, are projected on fixed random directions, and each projection is one
byte: the mean of all vectors, which shows what all texts have in common, and what each text has beside it. Without that
division encoders of one decoder would look alike, because its vectors are (a cosine of 0.9 between any two texts).

The distance of two ids is about that of the vectors they were made from. Rounding moves them a little and another
computation far, so ids are compared by `same`, never by `==`.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unmask.encoder.runner import Runner
from unmask.encoder.stream import Floats
from unmask.errors import DataError, EncodingError
from unmask.settings import EncoderSettings

# Of ids of the same encoder. Measured: bfloat16 0.014 and eight bits 0.023 on pocket, 0.015 and 0.054 on SmolLM2 as a
# causal model; weighted instead of plain mean 0.14 and 0.20, BOS in the mean 0.17, causal attention 0.46.
MOST_APART = 0.1
_BYTES = 16
_STEPS = 40  # of a byte in a standard deviation of the projections

# Plain prose without what runtimes disagree about (outer spaces, special tokens, other normal forms), short enough that
# none is cut. An id is worth nothing once a text here is changed.
TEXTS = (
    "The river had flooded the lower town by morning.",
    "How do I reset the password of my account?",
    "Tea",
    "Shares of the carmaker fell by 4.2% after it recalled 310,000 vehicles.",
    "def area(radius): return 3.14159 * radius ** 2",
    "She tuned the violin twice, then played the slow movement without looking at the notes.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "not bad at all",
    "The committee, which had met only once since the election, postponed its vote on the new harbour until the "
    "engineers could say how deep the channel would have to be.",
    "Der Zug nach Hamburg fährt heute von Gleis sieben.",
    "Take two tablets a day with food; call a doctor if the pain lasts longer than a week.",
    "In 1789 the prisoners of the Bastille numbered seven.",
    "Mix flour, butter and sugar, and bake for twenty minutes.",
    "The defendant denies every allegation in paragraph 12 of the complaint.",
    "La biblioteca cierra a las ocho.",
    "A goal in the last minute sent the small club to the final for the first time in forty years, and its supporters "
    "onto the streets.",
    "quantum error correction",
    "Why is the sky blue?",
    "The old bridge is closed to lorries.",
    "Penguins huddle together against the wind and take turns at the edge.",
    "Delivery took three weeks and the box was empty. Never again!",
    "Интернет изменил работу газет.",
    "She opened the account in March and closed it in May.",
    "The moon has no atmosphere, so its craters stay as they were made.",
)


def fingerprint_of(vectors: Floats) -> str:
    """The id of whatever made these vectors, 32 hexadecimal digits; lengths of vectors do not count.

    Args:
        vectors: of `TEXTS`, in their order, float [texts, width].

    Raises:
        DataError: not one vector for each text, or one that is not finite.
    """
    exact = np.asarray(vectors, dtype=np.float64)
    if exact.ndim != 2 or len(exact) != len(TEXTS) or not np.isfinite(exact).all():
        raise DataError(
            f"A fingerprint is made of {len(TEXTS)} finite vectors, one for each of its texts; these have the shape "
            f"{list(exact.shape)}{'' if np.isfinite(exact).all() else ' and are not all finite'}."
        )
    exact /= np.linalg.norm(exact, axis=1, keepdims=True).clip(min=1e-12)
    middle = exact.mean(axis=0)
    parts = [middle / max(1e-12, float(np.linalg.norm(middle)))]
    beside = exact - middle
    parts += list(beside / max(1e-12, float(np.linalg.norm(beside))))
    sums = np.sum([_projected(number, part) for number, part in enumerate(parts)], axis=0)
    return (sums / np.sqrt(2) * _STEPS).round().clip(-128, 127).astype(np.int8).tobytes().hex()


def is_fingerprint(said: object) -> bool:
    """Whether something is an id, as a file or server may say it."""
    return isinstance(said, str) and len(said) == 2 * _BYTES and not set(said) - set("0123456789abcdef")


def apart(one: str, other: str) -> float:
    """How far two ids are from each other: 0 for equal ones, about 1.4 where they have nothing to do with each other.

    Raises:
        DataError: something that is no id.
    """
    for name in (one, other):
        if not is_fingerprint(name):
            raise DataError(f"{name!r} is no fingerprint, which has {2 * _BYTES} hexadecimal digits.")
    first, second = (np.frombuffer(bytes.fromhex(name), dtype=np.int8).astype(np.float64) for name in (one, other))
    return float(np.sqrt(((first - second) ** 2).mean()) / _STEPS)


def same(one: str, other: str) -> bool:
    """Whether two ids are of encoders that compute the same, but for rounding (bfloat16, eight bits).

    Raises:
        DataError: something that is no id.
    """
    return apart(one, other) <= MOST_APART


class Encodes(Protocol):
    """What an encoder has that its id is made from."""

    runner: Runner

    @property
    def settings(self) -> EncoderSettings:
        """How texts become vectors."""

    def encode(self, texts: Sequence[str], *, compile: bool | None = None) -> Floats:
        """Vectors of texts."""


class Fingerprint:
    """The id of one encoder, computed when it is first asked for and once the encoder has changed."""

    def __init__(self) -> None:
        self._made: str | None = None
        self._state: Any = None

    def of(self, encoder: Encodes) -> str:
        """The id, of its vectors as it encodes when nothing else is said."""
        state = (encoder.runner.state(), encoder.settings)
        if self._made is None or self._state != state:
            self._made, self._state = fingerprint_of(encoder.encode(TEXTS, compile=False)), state
        return self._made

    def recorded(self, encoder: Encodes) -> str | None:
        """The id, or None for an encoder that cannot encode: it is saved all the same."""
        try:
            return self.of(encoder)
        except (DataError, EncodingError):
            return None


def _projected(number: int, vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """A vector [width] on the directions of one text, [bytes]; their signs are bits of SHAKE-128, equal everywhere."""
    stream = hashlib.shake_128(f"unmask fingerprint {number}".encode()).digest(len(vector) * _BYTES // 8)
    signs = np.unpackbits(np.frombuffer(stream, dtype=np.uint8)).reshape(len(vector), _BYTES)
    projected: NDArray[np.float64] = 2 * (vector @ signs) - vector.sum()
    return projected

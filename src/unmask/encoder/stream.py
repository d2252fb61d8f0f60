"""The one stream from texts to vectors: in order, in bounded memory, tokenizing ahead in a thread.

Everything that encodes runs on it: `encode`, files of texts, search, mining, evaluation.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypedDict, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from unmask.backbone.fast.compiling import layers_as_written
from unmask.encoder.runner import Runner
from unmask.errors import EncodingError
from unmask.settings import EncoderSettings
from unmask.text.batching import Batch
from unmask.text.reader import Reader
from unmask.text.spans import TokenizedText
from unmask.threads import look_around

Floats = NDArray[np.float32]
Key = TypeVar("Key")
Side = Literal["query", "document"]

_WINDOW_TEXTS = 4096  # tokenized and sorted at a time, so that memory does not grow with the input
_WINDOW_CHARACTERS = 1 << 24
_SAVED_PROMPTS: dict[Side | None, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}


class EncodeOptions(TypedDict, total=False):
    """What a call may say of how its texts are encoded; see `TextEncoder.encode`."""

    prompt: str | None
    prompt_name: str | None
    normalize: bool | None
    max_length: int | None
    batch_tokens: int | None
    compile: bool | None


class ShownOptions(EncodeOptions, total=False):
    """The same, and whether to show a bar."""

    progress: bool


Asked = TypeVar("Asked", EncodeOptions, ShownOptions)


def saved_prompt(settings: EncoderSettings, side: Side | None) -> str | None:
    """The name of the prompt that is saved for queries or for documents; None if there is none, or no side."""
    return next((name for name in _SAVED_PROMPTS.get(side, ()) if name in settings.prompts), None)


def with_saved_prompt(settings: EncoderSettings, side: Side, asked: Asked) -> Asked:
    """What was asked for, with the prompt that is saved for a side, unless another prompt is asked for."""
    name = saved_prompt(settings, side)
    if name is None or asked.get("prompt") is not None or asked.get("prompt_name") is not None:
        return asked
    return asked | {"prompt_name": name}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """What one stream of texts is encoded with.

    Attributes:
        prompt: instruction in front of every text.
        max_length: most tokens of a text; None for the encoder's.
        normalize: scale vectors to length 1.
        batch_tokens: most tokens in a batch; None for what suits the device.
        compile: compile the layers, or run them as they are written; None to compile them when it pays.
        total: how many texts will come, if that is known.
        advance: called with a number of texts whenever so many more are encoded.
    """

    prompt: str = ""
    max_length: int | None = None
    normalize: bool = False
    batch_tokens: int | None = None
    compile: bool | None = None
    total: int | None = None
    advance: Callable[[int], object] | None = None

    @classmethod
    def of(
        cls,
        reader: Reader,
        asked: EncodeOptions,
        *,
        total: int | None = None,
        advance: Callable[[int], object] | None = None,
    ) -> "StreamOptions":
        """What a call asked for, and where it said nothing what the settings say.

        Raises:
            DataError: no saved prompt has the name asked for.
        """
        normalize = asked.get("normalize")
        return cls(
            prompt=reader.prompt(asked.get("prompt"), asked.get("prompt_name")),
            max_length=asked.get("max_length"),
            normalize=reader.settings.normalize if normalize is None else normalize,
            batch_tokens=asked.get("batch_tokens"),
            compile=asked.get("compile"),
            total=total,
            advance=advance,
        )


@dataclass(frozen=True, slots=True)
class EncodedWindow:
    """One window of texts, encoded.

    Attributes:
        keys: of the texts, in order.
        vectors: float32 [texts, width].
        tokens: that the model read.
        cut: texts that were longer than the model reads.
    """

    keys: list[Any]
    vectors: Floats
    tokens: int
    cut: int


def stream_vectors(
    reader: Reader, runner: Runner, texts: Iterable[tuple[Key, str]], options: StreamOptions
) -> Iterator[tuple[list[Key], Floats]]:
    """Keys and vectors of texts, some thousand at a time, in the order given; see `stream_windows`."""
    for found in stream_windows(reader, runner, windows(texts), options):
        yield found.keys, found.vectors
        del found


def stream_windows(
    reader: Reader, runner: Runner, texts: Iterable[tuple[list[Any], list[str]]], options: StreamOptions
) -> Iterator[EncodedWindow]:
    """Vectors of windows of texts, in the order given. What a window holds decides the last bits of its vectors.

    The iterable is read in the caller's thread, no more than two windows ahead.

    Args:
        reader: tokenizer and settings.
        runner: the model.
        texts: keys of any kind, and their texts, as `windows` makes them.
        options: see there.

    Raises:
        DataError: something that is not a string.
        EncodingError: a vector that is not finite, with the numbers of the texts.
    """
    pace = _Pace(runner, options)
    for first, keys, window, tokenized in _tokenized_ahead(reader, texts, options):
        vectors = _window_vectors(reader, runner, tokenized, options, pace)
        check_finite(vectors, window, first=first)
        if options.normalize:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
        yield EncodedWindow(keys, vectors, sum(map(len, tokenized)), sum(text.truncated for text in tokenized))
        del keys, window, tokenized, vectors  # before the next window is read


def _window_vectors(
    reader: Reader, runner: Runner, tokenized: Sequence[TokenizedText], options: StreamOptions, pace: "_Pace"
) -> Floats:
    """Vectors [texts, width] of one window, not scaled."""
    pace.begin(tokenized)
    vectors = np.empty((len(tokenized), runner.dimension), dtype=np.float32)
    found: list[tuple[list[int], torch.Tensor]] = []
    for rows, batch in model_batches(reader, runner, tokenized, options.batch_tokens):
        found.append((rows, pace.vectors(batch)))
        if options.advance is not None:
            options.advance(len(rows))
    for rows, own in found:  # after all of them: a GPU is never waited for between two batches
        vectors[np.asarray(rows)] = own.cpu().numpy()
    return vectors


def model_batches(
    reader: Reader, runner: Runner, tokenized: Sequence[TokenizedText], batch_tokens: int | None
) -> Iterator[tuple[list[int], Batch]]:
    """Batches as the model can take them, on its device, with the numbers of their rows; makes the model ready."""
    runner.prepare()
    padded = not runner.padding_free
    look_around(runner.device.type)
    for found in reader.batches(tokenized, runner.budget(batch_tokens), runner.device, padded=padded):
        yield found
        look_around(runner.device.type)


class _Pace:
    """What is left of a stream, and the one decision about compiling that follows from it."""

    def __init__(self, runner: Runner, options: StreamOptions) -> None:
        self._runner = runner
        self._asked = options.compile
        self._wanted = bool(runner.wants("compile")) and options.compile is not False
        self._written = not self._wanted  # also where an earlier call has compiled the layers
        self._total = options.total
        self._before = runner.compiled.worked
        self._texts = self._left = 0

    def begin(self, tokenized: Sequence[TokenizedText]) -> None:
        """A window of texts is about to be encoded."""
        tokens = sum(len(text) for text in tokenized)
        self._texts += len(tokenized)
        self._wanted = self._wanted and bool(self._runner.padding_free)
        # Where nobody knows how many texts will come, as many again are expected as there were.
        later = self._texts if self._total is None else max(0, self._total - self._texts)
        self._left = tokens + tokens * later // max(1, len(tokenized))
        if self._wanted and self._asked:
            self._runner.compiled.attach(self._runner.model)

    def vectors(self, batch: Batch) -> torch.Tensor:
        """Vectors [texts, width] of the next batch."""
        self._left -= batch.num_tokens
        step = partial(self._runner.vectors, batch)
        if self._written:
            with layers_as_written():
                return step()
        if not self._wanted or self._asked is not None:
            return step()
        return self._runner.compiled.watch(step, batch.num_tokens, left=self._left, before=self._before)


Window = tuple[int, list[Any], list[str], list[TokenizedText]]


def _tokenized_ahead(
    reader: Reader, texts: Iterable[tuple[list[Any], list[str]]], options: StreamOptions
) -> Iterator[Window]:
    """Windows of texts: number of the first, keys, texts, and these tokenized while the window before is encoded."""
    source = iter(texts)
    ahead: deque[tuple[int, list[Any], list[str], Future[list[TokenizedText]]]] = deque()
    count = 0
    first = next(source, None)
    if first is None:
        return
    second = next(source, None)
    if second is None:  # no thread for a handful of texts
        keys, window = first
        yield 0, keys, window, reader.tokenize(window, options.prompt, max_length=options.max_length)
        return
    with ThreadPoolExecutor(1) as pool:

        def submit(keys: list[Any], window: list[str]) -> None:
            nonlocal count
            limit = options.max_length
            future = pool.submit(reader.tokenize, window, options.prompt, max_length=limit, first=count)
            ahead.append((count, keys, window, future))
            count += len(window)

        submit(*first)
        submit(*second)
        while ahead:
            number, keys, window, future = ahead.popleft()
            yield number, keys, window, future.result()
            del keys, window, future
            if (after := next(source, None)) is not None:
                submit(*after)


def windows(texts: Iterable[tuple[Any, str]]) -> Iterator[tuple[list[Any], list[str]]]:
    """Keys and texts, as many at a time as are held in memory."""
    keys: list[Any] = []
    window: list[str] = []
    characters = 0
    for key, text in texts:
        keys.append(key)
        window.append(text)
        characters += len(text) if isinstance(text, str) else 0
        if len(window) >= _WINDOW_TEXTS or characters >= _WINDOW_CHARACTERS:
            yield keys, window
            keys, window, characters = [], [], 0
    if window:
        yield keys, window


def check_finite(vectors: Floats, texts: Sequence[str], what: str = "texts", *, first: int = 0) -> None:
    """Refuse vectors that are not finite, by their numbers (from `first`) and the first text that has one."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        shown = ", ".join(str(first + row) for row in bad[:5]) + (" ..." if len(bad) > 5 else "")
        raise EncodingError(
            f"{len(bad)} of {len(vectors)} vectors are not finite ({what} {shown}; {texts[bad[0]][:60]!r}). "
            "Try dtype float32 or another attention implementation."
        )

"""The one thread that has the model: it takes the texts that wait, whoever sent them, and fills batches with them."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np

from unmask.encoder.runner import Runner
from unmask.encoder.stream import Floats, model_batches
from unmask.errors import RequestError
from unmask.text.reader import Reader
from unmask.text.spans import TokenizedText

logger = logging.getLogger(__name__)

_BATCHES_AHEAD = 4  # are sorted by length together, so that texts of like length share one
_SMOOTHING = 0.2  # weight of the latest batch in the rate


class Job:
    """The texts of one request on their way through the model.

    Args:
        texts: tokenized.
        dimension: width of the vectors.

    Attributes:
        texts: tokenized.
        vectors: float32 [texts, width], in the order of the texts; cancelling it drops what still waits.
        tokens_waiting: tokens of the texts that were not taken yet.
    """

    def __init__(self, texts: Sequence[TokenizedText], dimension: int) -> None:
        self.texts = texts
        self.vectors: Future[Floats] = Future()
        self._found: Floats = np.empty((len(texts), dimension), dtype=np.float32)
        self._next = 0
        self._missing = len(texts)
        self.tokens_waiting = sum(map(len, texts))

    @property
    def all_taken(self) -> bool:
        """True if no text waits any more."""
        return self._next == len(self.texts)

    def take(self, tokens: int) -> list[int]:
        """Numbers of the next texts, until they have so many tokens."""
        first, used = self._next, 0
        while not self.all_taken and used < tokens:
            used += len(self.texts[self._next])
            self._next += 1
        self.tokens_waiting -= used
        return list(range(first, self._next))

    def put(self, row: int, vector: Floats) -> None:
        """The vector of one text; with the last the request has its answer."""
        self._found[row] = vector
        self._missing -= 1
        if not self._missing and not self.vectors.done() and self.vectors.set_running_or_notify_cancel():
            self.vectors.set_result(self._found)

    def fail(self, error: Exception) -> None:
        """The request has no answer."""
        if not self.vectors.done() and self.vectors.set_running_or_notify_cancel():
            self.vectors.set_exception(error)


class Worker:
    """A queue of requests and the thread that works it off; a vector does not depend on what shares its batch.

    Requests come in the order they were sent, but one with more tokens than a batch goes behind the others after each
    batch of its own, so that small ones do not wait for all of it.

    Args:
        reader: tokenizer and settings.
        runner: the model; nothing else may use it meanwhile.
        batch_tokens: most tokens in a batch; None for what suits the device.
        watch: called with the tokens and texts of every batch that is done, before its answers go out.
    """

    def __init__(
        self, reader: Reader, runner: Runner, *, batch_tokens: int | None, watch: Callable[[int, int], object]
    ) -> None:
        self._reader, self._runner = reader, runner
        self._budget = runner.budget(batch_tokens)
        self._watch = watch
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._rate = 0.0  # tokens a second, of late
        self._thread = threading.Thread(target=self._work, name="unmask-model", daemon=True)
        self._thread.start()

    def submit(self, texts: Sequence[TokenizedText]) -> "Future[Floats]":
        """Queue the texts of one request; see `Job.vectors`."""
        job = Job(texts, self._runner.dimension)
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()
        return job.vectors

    def tokens_waiting(self) -> int:
        """Tokens that no batch has taken yet."""
        with self._changed:
            return sum(job.tokens_waiting for job in self._jobs if not job.vectors.done())

    def seconds_waiting(self) -> float:
        """How long what waits will take, by the rate of the last batches; 0 before the first."""
        return self.tokens_waiting() / self._rate if self._rate else 0.0

    def stop(self) -> None:
        """Work off what was queued, then end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while taken := self._take():
            try:
                self._encode(taken)
            except Exception as error:  # whatever it is, those who wait must be told, and others served
                logger.error("A batch failed (%s: %s).", type(error).__name__, error)
                logger.debug("Where it failed", exc_info=True)
                for job, _ in taken:
                    job.fail(
                        RequestError(
                            f"The model failed on a batch of this request ({type(error).__name__}).",
                            status=500,
                            code="server_error",
                        )
                    )
            taken.clear()  # nothing is kept while nobody asks

    def _take(self) -> list[tuple[Job, int]]:
        """Texts for the next few batches, as jobs and row numbers; none when the thread shall end."""
        taken: list[tuple[Job, int]] = []
        left = _BATCHES_AHEAD * self._budget
        with self._changed:
            while not taken:
                while self._jobs and left > 0:
                    job = self._jobs.popleft()
                    if job.vectors.done():  # its client has gone, or a batch with another of its texts failed
                        continue
                    rows = job.take(min(self._budget, left))
                    left -= sum(len(job.texts[row]) for row in rows)
                    taken += [(job, row) for row in rows]
                    if not job.all_taken:
                        self._jobs.append(job)
                if not taken:
                    if self._stopping:
                        break
                    self._changed.wait()
        return taken

    def _encode(self, taken: Sequence[tuple[Job, int]]) -> None:
        texts = [job.texts[row] for job, row in taken]
        for numbers, batch in model_batches(self._reader, self._runner, texts, self._budget):
            own = [taken[number] for number in numbers]
            if all(job.vectors.done() for job, _ in own):
                continue
            started = time.perf_counter()
            vectors = self._runner.vectors(batch).cpu().numpy()
            rate = batch.num_tokens / (time.perf_counter() - started)
            self._rate += (rate - self._rate) * (_SMOOTHING if self._rate else 1.0)
            self._watch(batch.num_tokens, len(own))  # first, so that who has an answer finds it counted
            for (job, row), vector in zip(own, vectors, strict=True):
                job.put(row, vector)

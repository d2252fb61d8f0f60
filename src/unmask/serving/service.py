"""From the body of a request to that of its answer; knows no HTTP."""

import asyncio
import base64
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from unmask.encoder import Floats, TextEncoder
from unmask.encoder.stream import check_finite, saved_prompt
from unmask.errors import DataError, EncodingError, RequestError
from unmask.serving.metrics import Metrics
from unmask.serving.requests import EmbeddingRequest, read_request
from unmask.serving.worker import Worker
from unmask.text.spans import TokenizedText

_THREADS = 2  # that read requests and write answers, while the event loop and the model go on


class Service:
    """One encoder, its worker and its metrics.

    Args:
        encoder: nothing else may use or change it meanwhile.
        name: what clients call it.
        batch_tokens: most tokens in a batch; None for what suits the device.
        normalize: scale vectors to length 1.

    Attributes:
        worker: the thread with the model.
        metrics: of this service.
        fingerprint: names what the encoder computes.
        requests_inside: requests accepted and not answered, which the event loop alone changes.
    """

    def __init__(
        self, encoder: TextEncoder, *, name: str, batch_tokens: int | None = None, normalize: bool = False
    ) -> None:
        self._encoder, self._name, self._normalize = encoder, name, normalize
        self._since = int(time.time())
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="unmask-texts")
        self.fingerprint = encoder.fingerprint()
        self.requests_inside = 0
        self.worker = Worker(encoder.reader, encoder.runner, batch_tokens=batch_tokens, watch=self._batch_done)
        self.metrics = Metrics(
            {"name": name, "fingerprint": self.fingerprint, "dimension": str(encoder.dimension)},
            requests_inside=lambda: self.requests_inside,
            tokens_waiting=self.worker.tokens_waiting,
        )

    def model(self) -> dict[str, Any]:
        """The encoder, as `/v1/models` lists it."""
        settings = self._encoder.settings
        return {
            "id": self._name,
            "object": "model",
            "created": self._since,
            "owned_by": "unmask",
            "fingerprint": self.fingerprint,
            "dimension": self._encoder.dimension,
            "max_length": settings.max_length,
            "prompts": sorted(settings.prompts),
        }

    def check_name(self, name: str | None) -> None:
        """Refuse a request for another encoder.

        Raises:
            RequestError: the name is not the one served.
        """
        if name not in (None, self._name):
            raise RequestError(
                f"No model {name!r} here; this server has {self._name!r}.",
                status=404,
                code="model_not_found",
                param="model",
            )

    async def answer(self, body: bytes) -> bytes:
        """The body of the answer; cancelling it drops the work that waits.

        Raises:
            RequestError: a body that is wrong, a vector that is not finite, a model that failed.
        """
        loop = asyncio.get_running_loop()
        request, texts = await loop.run_in_executor(self._pool, self._read, body)
        vectors = await asyncio.wrap_future(self.worker.submit(texts))
        return await loop.run_in_executor(self._pool, self._write, request, texts, vectors)

    def stop(self) -> None:
        """Work off what was accepted, then end all threads."""
        self.worker.stop()
        self._pool.shutdown()

    def _batch_done(self, tokens: int, texts: int) -> None:
        self.metrics.batch(tokens, texts)

    def _read(self, body: bytes) -> tuple[EmbeddingRequest, list[TokenizedText]]:
        request = read_request(body)
        self.check_name(request.model)
        encoder = self._encoder
        if request.dimensions is not None and request.dimensions > encoder.dimension:
            raise RequestError(
                f"dimensions: {request.dimensions} were asked for, this encoder has {encoder.dimension}.",
                status=422,
                code="invalid_request",
                param="dimensions",
            )
        prompt = encoder.reader.prompt(None, saved_prompt(encoder.settings, request.input_type))
        try:
            texts = encoder.reader.tokenize(request.input, prompt)
        except DataError as error:
            raise RequestError(str(error), status=422, code="invalid_request", param="input") from error
        cut = _truncated(texts)
        if cut and not request.truncate:
            shown = ", ".join(map(str, cut[:5])) + (" ..." if len(cut) > 5 else "")
            raise RequestError(
                f"input: {len(cut)} of {len(texts)} texts ({shown}) have more than {encoder.settings.max_length} "
                'tokens, prompt and special tokens included; shorten them, or leave "truncate" away.',
                status=422,
                code="context_length_exceeded",
                param="input",
            )
        self.metrics.truncated(len(cut))
        return request, texts

    def _write(self, request: EmbeddingRequest, texts: Sequence[TokenizedText], vectors: Floats) -> bytes:
        try:
            check_finite(vectors, request.input)
        except EncodingError as error:
            raise RequestError(str(error), status=500, code="not_finite", param="input") from error
        if request.dimensions is not None:
            vectors = vectors[:, : request.dimensions]
        if request.dimensions is not None or self._normalize:
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
        # Vector by vector, because the JSON of thousands at once would keep all other threads waiting.
        data = ",".join(
            f'{{"object":"embedding","index":{index},"embedding":{_written(vector, request.encoding_format)}}}'
            for index, vector in enumerate(vectors)
        )
        tokens = sum(map(len, texts))
        rest = {
            "model": self._name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "truncated": _truncated(texts),
        }
        return f'{{"object":"list","data":[{data}],{json.dumps(rest)[1:]}'.encode()


def _truncated(texts: Sequence[TokenizedText]) -> list[int]:
    """Numbers of the texts that were cut."""
    return [number for number, text in enumerate(texts) if text.truncated]


def _written(vector: Floats, encoding_format: str) -> str:
    """One vector as JSON."""
    if encoding_format == "base64":
        return f'"{base64.b64encode(vector.astype("<f4").tobytes()).decode()}"'
    return json.dumps(vector.tolist(), separators=(",", ":"))

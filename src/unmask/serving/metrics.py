"""What Prometheus may ask of a server."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKENS = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


class Metrics:
    """Counters of one server.

    Args:
        encoder: labels that name it.
        requests_inside: how many requests are accepted and not answered.
        tokens_waiting: how many tokens no batch has taken yet.
    """

    def __init__(
        self, encoder: dict[str, str], *, requests_inside: Callable[[], float], tokens_waiting: Callable[[], float]
    ) -> None:
        self._registry = CollectorRegistry()
        own = self._registry
        Info("unmask_encoder", "The encoder that is served", registry=own).info(encoder)
        inside = Gauge("unmask_requests_inside", "Requests accepted and not answered yet", registry=own)
        inside.set_function(requests_inside)
        waiting = Gauge("unmask_tokens_waiting", "Tokens that no batch has taken yet", registry=own)
        waiting.set_function(tokens_waiting)
        self._requests = Counter("unmask_requests", "Requests for vectors, by status", ["status"], registry=own)
        self._seconds = Histogram(
            "unmask_request_seconds", "From a request's headers to its answer", buckets=_SECONDS, registry=own
        )
        self._texts = Counter("unmask_texts", "Texts encoded", registry=own)
        self._tokens = Counter("unmask_tokens", "Tokens encoded", registry=own)
        self._truncated = Counter("unmask_truncated_texts", "Texts that were cut at max_length", registry=own)
        self._batches = Histogram("unmask_batch_tokens", "Tokens of a batch", buckets=_TOKENS, registry=own)

    def request(self, status: int, seconds: float) -> None:
        """A request has its answer; status 499 is a client that did not wait for it."""
        self._requests.labels(str(status)).inc()
        self._seconds.observe(seconds)

    def batch(self, tokens: int, texts: int) -> None:
        """A batch is encoded."""
        self._batches.observe(tokens)
        self._tokens.inc(tokens)
        self._texts.inc(texts)

    def truncated(self, texts: int) -> None:
        """So many texts of a request were cut."""
        self._truncated.inc(texts)

    def page(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self._registry)

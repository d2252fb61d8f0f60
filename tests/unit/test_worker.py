"""The thread with the model: texts of many requests in common batches, none lost, none waited for in vain."""

import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest

from unmask.errors import RequestError
from unmask.serving.worker import Worker


@pytest.fixture
def batches():
    return []


@pytest.fixture
def worker(bidirectional, batches):
    made = Worker(
        bidirectional.reader, bidirectional.runner, batch_tokens=256, watch=lambda *found: batches.append(found)
    )
    yield made
    made.stop()


@pytest.fixture
def held(bidirectional, monkeypatch):
    """The model waits until `held.set()`; `held.began` says that it has been asked."""
    vectors, gate = bidirectional.runner.vectors, threading.Event()
    gate.began = threading.Event()

    def wait(batch):
        gate.began.set()
        assert gate.wait(60)
        return vectors(batch)

    monkeypatch.setattr(bidirectional.runner, "vectors", wait)
    yield gate
    gate.set()


def test_requests_share_batches_and_get_their_own_vectors(bidirectional, worker, held, batches):
    texts = [[f"text {i} of {n}" for i in range(n)] for n in (1, 3, 2, 5, 1, 4)]
    waiting = [worker.submit(bidirectional.tokenize(some)) for some in texts]
    held.set()
    for some, future in zip(texts, waiting, strict=True):
        np.testing.assert_allclose(future.result(60), bidirectional.encode(some), atol=1e-5)
    assert len(batches) <= 3
    assert sum(count for _, count in batches) == 16
    assert worker.tokens_waiting() == 0


def test_what_is_cancelled_is_not_encoded(bidirectional, worker, held, batches):
    first = worker.submit(bidirectional.tokenize(["first"]))
    assert held.began.wait(60)
    gone = worker.submit(bidirectional.tokenize(["a long text " * 50] * 50))
    last = worker.submit(bidirectional.tokenize(["last"]))
    assert gone.cancel()
    held.set()
    assert len(first.result(60)) == len(last.result(60)) == 1
    with pytest.raises(CancelledError):
        gone.result(0)
    worker.stop()
    assert sum(count for _, count in batches) == 2


def test_a_large_request_lets_small_ones_pass(bidirectional, worker, held, batches):
    large = worker.submit(bidirectional.tokenize(["a long text " * 20] * 200))
    assert held.began.wait(60)
    small = worker.submit(bidirectional.tokenize(["small"]))
    held.set()
    small.result(60)
    assert not large.done()
    assert len(large.result(120)) == 200


def test_a_failure_is_told_to_those_it_concerns_and_to_nobody_else(bidirectional, worker, monkeypatch):
    def fail(batch):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(bidirectional.runner, "vectors", fail)
        lost = worker.submit(bidirectional.tokenize(["one"]))
        with pytest.raises(RequestError, match="RuntimeError") as error:
            lost.result(60)
        assert error.value.status == 500
    assert len(worker.submit(bidirectional.tokenize(["two"])).result(60)) == 1


def test_what_was_queued_is_worked_off_before_the_end(bidirectional, worker, held):
    waiting = [worker.submit(bidirectional.tokenize([f"text {n}"])) for n in range(20)]
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    held.set()
    stopping.join(60)
    assert all(len(future.result(0)) == 1 for future in waiting)

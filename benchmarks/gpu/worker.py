"""The pieces, and the process that runs them one after the other.

A process that starts anew for each piece would import for half of the time; one that hangs or dies must not take the
rest with it. So pieces share a process until one of them fails, and the next goes on in a fresh one: what is left of a
broken device context cannot be trusted.
"""

import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.gpu.setup import Row, Setup


@dataclass(frozen=True, slots=True)
class Piece:
    """A function that yields rows, and the most seconds it may take."""

    run: Callable[[Setup], Iterator[Row]]
    limit: float


def pieces(*, tiny: bool) -> dict[str, Piece]:
    """By name, in their order, what matters most first; where all models are tiny, nothing is done twice."""
    from benchmarks.gpu.attention import attention
    from benchmarks.gpu.encoding import encode
    from benchmarks.gpu.training import train

    def step(name: str, objective: str, tuning: str) -> Piece:
        return Piece(partial(train, name=name, objective=objective, tuning=tuning), 75)

    every = {
        "attention, one layer": Piece(attention, 30),
        "encode 135M": Piece(partial(encode, name="135m"), 90),
        "encode 0.6B": Piece(partial(encode, name="0.6b"), 90),
        "MNTP, LoRA, 0.6B": step("0.6b", "mntp", "lora"),
        "SimCSE, LoRA, 0.6B": step("0.6b", "simcse", "lora"),
        "supervised, LoRA, GradCache, 0.6B": step("0.6b", "supervised", "lora"),
        "MNTP, full, 135M": step("135m", "mntp", "full"),
        "encode 1B": Piece(partial(encode, name="1b"), 90),
        "MNTP, QLoRA, 1B": step("1b", "mntp", "qlora"),
    }
    return {name: p for name, p in every.items() if not tiny or name not in ("encode 0.6B", "encode 1B")}


class Worker:
    """Runs pieces in a process of its own.

    Args:
        setup: where and how large.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._process: Any = None
        self._pipe: Any = None

    def run(self, name: str, seconds: float) -> dict[str, Any]:
        """One piece: its rows as far as they came, seconds, and what went wrong if anything did."""
        rows: list[Row] = []
        started = time.perf_counter()
        error = self._run(name, seconds, rows)
        if error:
            self.stop()
        took = round(time.perf_counter() - started, 1)
        return {"name": name, "seconds": took, "rows": rows, **({"error": error} if error else {})}

    def _run(self, name: str, seconds: float, rows: list[Row]) -> str | None:
        ends = time.perf_counter() + seconds
        if self._process is None:
            context = multiprocessing.get_context("spawn")  # a device cannot be used in a fork
            self._pipe, other = context.Pipe()
            self._process = context.Process(target=_serve, args=(other, self._setup))
            self._process.start()
            other.close()
        try:
            self._pipe.send(name)
            while True:
                if not self._pipe.poll(max(0.0, ends - time.perf_counter())):
                    return f"took longer than {seconds:.0f} s"
                kind, value = self._pipe.recv()
                if kind == "row":
                    rows.append(value)
                else:
                    return value
        except (EOFError, OSError):
            self._process.join(10)
            return f"the process ended with code {self._process.exitcode}"

    def stop(self, wait: float = 0) -> None:
        """End the process; one that is idle ends by itself within some seconds."""
        if self._process is not None:
            self._pipe.close()
            self._process.join(wait)
            self._process.kill()
            self._process.join()
            self._process = None


def _serve(pipe: Connection, setup: Setup) -> None:
    """Run the pieces that are named until nobody asks for more."""
    known = pieces(tiny=setup.tiny)
    while True:
        try:
            name = pipe.recv()
        except EOFError:
            return
        try:
            for row in known[name].run(setup):
                pipe.send(("row", row))
        except Exception as error:  # whatever it is, it is what is to be reported
            traceback.print_exc()
            pipe.send(("done", f"{type(error).__name__}: {str(error).strip()[:300]}"))
        else:
            pipe.send(("done", None))

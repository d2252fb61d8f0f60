"""Shards encoded by Ray, on one machine or a cluster: an actor pool that holds the model, the same files as ever.

Ray decides who encodes what and starts anew what died; a shard is there when its rename is, whoever wrote it, so a
worker that is given a shard twice passes over it.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unmask.corpus.shards import Job, encode_shards
from unmask.corpus.table import Totals
from unmask.encoder import TextEncoder
from unmask.encoder.fingerprint import same
from unmask.errors import CorpusError, DataError, MissingExtraError, UnmaskError

_PATIENCE = 10  # seconds until an address answers
_RUNS = 4  # of shards for each worker: each run reads its inputs from their beginning


@dataclass(frozen=True, slots=True)
class RayEngine:
    """Encodes shards on Ray.

    Args:
        opening: what each worker gives to `TextEncoder.load`, `name` among it.
        address: of a cluster; None for one on this machine.
        workers: how many; None for one a GPU, or one where there is none.
    """

    opening: Mapping[str, Any] = field(default_factory=dict)
    address: str | None = None
    workers: int | None = None

    def __call__(
        self, encoder: TextEncoder, job: Job, numbers: Sequence[int], advance: Callable[[int], object]
    ) -> Iterator[Totals]:
        """As `encode_shards`.

        Raises:
            UnmaskError: what a worker has raised.
            CorpusError: Ray itself has failed.
            DataError: nothing answers at the address.
            MissingExtraError: it is not installed.
        """
        _check_address(self.address or os.environ.get("RAY_ADDRESS"))
        ray = _ray()
        began = not ray.is_initialized()
        try:
            if began:
                own = {} if self.address or "RAY_ADDRESS" in os.environ else {"include_dashboard": False}
                ray.init(self.address, log_to_driver=False, logging_level=logging.ERROR, **own)
            for row in self._dataset(ray, encoder, _absolute(job), numbers).iter_rows():
                totals = Totals(**row)
                advance(totals.rows)
                yield totals
        except UnmaskError:
            raise
        except (ray.exceptions.RayError, ConnectionError) as error:
            raise _ours(error) from error
        finally:
            if began:
                ray.shutdown()

    def _dataset(self, ray: Any, encoder: TextEncoder, job: Job, numbers: Sequence[int]) -> Any:
        """Runs of shards, encoded as they are read."""
        found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        machines = [(int(one.get("CPU", 0)), int(one.get("GPU", 0))) for one in found]
        gpus = sum(own for _, own in machines)
        workers = min(self.workers or gpus, gpus) or self.workers or 1
        runs = _runs(numbers, _RUNS * workers)
        ray.data.DataContext.get_current().enable_progress_bars = False
        opening = {
            **self.opening,
            "name": _resolved(self.opening["name"]),
            "adapters": [_resolved(adapter) for adapter in self.opening.get("adapters", ())],
            "dtype": job.manifest.settings["dtype"],  # as it is here: a worker may have other hardware
        }
        return ray.data.from_items([{"shards": run} for run in runs], override_num_blocks=len(runs)).flat_map(
            _Worker,
            fn_constructor_kwargs={"opening": opening, "job": job, "fingerprint": encoder.fingerprint()},
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=cpus_each(machines, workers),
            num_gpus=1 if gpus else None,
        )


class _Worker:
    """One model in a process of its own.

    Args:
        opening: of the encoder.
        job: what is encoded.
        fingerprint: of the encoder of whoever began.
    """

    def __init__(self, opening: Mapping[str, Any], job: Job, fingerprint: str) -> None:
        self._encoder, self._job = TextEncoder.load(**opening), job
        if not same(self._encoder.fingerprint(), fingerprint):
            raise DataError(f"{opening['name']} is another encoder on this worker ({os.uname().nodename}).")

    def __call__(self, row: dict[str, Any]) -> list[dict[str, int]]:
        """Encode a run of shards; what was in each that was not there."""
        missing = self._job.missing([int(number) for number in row["shards"]])
        found = encode_shards(self._encoder, self._job, missing) if missing else ()
        return [{"rows": one.rows, "tokens": one.tokens, "cut": one.cut} for one in found]


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as missing:
        raise MissingExtraError("--engine ray needs the package ray: pip install 'unmask[ray]'") from missing
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _check_address(address: str | None) -> None:
    """Ray itself would ask for minutes.

    Raises:
        DataError: no address, or one where nothing answers.
    """
    if address in (None, "auto", "local"):
        return
    host, _, port = str(address).removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise DataError(f"{address} is no address of a Ray cluster; expected HOST:PORT, ray://HOST:PORT or auto.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise DataError(f"No Ray cluster answers at {address} ({error}).") from error


def cpus_each(machines: Sequence[tuple[int, int]], workers: int) -> float:
    """The most CPUs a worker can have if all workers are to find room.

    Args:
        machines: CPUs and GPUs of each; where there are GPUs, a worker has one.
        workers: how many.
    """
    if any(gpus for _, gpus in machines):
        rooms = [cpus / gpus for cpus, gpus in machines for _ in range(gpus)]
        least = min(rooms)
        return int(least) or least
    rooms = [cpus for cpus, _ in machines]
    whole = (each for each in range(int(max(rooms)), 0, -1) if sum(room // each for room in rooms) >= workers)
    return next(whole, sum(rooms) / (workers + len(rooms)))


def _resolved(name: str) -> str:
    return str(Path(name).resolve()) if Path(name).exists() else name


def _absolute(job: Job) -> Job:
    """The same for processes that run elsewhere."""
    inputs = tuple(replace(one, path=one.path and one.path.resolve()) for one in job.inputs)
    return replace(job, folder=job.folder.resolve(), inputs=inputs)


def _runs(numbers: Sequence[int], most: int) -> list[list[int]]:
    """Shards in at most so many runs of nearly equal length."""
    count = min(most, len(numbers))
    return [list(numbers[len(numbers) * i // count : len(numbers) * (i + 1) // count]) for i in range(count)]


def _ours(error: BaseException) -> UnmaskError:
    """What a worker has raised, out of what Ray makes of it."""
    cause: BaseException | None = error
    while cause is not None:
        inner = getattr(cause, "cause", None) or cause.__cause__
        if isinstance(inner, UnmaskError):
            return inner
        cause = inner if isinstance(inner, BaseException) else None
    return CorpusError(f"Ray stopped: {str(error).strip().splitlines()[0]}. What was written stays.")

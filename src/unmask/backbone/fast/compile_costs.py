"""What compiling the layers costs on this machine and what it wins: measured in a stream, kept on disk, weighed.

The figures lie in the folder where torch keeps what it compiled: who empties it has neither graphs nor figures.
"""

import hashlib
import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
import transformers
from torch import nn

from unmask.backbone.fast import operators
from unmask.backbone.fast.int8 import Int8Linear
from unmask.backbone.structure import decoder_layers, text_config
from unmask.errors import ArtifactError
from unmask.files import read_json, write_json

_LOG = logging.getLogger(__name__)
_COLD_SECONDS = 13.0  # with nothing on disk
# Where products are faster, the rest counts for more; in eight bits it is rounding and scaling, a pass each as written.
_GAIN, _GAIN_BY_AMX, _GAIN_IN_INT8 = 1.1, 1.4, 3.0
_NO_GAIN = 1.02  # no more than one run differs from the next
_FROM_DISK = 0.25  # of what compiling took the first time, at most, for the next process, which finds graphs on disk
_PAIRS = 5


@dataclass(frozen=True, slots=True)
class Costs:
    """What compiling layers of one kind costs and wins.

    Attributes:
        seconds: the least that compiling took.
        gain: tokens a second of compiled layers over those of the same as written.
        times: how often both were measured; 0 if they are assumed.
    """

    seconds: float
    gain: float
    times: int

    @classmethod
    def assumed(cls, model: nn.Module) -> "Costs":
        """Where nothing was measured yet."""
        if any(isinstance(module, Int8Linear) for module in model.modules()):
            return cls(_COLD_SECONDS, _GAIN_IN_INT8, 0)
        by_amx = next(model.parameters()).dtype == torch.bfloat16 and operators.has_amx()
        return cls(_COLD_SECONDS, _GAIN_BY_AMX if by_amx else _GAIN, 0)

    @property
    def worth(self) -> float:
        """The seconds of work, as written, from which on compiling in a new process pays; infinite if it never does."""
        if self.gain <= _NO_GAIN:
            return math.inf
        cost = self.seconds * _FROM_DISK if self.times == 1 else self.seconds
        return cost / (1 - 1 / self.gain)

    def measured(self, seconds: float, gain: float) -> "Costs":
        """With what was measured once more; a gain counts as much as all before it."""
        if not self.times:
            return Costs(seconds, gain, 1)
        return Costs(min(self.seconds, seconds), (self.gain + gain) / 2, self.times + 1)


class Trial:
    """Compiled layers against the same as written: the batches of a stream by turns, since neighbours are alike.

    The first batch compiles. After it odd turns are as written, even ones compiled.

    Args:
        pace: seconds a token of layers as written.

    Attributes:
        seconds: that compiling took.
        turn: of the batch to come.
    """

    def __init__(self, pace: float) -> None:
        self._pace = pace
        self._found: list[float] = []  # seconds a token, of both kinds in turn
        self.seconds = 0.0
        self.turn = 0

    @property
    def compiled(self) -> bool:
        """Whether the batch to come is for compiled layers."""
        return self.turn % 2 == 0

    @property
    def gain(self) -> float | None:
        """Tokens a second over those of layers as written; None before the trial is over."""
        if len(self._found) < 2 * _PAIRS:
            return None
        return median(plain / fast for plain, fast in zip(self._found[::2], self._found[1::2], strict=True))

    def record(self, tokens: int, seconds: float, busy: float) -> None:
        """A batch is done.

        Args:
            tokens: of the batch.
            seconds: by the clock.
            busy: seconds that this thread had a core, so that other work on the machine counts for neither side.
        """
        if self.turn:
            self._found.append(max(busy, 1e-9) / tokens)
        else:
            self.seconds = max(0.0, seconds - self._pace * tokens)
        self.turn += 1


def costs_file(model: nn.Module) -> Path | None:
    """The file of all layers with the graphs of this model; None where torch keeps nothing on disk."""
    folder = operators.compiler_cache()
    if folder is None:
        return None
    config = text_config(model)
    facts = [
        {name: value for name, value in config.to_dict().items() if name != "_name_or_path"},
        str(config._attn_implementation),
        sorted({repr(layer) for layer in decoder_layers(model)}),
        str(next(model.parameters()).dtype),
        [torch.backends.cpu.get_cpu_capability(), operators.has_amx(), torch.get_num_threads()],
        [torch.__version__, transformers.__version__],
    ]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
    return folder / f"unmask-{key[:16]}.json"


def read_costs(path: Path) -> Costs | None:
    """What was measured; None if nothing was, or the file is not one of ours."""
    try:
        found = read_json(path)
        costs = Costs(float(found["seconds"]), float(found["gain"]), int(found["times"]))
    except (ArtifactError, LookupError, TypeError, ValueError, OverflowError):
        return None
    sound = 0 <= costs.seconds < math.inf and 0 < costs.gain < math.inf and costs.times > 0
    return costs if sound else None


def write_costs(path: Path, costs: Costs) -> None:
    """Keep what was measured, where that is possible."""
    try:
        write_json(path, asdict(costs))
    except OSError as error:
        _LOG.info("What compiling costs is not kept in %s (%s).", path, error.strerror)

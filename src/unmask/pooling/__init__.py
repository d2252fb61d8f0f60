"""The table of poolings: how token states become one vector. Names and facts here, arithmetic in `modules`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unmask.errors import ArtifactError


@dataclass(frozen=True, slots=True)
class Pooling:
    """One pooling.

    Attributes:
        build: width of the states -> a torch module (states, lengths, pooled, real) -> vectors, see `modules` for
            shapes; its weights, if it has any, are trained and saved with the encoder.
        averages: tokens are averaged, so that those outside the span must be left out one by one.
        layout: what sentence-transformers calls it, and its older boolean key; None where it has no such pooling.
    """

    build: Callable[[int], Any]
    averages: bool = False
    layout: tuple[str, str] | None = None


def _plain(how: Any) -> Callable[[int], Any]:
    def build(_: int) -> Any:
        from unmask.pooling.modules import PlainPooling  # torch, which settings do not need

        return PlainPooling(how)

    return build


POOLINGS: dict[str, Pooling] = {
    "mean": Pooling(_plain("mean"), True, ("mean", "pooling_mode_mean_tokens")),
    "weighted_mean": Pooling(_plain("weighted_mean"), True, ("weightedmean", "pooling_mode_weightedmean_tokens")),
    "last": Pooling(_plain("last"), layout=("lasttoken", "pooling_mode_lasttoken")),
    "eos": Pooling(_plain("eos"), layout=("lasttoken", "pooling_mode_lasttoken")),
    "first": Pooling(_plain("first"), layout=("cls", "pooling_mode_cls_token")),
}


def register_pooling(name: str, pooling: Pooling) -> None:
    """Add a pooling under a new name; settings, recipes and encoder folders then know it.

    Raises:
        ArtifactError: the name is taken.
    """
    if name in POOLINGS:
        raise ArtifactError(f"There is a pooling named {name!r} already.")
    POOLINGS[name] = pooling

"""The table of losses that a contrastive stage may name in `loss:`; settings here, arithmetic in objectives/losses."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SerializeAsAny

from unmask.errors import RecipeError
from unmask.settings import Settings


class LossSettings(Settings):
    """Base of a loss's settings."""

    kind: str

    def build(self) -> Any:
        """The loss; see `unmask.objectives.losses.Loss` for what it must do."""
        raise NotImplementedError


class InfoNceSettings(LossSettings):
    """InfoNCE; these are the keys that contrastive stages have themselves."""

    kind: str = "infonce"
    scale: float = Field(20.0, gt=0, description="factor on the cosine, 1 / temperature")
    both_directions: bool = Field(False, description="positives also look for their query")
    mask_duplicates: bool = Field(True, description="a text equal to the query or its positive is no negative")
    mask_same_document: bool = Field(True, description="positives of one document are no negatives of each other")
    false_negative_margin: float | None = Field(
        None, description="a candidate whose cosine exceeds the positive's by more than this does not count"
    )

    def build(self) -> Any:
        """See `InfoNce`."""
        from unmask.objectives.losses import InfoNce  # torch, which recipes do not need

        return InfoNce(**self.model_dump(exclude={"kind"}))


LOSSES: dict[str, type[LossSettings]] = {"infonce": InfoNceSettings}


def register_loss(kind: str, settings: type[LossSettings]) -> None:
    """Add a loss, for the `loss:` of recipes that are read in this process.

    Raises:
        RecipeError: the kind is taken.
    """
    if kind in LOSSES:
        raise RecipeError(f"There is a loss of kind {kind!r} already.")
    LOSSES[kind] = settings


def _of_its_kind(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    kind = value.get("kind")
    if kind not in LOSSES:
        raise ValueError(f"no loss of kind {kind!r}; known: {', '.join(sorted(LOSSES))}")
    return LOSSES[kind].model_validate(value)


AnyLoss = Annotated[SerializeAsAny[LossSettings], BeforeValidator(_of_its_kind)]

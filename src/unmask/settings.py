"""Settings that recipes, encoders and models share; no torch here, so mistakes are said before it is loaded."""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from unmask.errors import ArtifactError, RecipeError
from unmask.pooling import POOLINGS

AttentionMode = Literal["causal", "bidirectional"]
Window = Literal["keep", "lift"]
Recurrent = Literal["refuse", "forward", "two-way"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Position = Literal["auto", "same", "previous"]  # of a word's states; auto: the better one after MNTP


class Settings(BaseModel):
    """Base of every settings class: unknown keys are errors, values are not coerced from other types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class EncoderFields(Settings):
    """The keys that say how texts become vectors; a recipe's `model` has them among its own."""

    pooling: str = Field("mean", description="mean, weighted_mean, last, eos (an EOS token is appended) or first")
    max_length: int = Field(512, ge=1, description="most tokens of a text, special tokens included")
    prompts: dict[str, str] = Field(default_factory=dict, description="name -> instruction put in front of a text")
    default_prompt_name: str | None = Field(None, description="the prompt used when none is asked for")
    chat_template: bool = Field(False, description="wrap each text in the tokenizer's chat template")
    include_special_tokens: bool = (
        Field(  # every runtime can; to leave them out only sentence-transformers has a module
            True, description="pool special tokens (BOS, EOS) too, but for those before a prompt"
        )
    )
    include_prompt: bool = Field(False, description="pool instruction and template too")
    normalize: bool = Field(False, description="scale vectors to length 1")

    @model_validator(mode="after")
    def _agree(self) -> "EncoderFields":
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling={self.pooling!r} is not known; choose one of {', '.join(POOLINGS)}.")
        if self.pooling == "eos" and self.chat_template:
            raise ValueError("pooling 'eos' and chat_template exclude each other: a template writes its own end.")
        if self.default_prompt_name is not None and self.default_prompt_name not in self.prompts:
            raise ValueError(
                f"default_prompt_name={self.default_prompt_name!r} is not among the prompts {sorted(self.prompts)}."
            )
        return self

    def encoder_settings(self) -> "EncoderSettings":
        """These keys alone, as they are saved with the encoder."""
        return EncoderSettings(**{name: getattr(self, name) for name in EncoderFields.model_fields})


class EncoderSettings(EncoderFields):
    """How texts become vectors; immutable, saved with the encoder.

    Raises:
        ArtifactError: a value that cannot be, or values that exclude each other.
    """

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ArtifactError("; ".join(explained(item) for item in error.errors())) from error

    def changed(self, **values: Any) -> "EncoderSettings":
        """The same settings with some of another value; None leaves one as it is."""
        return EncoderSettings(**{**self.model_dump(), **{k: v for k, v in values.items() if v is not None}})


_Kind = TypeVar("_Kind", bound=Settings)


def checked(kind: type[_Kind], values: Mapping[str, Any], **options: Any) -> _Kind:
    """Settings from values that a person gave; `options` are those of pydantic's `model_validate`.

    Raises:
        RecipeError: every mistake, in one line.
    """
    try:
        return kind.model_validate(values, **options)
    except ValidationError as error:
        raise RecipeError("; ".join(explained(item) for item in error.errors())) from error


def explained(item: Any) -> str:
    """One error of pydantic's list as a line: the key, what it holds, what is wrong with that."""
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    return f"{'.'.join(map(str, item['loc']))}={item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"

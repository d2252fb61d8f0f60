"""What a request for vectors may say; everything else is refused, with the field that is wrong."""

from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from unmask.errors import RequestError
from unmask.settings import Settings

MAX_TEXTS = 2048  # of one request, as OpenAI has it
MAX_BODY_BYTES = 16 << 20


class EmbeddingRequest(Settings):
    """OpenAI's request, with `input_type` and `truncate` beside its own keys."""

    input: list[str] = Field(description="a string or a list of strings")
    model: str | None = Field(None, description="the name that the server gives its encoder")
    encoding_format: Literal["float", "base64"] = Field("float", description="base64: little-endian float32")
    dimensions: int | None = Field(None, ge=1, description="keep the first so many, scaled to length 1")
    input_type: Literal["query", "document"] | None = Field(None, description="chooses the saved prompt")
    truncate: bool = Field(True, description="false: refuse a text that is too long instead of cutting it")
    user: str | None = Field(None, description="OpenAI's; not used")

    @field_validator("input", mode="before")
    @classmethod
    def _texts(cls, given: Any) -> Any:
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list):
            raise ValueError("give a string or a list of strings")
        if any(isinstance(text, int | list) for text in texts):
            raise ValueError("token arrays are not read, because only a text has a prompt and a span; send the text")
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("give a string or a list of strings")
        if not texts:
            raise ValueError("the list is empty; give one text or more")
        return texts


def read_request(body: bytes) -> EmbeddingRequest:
    """A body, checked.

    Raises:
        RequestError: it is no JSON, says something wrong, or holds too many texts.
    """
    try:
        request = EmbeddingRequest.model_validate_json(body)
    except ValidationError as error:
        wrong = error.errors(include_input=False)
        fields = [".".join(map(str, item["loc"])) for item in wrong]
        message = "; ".join(_explained(field, item) for field, item in zip(fields, wrong, strict=True))
        raise RequestError(f"{message}.", status=422, code="invalid_request", param=fields[0] or None) from error
    if len(request.input) > MAX_TEXTS:
        raise RequestError(
            f"{len(request.input)} texts in one request; send at most {MAX_TEXTS}.",
            status=413,
            code="too_many_texts",
            param="input",
        )
    return request


def _explained(field: str, item: Any) -> str:
    """One error of pydantic's list: the field, and what is wrong with it."""
    said = str(item["ctx"]["error"]) if item["type"] == "value_error" else item["msg"][0].lower() + item["msg"][1:]
    return f"{field}: {said}" if field else f"the body is not what it should be ({said})"

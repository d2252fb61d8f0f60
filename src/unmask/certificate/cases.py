"""The texts of a certificate: those of the fingerprint, and what runtimes are known to stumble over."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from unmask.encoder import TextEncoder
from unmask.encoder.fingerprint import TEXTS
from unmask.text.control import special_tokens

Kind = Literal["plain", "prompt", "spaces", "special", "long", "truncated", "script", "digits", "layout", "empty"]

_HARD: tuple[tuple[Kind, str], ...] = (
    ("spaces", "  two spaces before, one behind "),
    ("layout", "first line\n\nthird line\twith a tab"),
    ("digits", "0x1F, 3.14159, 1e-6, 2026-11-28 and +49 30 901820"),
    ("script", "北京的秋天很短，但很美。"),
    ("script", "هل تصل الحافلة في الوقت المحدد؟"),
    (
        "script",
        "The cafe\u0301 served cre\u0300me bru\u0302le\u0301e.",
    ),  # letters and accents apart, as no NFC leaves them
    ("script", "🚲 + ☔ = 😕"),
    ("empty", ""),
)
_ASKED = (0, 2, 8)  # of TEXTS, that are behind each saved prompt too: some words, one word, many
_MOST_PROMPTS = 3
_COMMON_LIMIT = 512  # tokens that many runtimes cut to unless told
_LONGEST = 2048  # tokens; a limit beyond is not tried, since it would take longer than all else
_SPARE = 40  # tokens by which a text exceeds a limit


@dataclass(frozen=True, slots=True)
class Case:
    """One text of a certificate.

    Attributes:
        text: of any length, perhaps empty.
        kind: why it is there.
        prompt_name: the saved prompt that was asked for; None for what the encoder does unasked.
        prompt: what stands in front of the text then, empty where nothing does.
    """

    text: str
    kind: Kind = "plain"
    prompt_name: str | None = None
    prompt: str = ""


def golden_cases(encoder: TextEncoder) -> list[Case]:
    """A few dozen texts; the first are those of the fingerprint."""
    settings = encoder.settings
    unasked = encoder.reader.prompt(None, None)
    texts: list[tuple[Kind, str]] = [("plain", text) for text in TEXTS]
    texts += [*_HARD, *_spelled(encoder.tokenizer), *_long(encoder.tokenizer, settings.max_length)]
    cases = [Case(text, kind, None, unasked) for kind, text in texts]
    for name in list(settings.prompts)[:_MOST_PROMPTS]:
        prompt = settings.prompts[name]
        cases += [Case(TEXTS[number], "prompt", name, prompt) for number in _ASKED if prompt]
    return cases


def own_cases(encoder: TextEncoder, texts: Sequence[str], prompt_name: str | None = None) -> list[Case]:
    """Somebody's own texts, all with one prompt."""
    prompt = encoder.reader.prompt(None, prompt_name)
    read = encoder.reader.tokenize(list(texts), prompt)
    special = [token.content for token in special_tokens(encoder.tokenizer).values()]

    def kind(text: str, tokens: int) -> Kind:
        if not text:
            return "empty"
        if tokens >= encoder.settings.max_length:
            return "truncated"
        if text != text.strip():
            return "spaces"
        return "special" if any(name in text for name in special) else "plain"

    return [Case(text, kind(text, len(own)), prompt_name, prompt) for text, own in zip(texts, read, strict=True)]


def _spelled(tokenizer: Any) -> Iterator[tuple[Kind, str]]:
    """A text that spells special tokens of this tokenizer."""
    names = [token.content for token in special_tokens(tokenizer).values()][:2]
    if names:
        yield "special", f"In HTML {names[0]} struck out {names[-1]} is text."


def _long(tokenizer: Any, limit: int) -> Iterator[tuple[Kind, str]]:
    """Texts longer than what runtimes often cut to, and longer than the encoder's own limit."""
    if limit > _COMMON_LIMIT + 2 * _SPARE:
        yield "long", _of_length(tokenizer, _COMMON_LIMIT + _SPARE)
    if limit <= _LONGEST:
        yield "truncated", _of_length(tokenizer, limit + _SPARE)


def _of_length(tokenizer: Any, tokens: int) -> str:
    """A text of at least so many tokens, and some more."""
    text, paragraph = "", 0
    while len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) < tokens:
        paragraph += 1
        text += f"{paragraph}. {' '.join(TEXTS[(paragraph + step) % len(TEXTS)] for step in (0, 8))}\n"
    return text

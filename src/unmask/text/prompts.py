"""The only place where a text is wrapped: instruction in front, chat template around.

Structure travels as structure: a `Rendered` text carries the character span of the user's own text, so that nothing
is ever marked inside the string or tokenized twice to be found again.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import Environment, TemplateError
from jinja2.meta import find_undeclared_variables

from unmask.errors import ArtifactError

logger = logging.getLogger(__name__)

_PLACEHOLDER = "unmaskplaceholdertext"
# Templates ask for the date through `strftime_now`, which transformers gives them; a macro of that name, put in front,
# tells them two days that differ in every part.
_DAYS = (
    {"%Y": "2001", "%y": "01", "%m": "02", "%B": "February", "%b": "Feb", "%d": "03", "%A": "Saturday", "%": "0"},
    {"%Y": "2010", "%y": "10", "%m": "11", "%B": "November", "%b": "Nov", "%d": "12", "%A": "Friday", "%": "1"},
)
_TASKS = ("query", "document")  # what sentence-transformers tells a template, for `encode_query`, `encode_document`
_TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, KeyError, AttributeError)


@dataclass(frozen=True, slots=True)
class ChatWrapper:
    """What a tokenizer's chat template puts before and after one user message, and whether it trims the message."""

    before: str
    after: str
    lstrip: bool = False
    rstrip: bool = False

    @classmethod
    def from_tokenizer(
        cls, tokenizer: Any, *, structured: bool = False, options: Mapping[str, Any] | None = None
    ) -> "ChatWrapper":
        """Read the wrapper off the tokenizer's own template, and say so where another day would give another one.

        Args:
            tokenizer: with a chat template.
            structured: hand the message over as a list of parts, as some templates want it.
            options: further variables of the template.

        Raises:
            ArtifactError: the tokenizer has no chat template, or the template fails, or does not show the message once.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise ArtifactError("chat_template was asked for, but the tokenizer has none. Leave chat_template off.")
        asked = {"add_generation_prompt": False, **(options or {})}
        wrapper = _wrapper(tokenizer, structured, asked)
        if any(_wrapper(tokenizer, structured, {"task": task, **asked}) != wrapper for task in _TASKS):
            raise ArtifactError(
                "The tokenizer's chat template tells queries from documents by its variable 'task', and here one "
                "template goes around all texts; leave chat_template off, or let processing_kwargs.chat_template "
                "in sentence_bert_config.json give 'task' a value."
            )
        if _changes_by_the_day(tokenizer, structured, asked):
            logger.warning(
                "The tokenizer's chat template writes the date into every text, so its vectors change by the day; an "
                f"encoder that is saved keeps what was written today ({wrapper.before!r} before a text)."
            )
        return wrapper

    def trimmed(self, text: str) -> tuple[str, int]:
        """A text as the template shows it, and how many characters it loses at its start."""
        start = len(text) - len(text.lstrip()) if self.lstrip else 0
        return (text.rstrip() if self.rstrip else text)[start:], start


def _changes_by_the_day(tokenizer: Any, structured: bool, options: Mapping[str, Any]) -> bool:
    if "strftime_now" not in str(tokenizer.chat_template):
        return False
    template = tokenizer.get_chat_template(options.get("chat_template"), options.get("tools"))
    days = ({**options, "chat_template": _on(day) + template} for day in _DAYS)
    try:
        early, late = (_wrapper(tokenizer, structured, asked) for asked in days)
    except ArtifactError:  # it does more with the date than to show it
        return True
    return early != late


def _on(day: Mapping[str, str]) -> str:
    """The front of a template on another day."""
    replaced = "".join(f"|replace({code!r}, {value!r})" for code, value in day.items())
    return "{%- macro strftime_now(format) -%}{{ format" + replaced + " }}{%- endmacro %}"


def _wrapper(tokenizer: Any, structured: bool, options: Mapping[str, Any]) -> ChatWrapper:
    """The wrapper of the tokenizer's template, or of another that the options name."""
    before, after = _around(tokenizer, _PLACEHOLDER, structured, options)
    wide_before, wide_after = _around(tokenizer, f" {_PLACEHOLDER} ", structured, options)
    return ChatWrapper(before, after, lstrip=wide_before == before, rstrip=wide_after == after)


def _around(tokenizer: Any, text: str, structured: bool, options: Mapping[str, Any]) -> tuple[str, str]:
    """What the template puts before and after the placeholder in a text."""
    message = [{"role": "user", "content": [{"type": "text", "text": text}] if structured else text}]
    try:
        rendered = tokenizer.apply_chat_template(message, tokenize=False, **options)
    except _TEMPLATE_ERRORS as error:
        unset = ", ".join(_unset(tokenizer, options))
        raise ArtifactError(
            f"The tokenizer's chat template cannot show a lone user message ({' '.join(str(error).split())})"
            f"{f'; of its variables nothing sets {unset}' if unset else ''}; leave chat_template off."
        ) from error
    before, found, after = rendered.partition(_PLACEHOLDER)
    if not found or _PLACEHOLDER in after:
        raise ArtifactError("The tokenizer's chat template does not show a user message exactly once.")
    return before, after


def _unset(tokenizer: Any, options: Mapping[str, Any]) -> list[str]:
    """The variables of a template that have no value."""
    environment = Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=True)
    try:
        template = tokenizer.get_chat_template(options.get("chat_template"), options.get("tools"))
        used = find_undeclared_variables(environment.parse(template))
    except (TemplateError, ValueError):  # no template at all, or the error that is told already
        return []
    known = {"messages", "raise_exception", "strftime_now", *environment.globals, *tokenizer.special_tokens_map}
    return sorted(used - known - options.keys())


@dataclass(frozen=True, slots=True)
class Rendered:
    """The string a model reads, and which characters of it are the user's text: `text[start:end]`.

    Attributes:
        has_special_tokens: the string already holds its special tokens (a chat template writes its own).
        trimmed: characters that the user's text had before those.
    """

    text: str
    start: int
    end: int
    has_special_tokens: bool = False
    trimmed: int = 0

    def cut(self, characters: int) -> "Rendered":
        """The same with at most so many characters of the user's text; the very same if it has no more."""
        if self.end - self.start <= characters:
            return self
        end = self.start + characters
        return replace(self, text=self.text[:end] + self.text[self.end :], end=end)


def render(texts: Iterable[str], prompt: str = "", chat: ChatWrapper | None = None) -> list[Rendered]:
    """Put the instruction `prompt` in front of each text and the chat template, if any, around both."""
    if chat is None:
        return [Rendered(prompt + text, len(prompt), len(prompt) + len(text)) for text in texts]
    rendered = []
    for text in texts:
        # The prompt begins the message, and is trimmed with it.
        message, start = chat.trimmed(prompt + text)
        end = len(chat.before) + len(message)
        head = min(end, len(chat.before) + max(0, len(prompt) - start))
        rendered.append(Rendered(chat.before + message + chat.after, head, end, True, max(0, start - len(prompt))))
    return rendered

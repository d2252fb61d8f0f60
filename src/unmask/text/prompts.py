"""The only place where a text is wrapped: instruction in front, chat template around.

Structure travels as structure: a `Rendered` text carries the character span of the user's own text, so that nothing
is ever marked inside the string or tokenized twice to be found again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from unmask.errors import ArtifactError

_PLACEHOLDER = "unmaskplaceholdertext"


@dataclass(frozen=True, slots=True)
class ChatWrapper:
    """What a tokenizer's chat template puts before and after one user message."""

    before: str
    after: str

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> "ChatWrapper":
        """Read the wrapper off the tokenizer's own template.

        Raises:
            ArtifactError: the tokenizer has no chat template, or the template does not show the message once.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise ArtifactError("chat_template was asked for, but the tokenizer has none. Leave chat_template off.")
        message = [{"role": "user", "content": _PLACEHOLDER}]
        rendered = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=False)
        before, found, after = rendered.partition(_PLACEHOLDER)
        if not found or _PLACEHOLDER in after:
            raise ArtifactError("The tokenizer's chat template does not show a user message exactly once.")
        return cls(before, after)


@dataclass(frozen=True, slots=True)
class Rendered:
    """The string a model reads, and which characters of it are the user's text: `text[start:end]`."""

    text: str
    start: int
    end: int
    # True where the string already holds its special tokens (a chat template writes its own).
    has_special_tokens: bool = False

    def cut(self, characters: int) -> "Rendered":
        """The same with at most so many characters of the user's text; the very same if it has no more."""
        if self.end - self.start <= characters:
            return self
        end = self.start + characters
        return Rendered(self.text[:end] + self.text[self.end :], self.start, end, self.has_special_tokens)


def render(texts: Iterable[str], prompt: str = "", chat: ChatWrapper | None = None) -> list[Rendered]:
    """Put the instruction `prompt` in front of each text and the chat template, if any, around both."""
    before, after = (chat.before, chat.after) if chat else ("", "")
    head = before + prompt
    return [
        Rendered(head + text + after, len(head), len(head) + len(text), has_special_tokens=chat is not None)
        for text in texts
    ]

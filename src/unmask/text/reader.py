"""Tokenizer and settings: from texts to tokenized texts to batches. Knows no model."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from unmask.errors import ArtifactError, DataError
from unmask.settings import EncoderSettings
from unmask.text.batching import Batch, PaddedBatch, PaddingSide, join, pad, pad_token, token_budget
from unmask.text.checks import check_characters, check_strings, ordered
from unmask.text.control import ControlTokens, spelled_tokens
from unmask.text.prompts import ChatWrapper, render
from unmask.text.spans import TokenizedText, check_tokenizer, tokenize
from unmask.text.words import append_eos, checked_words

logger = logging.getLogger(__name__)


class Reader:
    """How texts are wrapped, tokenized, cut and put into batches; safe to share between threads.

    Args:
        tokenizer: a fast transformers tokenizer; for the pooling `eos` it is made to end every text with EOS.
        settings: of the encoder.
        positions: the most tokens that the model has positions for; None where any number has.
        short: texts of at most so many tokens share no batch with longer ones; see `short_positions`.
        chat: the wrapper that an encoder was saved with; by default the tokenizer's chat template makes one.

    Raises:
        ArtifactError: the tokenizer gives no offsets, or has no chat template or EOS token where one is asked for;
            texts longer than the model has positions for.

    Attributes:
        chat: what is put around every text; None without a chat template.
        padding_side: where padded batches are padded; vectors do not depend on it.
    """

    def __init__(
        self,
        tokenizer: Any,
        settings: EncoderSettings,
        *,
        positions: int | None = None,
        short: int | None = None,
        chat: ChatWrapper | None = None,
    ) -> None:
        check_tokenizer(tokenizer)
        if positions is not None and settings.max_length > positions:
            raise ArtifactError(_too_long(settings.max_length, positions))
        self.tokenizer = tokenizer
        self.settings = settings
        self.padding_side: PaddingSide = "right"
        self._positions, self._short = positions, short
        self._prompts: set[str] = set()  # that were looked at
        wrapped = settings.chat_template
        self.chat = (chat or ChatWrapper.from_tokenizer(tokenizer)) if wrapped else None
        if settings.pooling == "eos":
            append_eos(tokenizer)
        # Where the tokenizer's own file lets texts spell control tokens, they may.
        guarded = self.chat is not None and tokenizer.split_special_tokens
        self._control = ControlTokens(tokenizer) if guarded else None

    def tokenize(
        self, texts: Sequence[str], prompt: str = "", *, max_length: int | None = None, first: int = 0
    ) -> list[TokenizedText]:
        """Texts as the model reads them, with their spans; the same for training and for encoding.

        Args:
            texts: of any length; what the model will not read is not tokenized.
            prompt: instruction in front of each.
            max_length: most tokens of a text; by default as the settings say.
            first: what the first text is called in messages.

        Raises:
            DataError: something that is not a string, or half a surrogate pair; a prompt that leaves no room for
                text; no token at all, or more than the model has positions for.
        """
        if max_length is not None and max_length < 1:
            raise DataError(f"max_length={max_length}: a text needs at least 1 token.")
        if self._positions is not None and max_length is not None and max_length > self._positions:
            raise DataError(_too_long(max_length, self._positions))
        check_strings(texts, first=first)
        if prompt not in self._prompts:
            self._check_prompt(prompt)
        return tokenize(
            self.tokenizer,
            render(texts, prompt, self.chat),
            max_length=self.settings.max_length if max_length is None else max_length,
            include_special_tokens=self.settings.include_special_tokens,
            include_prompt=self.settings.include_prompt,
            control=self._control,
        )

    def _check_prompt(self, prompt: str) -> None:
        """Refuse a broken prompt, and say of one that spells control tokens how it is read; once."""
        check_characters(prompt, "The prompt")
        if (
            self.chat is None
            and self.tokenizer.split_special_tokens
            and (found := spelled_tokens(self.tokenizer, prompt))
        ):
            logger.warning(
                f"The prompt {prompt!r} spells {', '.join(found)}, which is read as text like every spelling of a "
                "special token; split_special_tokens: false in the encoder's tokenizer_config.json makes it the token."
            )
        self._prompts.add(prompt)

    def tokenize_words(self, texts: Iterable[Iterable[str]]) -> list[TokenizedText]:
        """Texts that are lists of words, as the model reads them: joined by single spaces, without a prompt."""
        return self.tokenize([" ".join(checked_words(words, index)) for index, words in enumerate(ordered(texts))])

    def prompt(self, prompt: str | None, name: str | None) -> str:
        """The instruction asked for: in words, or by the name of a saved one, or the default.

        Raises:
            DataError: no saved prompt has that name.
        """
        if prompt is not None:
            return prompt
        name = name or self.settings.default_prompt_name
        if name is None:
            return ""
        if name not in self.settings.prompts:
            known = ", ".join(sorted(self.settings.prompts)) or "none"
            raise DataError(f"This encoder has no prompt named {name!r}; saved prompts: {known}.")
        return self.settings.prompts[name]

    def batches(
        self, tokenized: Sequence[TokenizedText], max_tokens: int, device: torch.device, *, padded: bool
    ) -> Iterator[tuple[list[int], Batch]]:
        """Batches of at most `max_tokens` on a device, with the numbers of their rows; longest texts first."""
        for rows in self.groups([len(text) for text in tokenized], max_tokens, padded=padded):
            yield rows, self.collate([tokenized[row] for row in rows], device, padded=padded)

    def groups(self, lengths: Sequence[int], max_tokens: int, *, padded: bool) -> Iterator[list[int]]:
        """Numbers of rows that may share a batch; see `token_budget`."""
        return token_budget(lengths, max_tokens, padded=padded, short=self._short)

    def collate(self, texts: Sequence[TokenizedText], device: torch.device, *, padded: bool) -> Batch:
        """Tokenized texts as one batch on a device, padded or one after the other."""
        return self.pad(texts, device) if padded else join(texts, fill=device.type == "cpu").to(device)

    def pad(self, texts: Sequence[TokenizedText], device: torch.device) -> PaddedBatch:
        """Stack tokenized texts into one padded batch on a device."""
        return pad(texts, pad_id=pad_token(self.tokenizer), padding_side=self.padding_side).to(device)


def _too_long(asked: int, positions: int) -> str:
    return (
        f"max_length={asked} is more than the {positions} positions that this model learned; "
        f"use max_length={positions} or less."
    )

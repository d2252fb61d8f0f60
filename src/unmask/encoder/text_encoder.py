"""TextEncoder: text -> vector, tokens, words. A thin door to the reader, the runner and the folder."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from typing_extensions import Unpack

from unmask.backbone.devices import weights_in
from unmask.backbone.fast.contract import Availability
from unmask.backbone.truth.convert import compatibility_gaps
from unmask.backbone.truth.opening import AttentionSpec
from unmask.encoder.decoder import causal_decoder
from unmask.encoder.fingerprint import Fingerprint
from unmask.encoder.folder import POOLING_WEIGHTS, write_encoder
from unmask.encoder.opening import open_model, reader_for
from unmask.encoder.runner import EncoderModule, Runner
from unmask.encoder.saved import objectives
from unmask.encoder.stream import (
    EncodeOptions,
    Floats,
    Key,
    ShownOptions,
    StreamOptions,
    model_batches,
    stream_vectors,
    with_saved_prompt,
)
from unmask.encoder.tokens import TokenVectors, token_vectors
from unmask.encoder.words import WordPosition, word_vectors
from unmask.errors import ArtifactError
from unmask.settings import AttentionMode, Dtype, EncoderSettings, Recurrent, Window
from unmask.text.batching import Batch, PaddedBatch, PaddingSide
from unmask.text.checks import ordered
from unmask.text.control import spellings_as_tokens
from unmask.text.prompts import ChatWrapper
from unmask.text.spans import TokenizedText


class TextEncoder:
    """A decoder (or encoder) model, its tokenizer and the settings that turn text into vectors; threads may share it.

    Args:
        model: the transformers model without head; put in evaluation mode when it encodes.
        tokenizer: its fast tokenizer.
        settings: pooling, length, prompts; see `EncoderSettings`.
        chat: what a chat template puts around texts, where it was rendered once already.
        fast: False for the plain way everywhere, names for some fast paths alone; by default all that are available.

    Raises:
        ArtifactError: tokens or positions that the model has none for; a tokenizer without offsets.

    Attributes:
        reader: tokenizer and settings.
        runner: model, pooling and fast paths.
        lineage: where the weights came from, as saved.
        scores: what they scored, as saved; saved again while the encoder computes the same.
        quantized: the weights are in eight bits (`to_int8`) and cannot be saved.
        stored: dtype of the weights in the folder, where they run in another; they are saved in it.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        settings: EncoderSettings | None = None,
        *,
        chat: ChatWrapper | None = None,
        fast: bool | Collection[str] | None = None,
    ) -> None:
        self.reader = reader_for(model, tokenizer, settings, chat)
        self.runner = Runner(model, self.reader.settings.pooling, fast)
        self.module = self.runner.module
        self.lineage: dict[str, Any] = {}
        self.scores: dict[str, Any] = {}
        self.quantized, self._fingerprint = False, Fingerprint()
        self._base: str | None = None
        self._adapter: Any | None = None
        self.stored: torch.dtype | None = None

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        adapters: Sequence[str | Path] = (),
        merge: bool = True,
        attention: AttentionMode | None = None,
        recurrent: Recurrent | None = None,
        window: Window | None = None,
        pooling: str | None = None,
        max_length: int | None = None,
        chat_template: bool | None = None,
        include_special_tokens: bool | None = None,
        dtype: Dtype = "auto",
        device: str | torch.device | None = None,
        attention_implementation: str | None = None,
        fast: bool | Collection[str] | None = None,
    ) -> "TextEncoder":
        """Open an encoder folder, any sentence-transformers folder of a plain model, or a bare transformers model.

        LoRA adapters bring their attention mode and settings along, those of the released `llm2vec` too.

        Args:
            name: folder, GGUF file, hub id, `pocket` or `smollm2`; or an adapter folder, whose base model is opened.
            adapters: LoRA folders or hub ids to put on the model, in the order they were trained.
            merge: fold the adapters into the weights; False keeps them apart, for `as_decoder`.
            attention: make a decoder causal or bidirectional; by default what its config or adapter says.
            recurrent: what to do with layers that follow no mask; see `convert`. By default as saved, else refuse.
            window: keep sliding windows (two-sided) or lift them; by default as saved, else keep.
            pooling: overrides what was saved; a bare model is mean-pooled.
            max_length: overrides what was saved.
            chat_template: overrides what was saved, as does the next.
            include_special_tokens: overrides what was saved.
            dtype: of the weights; by default as saved, but float32 on a CPU that multiplies nothing shorter fast.
            device: by default the GPU if there is one.
            attention_implementation: for example eager or sdpa.
            fast: False for the plain way everywhere, names for some fast paths alone.

        Raises:
            ArtifactError: the folder is missing, broken, or holds modules this package cannot run.
            ConversionError: bidirectional by its config or by request, but its layers do not see the future.
        """
        opened = open_model(
            str(name),
            [str(adapter) for adapter in adapters],
            AttentionSpec(attention, recurrent, window),
            merge=merge,
            dtype=dtype,
            device=device,
            attention_implementation=attention_implementation,
        )
        changes = {"pooling": pooling, "max_length": max_length, "chat_template": chat_template}
        settings = opened.settings.changed(**changes, include_special_tokens=include_special_tokens)
        encoder = cls(opened.model, opened.tokenizer, settings, chat=opened.chat, fast=fast)
        if settings.pooling == opened.settings.pooling:  # another one than was saved begins anew
            encoder.runner.load_pooling(opened.folder / POOLING_WEIGHTS)
        encoder.lineage, encoder.scores = opened.lineage, opened.scores
        encoder._base, encoder._adapter, encoder.stored = opened.base, opened.adapter, opened.stored
        return encoder

    @property
    def model(self) -> Any:
        """The transformers model without head."""
        return self.runner.model

    @property
    def tokenizer(self) -> Any:
        """Its fast tokenizer."""
        return self.reader.tokenizer

    @property
    def settings(self) -> EncoderSettings:
        """Pooling, length, prompts; immutable."""
        return self.reader.settings

    @property
    def dimension(self) -> int:
        """Width of the vectors."""
        return self.runner.dimension

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.runner.device

    @property
    def went_through_mntp(self) -> bool:
        """True if the lineage names a stage of masked next-token prediction, so that states predict the next token."""
        return "mntp" in objectives(self.lineage)

    @property
    def padding_side(self) -> PaddingSide:
        """Where padded batches are padded; vectors do not depend on it."""
        return self.reader.padding_side

    @padding_side.setter
    def padding_side(self, side: PaddingSide) -> None:
        self.reader.padding_side = side

    @property
    def padding_free(self) -> Availability:
        """Whether texts lie one after the other in a batch, and if not why; False pads, True may be refused."""
        return self.runner.padding_free

    @padding_free.setter
    def padding_free(self, wanted: bool) -> None:
        self.runner.padding_free = wanted  # type: ignore[assignment]

    def encode(
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        normalize: bool | None = None,
        max_length: int | None = None,
        batch_tokens: int | None = None,
        compile: bool | None = None,
        progress: bool = False,
    ) -> Floats:
        """Encode texts into vectors, in the order given. Several threads may call it on one encoder.

        Args:
            texts: a list or whatever gives texts in an order, or one string.
            prompt: instruction put in front of every text; not pooled.
            prompt_name: one of the saved prompts instead.
            normalize: scale vectors to length 1; by default as saved.
            max_length: most tokens of a text; by default as saved.
            batch_tokens: most tokens in a batch; by default what suits the device.
            compile: compile the layers with torch, or do not; by default on a CPU as soon as that pays.
            progress: show a progress bar.

        Returns:
            float32 [texts, width], or [width] for one string.

        Raises:
            DataError: no list of whole strings, an unknown prompt name, more tokens than there are positions.
            EncodingError: a vector that is not finite, with the numbers of the texts.
        """
        listed = [texts] if isinstance(texts, str) else list(ordered(texts))
        with tqdm(total=len(listed), unit="text", disable=not progress, desc="encoding") as bar:
            asked = EncodeOptions(prompt=prompt, prompt_name=prompt_name, normalize=normalize, max_length=max_length)
            asked |= {"batch_tokens": batch_tokens, "compile": compile}
            options = StreamOptions.of(self.reader, asked, total=len(listed), advance=bar.update)
            blocks = [block for _, block in stream_vectors(self.reader, self.runner, enumerate(listed), options)]
        vectors: Floats = np.concatenate(blocks) if blocks else np.empty((0, self.dimension), dtype=np.float32)
        return vectors[0] if isinstance(texts, str) else vectors

    def encode_query(self, texts: str | Iterable[str], **options: Unpack[ShownOptions]) -> Floats:
        """Like `encode`, with the saved prompt `query` where there is one and no other is asked for."""
        return self.encode(texts, **with_saved_prompt(self.settings, "query", options))

    def encode_document(self, texts: str | Iterable[str], **options: Unpack[ShownOptions]) -> Floats:
        """Like `encode`, with the saved prompt `document` (or `passage`, `corpus`) where no other is asked for."""
        return self.encode(texts, **with_saved_prompt(self.settings, "document", options))

    def stream(self, texts: Iterable[str], **options: Unpack[EncodeOptions]) -> Iterator[Floats]:
        """Encode any number of texts in bounded memory; errors as in `encode`.

        Args:
            texts: read in this thread as they are needed, and tokenized ahead in another.
            options: those of `encode`, but for `progress`.

        Yields:
            Vectors float32 [some thousand texts, width], in the order of the texts.
        """
        for _, vectors in self.stream_keyed(((None, text) for text in ordered(texts)), **options):
            yield vectors

    def stream_keyed(
        self, texts: Iterable[tuple[Key, str]], *, total: int | None = None, **options: Unpack[EncodeOptions]
    ) -> Iterator[tuple[list[Key], Floats]]:
        """Like `stream`, with a key of any kind beside each text, and `total` texts to come where that is known."""
        yield from stream_vectors(self.reader, self.runner, texts, StreamOptions.of(self.reader, options, total=total))

    def encode_tokens(self, texts: Iterable[str], *, batch_tokens: int | None = None) -> list[TokenVectors]:
        """The states of each text's own tokens (no prompt, template or special tokens), with their offsets."""
        return token_vectors(self, texts, batch_tokens=batch_tokens)

    def encode_words(
        self, texts: Iterable[Iterable[str]], *, position: WordPosition = "same", batch_tokens: int | None = None
    ) -> list[Floats]:
        """One vector a word: the mean of its tokens' states.

        Args:
            texts: each a list of words; the model reads them joined by single spaces.
            position: `same` takes a token's own state; `previous` the one before, where MNTP trains (section 3.1).
            batch_tokens: most tokens in a batch.

        Returns:
            For each text float32 [words, width]. A text longer than `max_length` tokens is a DataError.
        """
        return word_vectors(self, texts, position=position, batch_tokens=batch_tokens)

    def tokenize(self, texts: Iterable[str], prompt: str = "") -> list[TokenizedText]:
        """Texts as the model reads them, with their spans; the same for training and for encoding."""
        return self.reader.tokenize(list(ordered(texts)), prompt)

    def tokenize_words(self, texts: Iterable[Iterable[str]]) -> list[TokenizedText]:
        """Texts that are lists of words, as the model reads them: joined by single spaces, without a prompt."""
        return self.reader.tokenize_words(texts)

    def batches(
        self, tokenized: Sequence[TokenizedText], batch_tokens: int | None = None
    ) -> Iterator[tuple[list[int], Batch]]:
        """Token-budget batches on the model's device, with the numbers of their rows; puts the model in eval mode."""
        return model_batches(self.reader, self.runner, tokenized, batch_tokens)

    def collate(self, texts: Sequence[TokenizedText], device: torch.device | None = None) -> Batch:
        """Tokenized texts as one batch, without padding where the model can; on its device unless another is named."""
        return self.reader.collate(texts, device or self.device, padded=not self.padding_free)

    def pad(self, texts: Sequence[TokenizedText], device: torch.device | None = None) -> PaddedBatch:
        """Stack tokenized texts into one batch, on the model's device unless another is named."""
        return self.reader.pad(texts, device or self.device)

    def exportable(self) -> EncoderModule:
        """The module that `encode` runs, tensors in and vectors out, on the same weights; for torch.export."""
        return EncoderModule(self.model, self.module.pooling).eval()

    def to_sentence_transformer(self) -> Any:
        """The same encoder as a `SentenceTransformer`: the same weights, no copy, equal vectors; needs that extra."""
        from unmask.encoder.sentence_transformer import as_sentence_transformer

        return as_sentence_transformer(self.reader, self.runner)

    def fingerprint(self) -> str:
        """A short id of what this encoder computes, whatever it is called; ids are compared by `fingerprint.same`."""
        return self._fingerprint.of(self)

    @contextmanager
    def as_decoder(self) -> Iterator[Any]:
        """The causal language model that the base was, on the same weights, for as long as the block lasts.

        Unmerged adapters are switched off, attention is causal, one-sided layers read forward. Logits are those of the
        base if weights were only converted, or opened with `merge=False`. The base, with its head, must still be there.

        Yields:
            A transformers model with its head; `.generate` works.

        Raises:
            ArtifactError: the base model is not known or not there.
            ConversionError: windows that cannot be put back.
        """
        if self._base is None:
            raise ArtifactError("as_decoder needs the base model for its head; open the encoder with TextEncoder.load.")
        with causal_decoder(self.model, self._base, self._adapter) as causal_lm, spellings_as_tokens(self.tokenizer):
            yield causal_lm

    def save(self, folder: str | Path, *, weights: bool = True) -> None:
        """Write an encoder folder that sentence-transformers opens without this package; or all of it but its weights.

        Raises:
            ArtifactError: the folder exists already and is not empty; unmerged adapters; eight bits.
        """
        if self.quantized:
            raise ArtifactError("Weights in eight bits are not saved; open the encoder again and save that.")
        if self._adapter is not None:
            raise ArtifactError("This encoder keeps its adapters apart; open it with merge=True to save it.")
        lineage = ({"base": self._base} if self._base else {}) | self.lineage
        more: dict[str, Any] = {"pooling": self.module.pooling, "gaps": compatibility_gaps(self.model)}
        more |= {"weights": weights, "fingerprint": self._fingerprint.recorded(self), "scores": self.scores}
        with weights_in(self.model, self.stored or self.model.dtype):
            write_encoder(Path(folder), self.model, self.reader, lineage, **more)

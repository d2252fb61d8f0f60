"""TextEncoder: text -> vector, tokens, words. One forward path: what is trained is what is evaluated and exported."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unmask.artifact import EncoderSettings, read_lineage, read_settings, read_sight, write_encoder
from unmask.backbone.attention import AttentionMode, Window
from unmask.backbone.elsewhere import gaps_elsewhere
from unmask.backbone.fast_paths import FastPaths
from unmask.backbone.loading import (
    Dtype,
    checked_device,
    find_adapters,
    layout_folder,
    load_model,
    load_tokenizer,
    max_positions,
    saved_dtype,
    working_dtype,
)
from unmask.backbone.opening import Sight, as_causal, attach_adapters, turn
from unmask.backbone.recurrent import Recurrent
from unmask.backbone.structure import family, replace_body, text_config
from unmask.backbone.varlen import reads_flat
from unmask.encoder.encoding import text_vectors
from unmask.encoder.states import EncoderModule, check_finite, text_states
from unmask.encoder.words import Floats, WordPosition, word_states
from unmask.errors import ArtifactError, DataError
from unmask.pooling import Pooling
from unmask.text.batching import Batch, PaddedBatch, PaddingSide, join, pad, pad_token, token_budget
from unmask.text.prompts import ChatWrapper, Rendered, render
from unmask.text.spans import TokenizedText, check_tokenizer, tokenize
from unmask.text.words import append_eos, checked_words

# Small on a CPU, whose caches then hold what one layer hands to the next.
_BATCH_TOKENS = {"cpu": 2048, "gpu": 16384}


@dataclass(frozen=True, slots=True)
class TokenVectors:
    """The states of one text's own tokens: vectors float32 [tokens, width], offsets int64 [tokens, 2] (characters)."""

    vectors: Floats
    offsets: NDArray[np.int64]


class TextEncoder:
    """A decoder (or encoder) model, its tokenizer and the settings that turn text into vectors.

    Attributes:
        model: the transformers model without head, in evaluation mode.
        tokenizer: its fast tokenizer.
        settings: pooling, length, prompts; see `EncoderSettings`.
        padding_side: where batches are padded; vectors do not depend on it.
        lineage: where the weights came from, as saved.
        quantized: the weights are in eight bits (`to_int8`) and cannot be saved.
        fast_paths: what makes the model faster on this machine.
    """

    def __init__(self, model: Any, tokenizer: Any, settings: EncoderSettings | None = None) -> None:
        check_tokenizer(tokenizer)
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings or EncoderSettings(max_length=max_positions(model, tokenizer))
        self.padding_side: PaddingSide = "right"
        self.lineage: dict[str, Any] = {}
        self.module = EncoderModule(model, self.settings.pooling)
        self._padding_free: bool | None = None
        self.fast_paths = FastPaths(model)
        self.quantized = False
        self._base: str | None = None
        self._adapter: Any | None = None
        self._stored: torch.dtype | None = None  # of the weights in the folder, where they run in another
        self._chat = ChatWrapper.from_tokenizer(tokenizer) if self.settings.chat_template else None
        if self.settings.pooling == "eos":
            append_eos(tokenizer)

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
        pooling: Pooling | None = None,
        max_length: int | None = None,
        chat_template: bool | None = None,
        include_special_tokens: bool | None = None,
        dtype: Dtype = "auto",
        device: str | torch.device | None = None,
        attention_implementation: str | None = None,
    ) -> "TextEncoder":
        """Open an encoder folder, any sentence-transformers folder of a plain model, or a bare transformers model.

        LoRA adapters bring their attention mode and settings along: those of this package, and those of the released
        `llm2vec` (folders with `llm2vec_config.json`), which are bidirectional.

        Args:
            name: folder, hub id, or `pocket`; or an adapter folder, whose base model is opened under it.
            adapters: LoRA folders or hub ids to put on the model, in the order they were trained.
            merge: fold the adapters into the weights; False keeps them apart, for `as_decoder`.
            attention: make a decoder causal or bidirectional; by default what its config or adapter says.
            recurrent: what to do with layers that no mask turns; see `convert`. By default as saved, else refuse.
            window: keep sliding windows (two-sided) or lift them; by default as saved, else keep.
            pooling: overrides what was saved; a bare model is mean-pooled.
            max_length: overrides what was saved.
            chat_template: overrides what was saved.
            include_special_tokens: overrides what was saved.
            dtype: of the weights; by default as saved, but float32 on a CPU that multiplies nothing shorter fast.
            device: by default the GPU if there is one.
            attention_implementation: for example eager or sdpa.

        Raises:
            ArtifactError: the folder is missing, broken, or holds modules this package cannot run.
            ConversionError: bidirectional by its config or by request, but its layers do not see the future.
        """
        source, folders = find_adapters(str(name), [str(adapter) for adapter in adapters])
        tokenizer = load_tokenizer(source)
        place = checked_device(device)
        working = working_dtype(source, dtype, place)
        model = load_model(
            source, head=False, dtype=working, attention_implementation=attention_implementation, device=place
        )
        saved = read_sight(folders[-1]) if folders else {}
        if (attention or saved.get("attention")) == "causal":
            saved = {"attention": "causal"}
        asked = {"attention": attention, "recurrent": recurrent, "window": window}
        layout = folders[-1] if folders else layout_folder(source)
        sight = Sight(**saved | {k: v for k, v in asked.items() if v is not None})
        turn(model, sight, verified=(layout / "unmask.json").is_file())
        wrapper = attach_adapters(model, folders, merge=merge)
        longest = max_positions(model, tokenizer)
        settings = read_settings(layout, longest) or EncoderSettings(max_length=longest)
        chosen: dict[str, Any] = {
            "pooling": pooling,
            "max_length": max_length,
            "chat_template": chat_template,
            "include_special_tokens": include_special_tokens,
        }
        encoder = cls(model, tokenizer, replace(settings, **{k: v for k, v in chosen.items() if v is not None}))
        encoder.lineage = read_lineage(layout)
        encoder._base, encoder._adapter = str(encoder.lineage.get("base") or source), wrapper
        if working != dtype and not folders:
            encoder._stored = saved_dtype(source, dtype)
        return encoder

    @property
    def dimension(self) -> int:
        """Width of the vectors."""
        return int(text_config(self.model).hidden_size)

    @property
    def went_through_mntp(self) -> bool:
        """True if the lineage names a stage of masked next-token prediction, so that states predict the next token."""
        stages = self.lineage.get("stages") or []
        return any(stage.get("settings", {}).get("objective") == "mntp" for stage in stages)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def tokenize(self, texts: Sequence[str], prompt: str = "") -> list[TokenizedText]:
        """Texts as the model reads them, with their spans; the same for training and for encoding."""
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(f"Text {index} is a {type(text).__name__}, not a string.")
        return self._tokenize(render(texts, prompt, self._chat))

    def _tokenize(self, rendered: Sequence[Rendered]) -> list[TokenizedText]:
        return tokenize(
            self.tokenizer,
            rendered,
            max_length=self.settings.max_length,
            include_special_tokens=self.settings.include_special_tokens,
            include_prompt=self.settings.include_prompt,
        )

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        normalize: bool | None = None,
        batch_tokens: int | None = None,
        compile: bool | None = None,
        progress: bool = False,
    ) -> Floats:
        """Encode texts into vectors, in the order given.

        Args:
            texts: a list, or one string.
            prompt: instruction put in front of every text; not pooled.
            prompt_name: one of the saved prompts instead.
            normalize: scale vectors to length 1; by default as saved.
            batch_tokens: most tokens in a batch; by default what suits the device.
            compile: compile the layers with torch; by default on a CPU, when minutes of work are left.
            progress: show a progress bar.

        Returns:
            float32 [texts, width], or [width] for one string.

        Raises:
            DataError: something that is not a string, or an unknown prompt name.
            EncodingError: a vector that is not finite, with the numbers of the texts.
        """
        if isinstance(texts, str):
            asked: dict[str, Any] = {"prompt": prompt, "prompt_name": prompt_name, "normalize": normalize}
            vector: Floats = self.encode([texts], batch_tokens=batch_tokens, compile=compile, **asked)[0]
            return vector
        vectors = text_vectors(
            self,
            texts,
            self._prompt(prompt, prompt_name),
            batch_tokens=batch_tokens,
            compile=compile,
            progress=progress,
        )
        check_finite(vectors, texts)
        if self.settings.normalize if normalize is None else normalize:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
        return vectors

    def encode_tokens(self, texts: Sequence[str], *, batch_tokens: int | None = None) -> list[TokenVectors]:
        """The states of each text's own tokens (no prompt, template or special tokens), with their offsets."""
        if isinstance(texts, str):
            raise DataError("encode_tokens takes a list of texts; wrap the string in one.")
        tokenized = self.tokenize(texts)
        found: list[TokenVectors | None] = [None] * len(texts)
        for rows, batch in self.batches(tokenized, batch_tokens):
            with torch.inference_mode():
                states = text_states(self.model, batch)[0].float().cpu()
            for row, own in zip(rows, states.split([len(tokenized[row]) for row in rows]), strict=True):
                text = tokenized[row]
                found[row] = TokenVectors(own[torch.from_numpy(text.in_text)].numpy(), text.offsets[text.in_text])
        done = [vectors for vectors in found if vectors is not None]
        for index, own_vectors in enumerate(done):
            check_finite(
                own_vectors.vectors, [texts[index]] * len(own_vectors.vectors), f"tokens of text {index}, rows"
            )
        return done

    def encode_words(
        self,
        texts: Sequence[Sequence[str]],
        *,
        position: WordPosition = "same",
        batch_tokens: int | None = None,
    ) -> list[Floats]:
        """One vector a word: the mean of its tokens' states.

        Args:
            texts: each a list of words; the model reads them joined by single spaces.
            position: `same` takes a token's own state; `previous` the state one token before, where a model
                trained by MNTP predicts it (section 3.1 of the paper).
            batch_tokens: most tokens in a batch.

        Returns:
            For each text float32 [words, width].

        Raises:
            DataError: a text that is longer than `max_length` tokens, or not a list of words.
        """
        found: list[Floats] = [np.empty((0, self.dimension), dtype=np.float32)] * len(texts)
        for row, vectors in word_states(self, texts, positions=(position,), batch_tokens=batch_tokens):
            found[row] = vectors[0, 0]
        return found

    def tokenize_words(self, texts: Sequence[Sequence[str]]) -> list[TokenizedText]:
        """Texts that are lists of words, as the model reads them: joined by single spaces, without a prompt."""
        joined = [" ".join(checked_words(words, index)) for index, words in enumerate(texts)]
        return self._tokenize(render(joined, "", self._chat))

    @contextmanager
    def as_decoder(self) -> Iterator[Any]:
        """The causal language model that the base was, on the same weights, for as long as the block lasts.

        Unmerged adapters are switched off, attention is causal, one-sided layers read forward. The logits are those of
        the untouched base if its weights were not changed: an encoder that was only converted, or one opened with
        `merge=False`. The head comes from the base model, which must still be where it was.

        Yields:
            A transformers model with its head; `.generate` works.

        Raises:
            ArtifactError: the base model is not known or not there.
            ConversionError: windows that cannot be put back.
        """
        if self._base is None:
            raise ArtifactError("as_decoder needs the base model for its head; open the encoder with TextEncoder.load.")
        causal_lm = load_model(self._base, head=True, device=self.device).to(self.model.dtype)
        try:
            with as_causal(self.model), self._adapter.disable_adapter() if self._adapter else nullcontext():
                replace_body(causal_lm, self.model)
                yield causal_lm
        finally:
            if self._adapter:
                self.model.requires_grad_(False)  # peft turns its weights' gradients on again

    def save(self, folder: str | Path) -> None:
        """Write an encoder folder that sentence-transformers opens without this package.

        Raises:
            ArtifactError: the folder exists already and is not empty; unmerged adapters; eight bits.
        """
        if self.quantized:
            raise ArtifactError("Weights in eight bits are not saved; open the encoder again and save that.")
        if self._adapter is not None:
            raise ArtifactError("This encoder keeps its adapters apart; open it with merge=True to save it.")
        lineage = ({"base": self._base} if self._base else {}) | self.lineage
        gaps = gaps_elsewhere(self.model)
        running = self.model.dtype
        try:
            self.model.to(self._stored or running)
            write_encoder(Path(folder), self.model, self.tokenizer, self.settings, lineage, gaps=gaps)
        finally:
            self.model.to(running)

    @property
    def padding_free(self) -> bool:
        """Whether texts lie one after the other in a batch; by default where the family can (docs/support.md).

        Set it to False to pad. Raises ArtifactError when set to True for a family that cannot.
        """
        if self._padding_free is None:
            self._padding_free = reads_flat(self.model)
        return self._padding_free

    @padding_free.setter
    def padding_free(self, wanted: bool) -> None:
        if wanted and not reads_flat(self.model):
            raise ArtifactError(
                f"{family(self.model)} cannot read texts one after the other here; its batches are padded."
            )
        self._padding_free = wanted

    def batches(
        self, tokenized: Sequence[TokenizedText], batch_tokens: int | None = None
    ) -> Iterator[tuple[list[int], Batch]]:
        """Token-budget batches on the model's device, with the numbers of their rows; puts the model in eval mode."""
        if self.model.training:
            self.model.eval()
        self.fast_paths.prepacked.refresh()
        budget = batch_tokens or _BATCH_TOKENS["cpu" if self.device.type == "cpu" else "gpu"]
        for rows in token_budget([len(text) for text in tokenized], budget, padded=not self.padding_free):
            yield rows, self.collate([tokenized[row] for row in rows])

    def collate(self, texts: Sequence[TokenizedText], device: torch.device | None = None) -> Batch:
        """Tokenized texts as one batch, without padding where the model can; on its device unless another is named."""
        if not self.padding_free:
            return self.pad(texts, device)
        place = device or self.device
        return join(texts, fill=place.type == "cpu").to(place)

    def pad(self, texts: Sequence[TokenizedText], device: torch.device | None = None) -> PaddedBatch:
        """Stack tokenized texts into one batch, on the model's device unless another is named."""
        batch = pad(texts, pad_id=pad_token(self.tokenizer), padding_side=self.padding_side)
        return batch.to(device or self.device)

    def _prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        if prompt is not None:
            return prompt
        name = prompt_name or self.settings.default_prompt_name
        if name is None:
            return ""
        if name not in self.settings.prompts:
            known = ", ".join(sorted(self.settings.prompts)) or "none"
            raise DataError(f"This encoder has no prompt named {name!r}; saved prompts: {known}.")
        return self.settings.prompts[name]

"""An encoder as a `SentenceTransformer`, for what is written for that library: trainers, evaluators, topic models.

Its one module hands texts to our own reader and model, so that vectors are those of `encode` whatever the settings:
chat templates and prompts that end inside a token, too, which a saved folder cannot tell that library.
"""

from collections.abc import Sequence
from typing import Any

import torch

from unmask.encoder.runner import EncoderModule, Runner
from unmask.errors import ArtifactError, DataError, MissingExtraError
from unmask.text.reader import Reader

try:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import InputModule, Normalize
except ImportError as missing:
    raise MissingExtraError(
        "to_sentence_transformer needs sentence-transformers: pip install 'unmask[sentence-transformers]'"
    ) from missing


class EncoderInput(InputModule):  # type: ignore[misc]
    """Texts to tokens with their spans, tokens to vectors: the first module of such a model.

    Args:
        reader: tokenizer and settings.
        runner: whose model and pooling are used, not copied.

    Attributes:
        max_seq_length: most tokens of a text, which that library reads and sets.
    """

    def __init__(self, reader: Reader, runner: Runner) -> None:
        super().__init__()
        self.encoder = EncoderModule(runner.model, runner.module.pooling)
        self.max_seq_length = reader.settings.max_length
        self._reader, self._dimension = reader, runner.dimension

    @property
    def tokenizer(self) -> Any:
        """The encoder's tokenizer."""
        return self._reader.tokenizer

    def preprocess(self, inputs: Sequence[str], prompt: str | None = None, **_: Any) -> dict[str, torch.Tensor]:
        """Padded tensors of texts, [texts, tokens].

        Raises:
            DataError: texts that the model cannot read in one batch.
        """
        tokenized = self._reader.tokenize(list(inputs), prompt or "", max_length=self.max_seq_length)
        lengths = [len(text) for text in tokenized]
        if len(list(self._reader.groups(lengths, len(lengths) * max(lengths, default=0), padded=True))) > 1:
            raise DataError("This model reads short and long texts by other frequencies; encode them apart.")
        batch = self._reader.pad(tokenized, torch.device("cpu"))
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "pooled": batch.pooled}

    def forward(self, features: dict[str, torch.Tensor], **_: Any) -> dict[str, torch.Tensor]:
        """The same with vectors [texts, width] among them."""
        vectors = self.encoder(features["input_ids"], features["attention_mask"], features["pooled"])
        return {**features, "sentence_embedding": vectors}

    def get_embedding_dimension(self) -> int:
        """Width of the vectors."""
        return self._dimension

    get_sentence_embedding_dimension = get_embedding_dimension

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Refused: it would be a folder that cannot be opened without this package.

        Raises:
            ArtifactError: always.
        """
        raise ArtifactError("Save the TextEncoder that this was made of: encoder.save(folder), the same weights.")


def as_sentence_transformer(reader: Reader, runner: Runner) -> SentenceTransformer:
    """A `SentenceTransformer` on the weights of a runner."""
    settings = reader.settings
    modules = [EncoderInput(reader, runner), *([Normalize()] if settings.normalize else [])]
    return SentenceTransformer(
        modules=modules,
        prompts=dict(settings.prompts),
        default_prompt_name=settings.default_prompt_name,
        device=str(runner.device),
    )

"""An encoder as a step of scikit-learn's pipelines."""

from collections.abc import Iterable
from typing import Any

from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from typing_extensions import Self

from unmask.encoder.stream import Floats
from unmask.encoder.text_encoder import TextEncoder
from unmask.text.checks import check_strings, ordered


class EncoderVectorizer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Texts to vectors, where scikit-learn has `TfidfVectorizer`; nothing is learned.

    Args:
        encoder: a name that `TextEncoder.load` knows, opened by `fit`; or an encoder, which clones share.
        prompt: instruction put in front of every text.
        prompt_name: one of the saved prompts instead.
        normalize: scale vectors to length 1; by default as saved.
        batch_tokens: most tokens in a batch; by default what suits the device.

    Attributes:
        encoder_: the encoder, once fitted.
    """

    def __init__(
        self,
        encoder: str | TextEncoder = "pocket",
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        normalize: bool | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        self.encoder = encoder
        self.prompt = prompt
        self.prompt_name = prompt_name
        self.normalize = normalize
        self.batch_tokens = batch_tokens

    def fit(self, X: Iterable[str], y: Any = None) -> Self:
        """Open the encoder.

        Raises:
            DataError: no list of strings.
            ArtifactError: an encoder that cannot be opened.
        """
        check_strings(ordered(X))
        self.encoder_ = self.encoder if isinstance(self.encoder, TextEncoder) else TextEncoder.load(self.encoder)
        self._n_features_out = self.encoder_.dimension
        return self

    def fit_transform(self, X: Iterable[str], y: Any = None) -> Floats:
        """Vectors of texts, which may be a generator.

        Raises:
            UnmaskError: as `fit` and `transform`.
        """
        listed = list(ordered(X))
        vectors: Floats = self.fit(listed, y).transform(listed)
        return vectors

    def transform(self, X: Iterable[str]) -> Floats:
        """Vectors of texts, float32 [texts, width].

        Raises:
            DataError: no list of strings, or a prompt name that is not saved.
            EncodingError: a vector that is not finite.
        """
        check_is_fitted(self)
        return self.encoder_.encode(
            ordered(X),
            prompt=self.prompt,
            prompt_name=self.prompt_name,
            normalize=self.normalize,
            batch_tokens=self.batch_tokens,
        )

    def __sklearn_clone__(self) -> Self:
        """Without this a clone would copy the weights."""
        clone = type(self)(**self.get_params(deep=False))
        if hasattr(self, "_sklearn_output_config"):
            clone._sklearn_output_config = dict(self._sklearn_output_config)
        return clone

    def __sklearn_tags__(self) -> Any:
        """It reads strings, one a row."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags

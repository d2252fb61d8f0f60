"""An encoder in eight bits, with what that costs."""

from collections.abc import Sequence

import numpy as np

from unmask.backbone.quantized import eight_bit
from unmask.encoder.text_encoder import TextEncoder
from unmask.encoder.words import Floats


def to_int8(encoder: TextEncoder, sample: Sequence[str]) -> Floats:
    """Put an encoder's linear layers into eight bits, in place; it can encode then, not be saved.

    Args:
        encoder: whose model is changed.
        sample: texts to say the loss of accuracy on.

    Returns:
        The cosine between the vectors before and after, one a text.

    Raises:
        MissingExtraError: torchao is not installed.
    """
    before = encoder.encode(sample, normalize=True)
    eight_bit(encoder.model)
    encoder.quantized = True
    cosines: Floats = np.sum(before * encoder.encode(sample, normalize=True), axis=1)
    return cosines

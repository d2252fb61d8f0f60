"""An encoder in eight bits, with what that costs."""

from collections.abc import Sequence

import numpy as np

from unmask.backbone.fast.int8 import EightBits
from unmask.encoder.stream import Floats
from unmask.encoder.text_encoder import TextEncoder


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
    EightBits().attach(encoder.model)
    encoder.quantized = True
    cosines: Floats = np.sum(before * encoder.encode(sample, normalize=True), axis=1)
    return cosines

"""An encoder in eight bits by torchao's dynamic quantisation, with what that costs."""

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np

from unmask.encoder.stream import Floats
from unmask.encoder.text_encoder import TextEncoder
from unmask.errors import MissingExtraError


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
    if find_spec("torchao") is None:
        raise MissingExtraError("int8 needs torchao; install it with pip install 'unmask[int8]'.")
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    before = encoder.encode(sample, normalize=True)
    quantize_(encoder.model, Int8DynamicActivationInt8WeightConfig())  # a scale a row; what comes in a token at a time
    encoder.quantized = True
    cosines: Floats = np.sum(before * encoder.encode(sample, normalize=True), axis=1)
    return cosines

"""An encoder in eight bits, with what that costs."""

import logging
from collections.abc import Sequence

import numpy as np

from unmask.backbone.fast import operators
from unmask.backbone.fast.int8 import available, largest_inputs, put_in_int8
from unmask.encoder.stream import Floats
from unmask.encoder.text_encoder import TextEncoder
from unmask.errors import ArtifactError

logger = logging.getLogger(__name__)


def to_int8(encoder: TextEncoder, sample: Sequence[str]) -> Floats:
    """Put an encoder's linear layers into eight bits, in place; it can encode then, not be saved.

    Args:
        encoder: whose model is changed.
        sample: texts like those to come, some dozens: inputs are scaled by what they show, and the loss of accuracy is
            told on them.

    Returns:
        The cosine between the vectors before and after, one a text.

    Raises:
        ArtifactError: not on a CPU; adapters that are kept apart; weights that another library has quantised.
    """
    possible = available(encoder.model)
    if not possible:
        raise ArtifactError(f"This encoder cannot be put into eight bits: {possible.reason}.")
    if operators.has_amx():  # docs/results.md
        logger.warning(
            "This processor has AMX, by which bfloat16 is faster than eight bits for all but single short texts."
        )
    encoder.runner.begin_anew()
    with largest_inputs(encoder.model) as largest:
        before = encoder.encode(sample, normalize=True, compile=False)
    put_in_int8(encoder.model, largest)
    encoder.runner.begin_anew()
    encoder.quantized = True
    cosines: Floats = np.sum(before * encoder.encode(sample, normalize=True), axis=1)
    return cosines

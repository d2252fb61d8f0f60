"""Masked-token loss and accuracy on held-out text, by the model's own frozen head, on fixed masks."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from unmask.backbone.forward import TokenStates
from unmask.backbone.head import LanguageModelHead
from unmask.data.blocks import pack, stack
from unmask.encoder import TextEncoder
from unmask.objectives.mntp import MaskedNextToken, build_masking, mask_token_id
from unmask.text.batching import pad_token
from unmask.text.chunks import chunks


def check_mask_token(tokenizer: Any, mask_token: str) -> None:
    """See that a tokenizer has the mask token, before any weight is loaded.

    Raises:
        RecipeError: it has not.
    """
    mask_token_id(tokenizer, mask_token)


def evaluate_masked(
    encoder: TextEncoder,
    causal_lm: Any,
    texts: Sequence[str],
    *,
    block_size: int,
    num_blocks: int,
    mask_token: str = "_",
    mask_rate: float = 0.2,
) -> dict[str, float]:
    """BERT-style masking at `mask_rate`; the state one position before a masked token predicts it.

    Args:
        encoder: causal or bidirectional; a causal one predicts from the words before only.
        causal_lm: the base model, for its head.
        texts: held-out documents, in the order given.
        block_size: tokens a block; one piece of a document each, so that causal models are treated alike.
        num_blocks: how many blocks.
        mask_token: as in training.
        mask_rate: share of tokens masked.

    Returns:
        masked_loss (nats), masked_accuracy (0 to 1), masked_tokens.
    """
    tokenizer = encoder.tokenizer
    masking = build_masking(tokenizer, token=mask_token, rate=mask_rate, style="bert")
    blocks = islice(pack(texts, tokenizer, block_size=block_size, one_piece_a_block=True), num_blocks)
    head = LanguageModelHead(causal_lm).to(encoder.device)
    encoder.model.eval()
    padded_tokens = None if encoder.padding_free else 16 * block_size
    options = {"pad_id": pad_token(tokenizer), "never_mask": masking.mask_id, "padded_tokens": padded_tokens}
    batches = [stack(part, **options).to(encoder.device) for part in chunks(blocks, 16)]  # type: ignore[arg-type]
    return MaskedNextToken(head, masking).evaluate(TokenStates(encoder.model), batches)

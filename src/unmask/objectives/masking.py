"""Which token stands for "masked", chosen and checked; and the masking of a stage."""

from typing import Any

import torch

from unmask.errors import RecipeError
from unmask.objectives.mntp import Masking, MaskingStyle

OWN = "own"


def mask_token_id(tokenizer: Any, wanted: str) -> int:
    """The id of the mask token.

    Args:
        tokenizer: a transformers tokenizer.
        wanted: a piece of the vocabulary (the paper takes `_`), or `own` for the tokenizer's own mask token.

    Raises:
        RecipeError: it is not one known token.
    """
    if wanted == OWN:
        if tokenizer.mask_token_id is None:
            raise RecipeError("mask_token: own was asked for, but the tokenizer has no mask token; name one, or use _.")
        return int(tokenizer.mask_token_id)
    piece = tokenizer.convert_tokens_to_ids(wanted)
    if piece is not None and piece != tokenizer.unk_token_id:
        return int(piece)
    ids = tokenizer.encode(wanted, add_special_tokens=False)
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise RecipeError(f"mask_token {wanted!r} is {len(ids)} tokens here ({ids}); it must be one known token.")
    return int(ids[0])


def build_masking(tokenizer: Any, *, token: str, rate: float, style: MaskingStyle) -> Masking:
    """The masking of a stage; random replacements are never special or added tokens."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    allowed = [i for i in range(len(tokenizer)) if i not in special]
    return Masking(mask_token_id(tokenizer, token), torch.tensor(allowed), rate, style)

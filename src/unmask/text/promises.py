"""The special tokens that a tokenizer puts around every text: those that its files promise, and those asked for."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from unmask.errors import ArtifactError
from unmask.text.spans import special_affixes

logger = logging.getLogger(__name__)


def keep_promises(tokenizer: Any, config: Mapping[str, Any], name: str) -> None:
    """Put BOS and EOS around texts where tokenizer_config.json promises them and the tokenizer does not add them.

    Raises:
        ArtifactError: it promises a token that it does not have, or cannot be made to add.
    """
    before, after = special_affixes(tokenizer)
    wanted_before, wanted_after = list(before), list(after)
    kept = []
    for key, token in (("add_bos_token", tokenizer.bos_token_id), ("add_eos_token", tokenizer.eos_token_id)):
        if not config.get(key):
            continue
        if token is None:
            raise ArtifactError(f"{name}: tokenizer_config.json says {key}: true, but the tokenizer has no such token.")
        if token not in (before if key == "add_bos_token" else after):
            kept.append(key)
            (wanted_before if key == "add_bos_token" else wanted_after).append(token)
    if not kept:
        return
    if not surround(tokenizer, wanted_before, wanted_after):
        raise ArtifactError(f"{name}: tokenizer_config.json says {kept[0]}: true, and the tokenizer cannot be made to.")
    logger.warning(
        f"{name}: tokenizer_config.json says {' and '.join(kept)}, which the tokenizer itself does not do; here it "
        "does, and where it is saved. Other programs may read this folder without those tokens."
    )


def surround(tokenizer: Any, before: Sequence[int], after: Sequence[int]) -> bool:
    """Make a tokenizer put special tokens before and after every text; False if it then does something else."""
    from tokenizers import processors

    # One template for all special tokens: chained templates would each wrap what the one before them added.
    ids = [*before, *after]
    names = tokenizer.convert_ids_to_tokens(ids)
    head, tail = names[: len(before)], names[len(before) :]
    template = processors.TemplateProcessing(
        single=[*head, "$A", *tail],
        pair=[*head, "$A", *tail, *(f"{name}:1" for name in head), "$B:1", *(f"{name}:1" for name in tail)],
        special_tokens=list(dict.fromkeys(zip(names, ids, strict=True))),
    )
    backend = tokenizer.backend_tokenizer
    existing = json.loads(backend.to_str())["post_processor"] or {}
    levels = [p for p in [existing, *existing.get("processors", [])] if p.get("type") == "ByteLevel"]
    kept = [processors.ByteLevel(trim_offsets=level["trim_offsets"]) for level in levels]
    backend.post_processor = processors.Sequence([*kept, template]) if kept else template
    return special_affixes(tokenizer) == (list(before), list(after))

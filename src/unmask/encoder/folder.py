"""The encoder folder: a plain sentence-transformers layout, written so that every runtime reads it alike.

Beside the usual files it holds `unmask.json` with what that layout cannot say (chat template, lineage). Keys that
runtimes read under different names are written in every form: `is_causal` and `use_bidirectional_attention`, both
forms of the pooling config, `rope_parameters` and the older rope keys.
"""

import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from unmask.backbone.families import facts
from unmask.backbone.families.switches import attention_mode
from unmask.backbone.locate import SCORES
from unmask.backbone.truth.recurrent import recurrent_mode
from unmask.backbone.written_tokenizer import hold_to_itself
from unmask.backbone.written_weights import refuse_to_transformers_4
from unmask.encoder.card import card
from unmask.encoder.fingerprint import same
from unmask.encoder.saved import as_saved
from unmask.files import new_folder, read_json, write_json, write_text
from unmask.pooling import POOLINGS
from unmask.settings import EncoderSettings
from unmask.text.reader import Reader
from unmask.text.spans import special_affixes

logger = logging.getLogger(__name__)

POOLING_WEIGHTS = "pooling.safetensors"  # of poolings that have any
_EXCLUDED_WEIGHT = 1e-6
_ST = "sentence_transformers.models."
# What no version meets: sentence-transformers from 6.0 on refuses the folder, and says why.
_ONLY_UNMASK = {
    "sentence-transformers": {
        "specifier": "<0",
        "reason": "Some layers read in both directions, as unmask.TextEncoder alone does; use that.",
    }
}


def write_encoder(
    folder: Path,
    model: Any,
    reader: Reader,
    lineage: dict[str, Any] | None = None,
    *,
    pooling: nn.Module | None = None,
    gaps: Sequence[str] = (),
    fingerprint: str | None = None,
    scores: Mapping[str, Any] | None = None,
    weights: bool = True,
) -> None:
    """Write model, tokenizer and layout files into a new folder, and say what other runtimes will do differently.

    Args:
        folder: new or empty.
        model: with its config as it should be saved.
        reader: tokenizer and settings, which say how texts become vectors.
        lineage: where the weights came from.
        pooling: whose weights are saved too, if it has any.
        gaps: differences between runtimes that are known already, in words.
        fingerprint: of the encoder; a record, since somebody may change the weights later.
        scores: see `read_scores`; left out where they are of another fingerprint.
        weights: False leaves the model's weights out.

    Raises:
        ArtifactError: the folder is not new; a tokenizer that reads texts otherwise once it is saved.
    """
    tokenizer, settings = reader.tokenizer, reader.settings
    gaps = [*gaps, *interop_gaps(tokenizer, settings)]
    for gap in gaps:
        logger.warning(gap)
    with new_folder(folder) as partial:
        if weights:
            model.save_pretrained(partial, safe_serialization=True)
            if attention_mode(model) == "bidirectional":
                refuse_to_transformers_4(partial)
        else:
            model.config.architectures = [type(model).__name__]
            model.config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        _complete_config(partial / "config.json")
        hold_to_itself(partial, tokenizer)
        width = int(model.config.get_text_config().hidden_size)
        requirements: dict[str, Any] = {
            "transformers": ">=5.2"
        }  # an older one would read the decoder as causal without a word
        if recurrent_mode(model) == "two-way":
            requirements |= _ONLY_UNMASK
        _write_layout(partial, tokenizer, settings, width, requirements)
        if pooling is not None and (learned := pooling.state_dict()):
            save_file({name: value.contiguous() for name, value in learned.items()}, partial / POOLING_WEIGHTS)
        own = as_saved(settings, lineage or {}, reader.chat)
        if fingerprint is not None:
            own["fingerprint"] = fingerprint
        write_json(partial / "unmask.json", own)
        told: dict[str, Any] = {"gaps": gaps, "splits": tokenizer.split_special_tokens, "fingerprint": fingerprint}
        if scores and fingerprint is not None and same(scores["fingerprint"], fingerprint):
            write_json(partial / SCORES, dict(scores))
            told["scores"] = scores
        write_text(partial / "README.md", card(settings, lineage or {}, width=width, **told))


def interop_gaps(tokenizer: Any, settings: EncoderSettings) -> list[str]:
    """What sentence-transformers cannot reproduce of these settings, in words."""
    found = []
    if settings.chat_template:
        found.append("sentence-transformers applies no chat template; load this folder with unmask.TextEncoder.")
    if POOLINGS[settings.pooling].layout is None:
        found.append(f"sentence-transformers has no pooling {settings.pooling!r}; it will refuse to open this folder.")
    if settings.pooling == "last" and not settings.include_special_tokens and special_affixes(tokenizer)[1]:
        found.append("the tokenizer ends texts with a special token, which sentence-transformers' last token is.")
    for name, prompt in settings.prompts.items():
        alone = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        joined = tokenizer(prompt + "word", add_special_tokens=False)["input_ids"]
        if joined[: len(alone)] != alone and POOLINGS[settings.pooling].averages and not settings.include_prompt:
            found.append(
                f"prompt {name!r} ({prompt!r}) ends inside a token: sentence-transformers will leave one token of the "
                "text out of the mean. End it with a full token, for example a colon or a newline."
            )
    return found


def _complete_config(path: Path) -> None:
    """Write beside the current config keys those that older and other readers look for."""
    config = read_json(path)
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and "rope_type" in rope:
        config.setdefault("rope_theta", rope.get("rope_theta"))
        scaling = {k: v for k, v in rope.items() if k != "rope_theta"}
        config.setdefault("rope_scaling", None if rope["rope_type"] == "default" else scaling)
    elif isinstance(rope, dict) and "full_attention" in rope:  # one set a kind of layer (Gemma 3)
        config.setdefault("rope_theta", rope["full_attention"].get("rope_theta"))
        config.setdefault("rope_local_base_freq", rope.get("sliding_attention", {}).get("rope_theta"))
    if config.get("is_causal") is False and facts(str(config.get("model_type"))).flag_elsewhere:
        config["use_bidirectional_attention"] = True
    write_json(path, config)


def _write_layout(
    folder: Path, tokenizer: Any, settings: EncoderSettings, width: int, requirements: dict[str, Any]
) -> None:
    """modules.json and the config of each module."""
    modules = [("", "Transformer")]
    excluded = _excluded_ids(tokenizer, settings)
    if excluded:
        modules.append(("WordWeights", "WordWeights"))
        _write_word_weights(folder / "WordWeights", tokenizer, excluded)
    modules.append(("1_Pooling", "Pooling"))
    (folder / "1_Pooling").mkdir()
    compact, chosen = POOLINGS[settings.pooling].layout or (settings.pooling, "")
    booleans = {one.layout[1]: one.layout[1] == chosen for one in POOLINGS.values() if one.layout}
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": width,
            "pooling_mode": compact,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
            **booleans,
            # Picking one token needs no exclusion, and that layout would pick among the tokens behind the prompt.
            "include_prompt": settings.include_prompt or not POOLINGS[settings.pooling].averages,
        },
    )
    if settings.normalize:
        modules.append(("2_Normalize", "Normalize"))
        (folder / "2_Normalize").mkdir()
    write_json(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": _ST + kind} for i, (path, kind) in enumerate(modules)],
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": settings.max_length, "do_lower_case": False})
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {name: version(name) for name in ("transformers", "torch")},
            "requirements": requirements,
            "prompts": settings.prompts,
            "default_prompt_name": settings.default_prompt_name,
            "similarity_fn_name": "cosine",
        },
    )


def _excluded_ids(tokenizer: Any, settings: EncoderSettings) -> list[int]:
    """Special tokens that the tokenizer adds and a mean must leave out."""
    if settings.include_special_tokens or not POOLINGS[settings.pooling].averages:
        return []
    before, after = special_affixes(tokenizer)
    return sorted({*before, *after})


def _write_word_weights(folder: Path, tokenizer: Any, excluded: list[int]) -> None:
    """Next to no weight for the excluded tokens: how that layout leaves BOS out of a mean.

    Not quite zero, so that an empty text, of which nothing else is left, is pooled over them.
    """
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir()
    vocabulary = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    weights = np.ones((len(vocabulary), 1), dtype=np.float32)
    weights[excluded] = _EXCLUDED_WEIGHT
    write_json(
        folder / "config.json",
        {
            "vocab": vocabulary,
            "word_weights": {vocabulary[i]: _EXCLUDED_WEIGHT for i in excluded},
            "unknown_word_weight": 1.0,
        },
    )
    save_file({"emb_layer.weight": weights}, folder / "model.safetensors")

"""Every key of a sentence-transformers folder, up to version 6: obeyed, refused, or without influence on the vectors.

The table of docs/reading.md is made of this one. A key that stands in neither may change vectors, and is refused.
"""

from dataclasses import dataclass
from typing import Any, Literal

Reading = Literal["obeyed", "refused", "no influence"]
_NOTHING: tuple[Any, ...] = (None, False, "", {}, [])


@dataclass(frozen=True, slots=True)
class Key:
    """How one key is read.

    Attributes:
        reading: obeyed, refused, or no influence on the vectors.
        why: in a few words.
        neutral: values that a refused key may have, because nothing follows from them.
    """

    reading: Reading
    why: str
    neutral: tuple[Any, ...] = _NOTHING


def _obeyed(why: str) -> Key:
    return Key("obeyed", why)


def _refused(why: str, *neutral: Any) -> Key:
    return Key("refused", why, (*_NOTHING, *neutral))


def _harmless(why: str) -> Key:
    return Key("no influence", why)


def _loading(old: str, new: str, known: dict[str, Key]) -> dict[str, Key]:
    """Arguments of `from_pretrained` that a config may hold, under their older and their newer name."""
    return {f"{name}.{key}": entry for name in (old, new) for key, entry in known.items()}


_UNSAFE = _harmless("never obeyed, here or there")
_CALL = {  # what a tokenizer is called with
    "padding": _harmless("padding is masked"),
    "pad_to_multiple_of": _harmless("padding is masked"),
    "padding_side": _harmless("padding is masked"),
    "return_tensors": _harmless("form of the result"),
    "return_attention_mask": _harmless("form of the result"),
    "return_token_type_ids": _harmless("form of the result"),
    "truncation": _refused("only the end of a text is cut", True, "longest_first", "only_first"),
    "logits_to_keep": _harmless("there is no head"),
}

TRANSFORMER: dict[str, Key] = {
    "max_seq_length": _obeyed("most tokens of a text; null: what model and tokenizer allow"),
    "do_lower_case": _obeyed("the tokenizer lowers letters first"),
    "transformer_task": _refused("another model class", "feature-extraction"),
    "modality_config": _obeyed("`message`: every text goes through the chat template; else plain text"),
    "module_output_name": _refused("token states are needed", "token_embeddings"),
    "unpad_inputs": _harmless("speed"),
    "query_length": _refused("queries are cut otherwise than documents"),
    "document_length": _refused("documents are cut otherwise than queries"),
    "query_expansion": _refused("queries are filled up with mask tokens"),
    "tokenizer_name_or_path": _refused("a tokenizer from elsewhere"),
    "backend": _refused("weights in another form", "torch"),
    **_loading(
        "model_args",
        "model_kwargs",
        {
            "trust_remote_code": _UNSAFE,
            "attn_implementation": _harmless("speed"),
            "device_map": _harmless("where the weights are"),
            "low_cpu_mem_usage": _harmless("memory"),
            "use_safetensors": _harmless("form of the file"),
            "use_cache": _harmless("there is no generation"),
            "add_pooling_layer": _harmless("nothing runs that layer"),
            "torch_dtype": _harmless("rounding; `load(dtype=)` decides it here"),
            "dtype": _harmless("rounding; `load(dtype=)` decides it here"),
        },
    ),
    **_loading(
        "tokenizer_args",
        "processor_kwargs",
        {
            "trust_remote_code": _UNSAFE,
            "model_max_length": _obeyed("most tokens of a text, before max_seq_length"),
            "padding_side": _harmless("padding is masked"),
            "use_fast": _harmless("tokenizers are fast"),
        },
    ),
    **_loading("config_args", "config_kwargs", {"trust_remote_code": _UNSAFE, "use_cache": _harmless("no generation")}),
    "processing_kwargs.text.max_length": _obeyed("most tokens of a text, before all others"),
    **{f"processing_kwargs.{part}.{key}": entry for part in ("text", "common") for key, entry in _CALL.items()},
    **{f"processing_kwargs.{part}.*": _harmless("only texts are read") for part in ("audio", "image", "video")},
    **{
        f"processing_kwargs.chat_template.{key}": _refused("not a variable of the template")
        for key in (
            "truncation",
            "max_length",
            "tokenize",
            "return_dict",
            "tokenizer_kwargs",
            "continue_final_message",
            "sanitize_control_tokens",
            "return_assistant_tokens_mask",
        )
    },
    "processing_kwargs.chat_template.padding": _harmless("padding is masked"),
    "processing_kwargs.chat_template.return_tensors": _harmless("form of the result"),
    "processing_kwargs.chat_template.restore_suffix": Key("refused", "a long text would lose its end", (True,)),
    "processing_kwargs.chat_template.*": _obeyed("variables of the chat template"),
}
MODEL: dict[str, Key] = {
    "prompts": _obeyed("by name, in front of a text"),
    "default_prompt_name": _obeyed("used where no other is asked for"),
    "truncate_dim": _refused("vectors are cut short; cut those of `encode` instead"),
    "model_type": _refused("another kind of model", "SentenceTransformer"),
    "requirements": _obeyed("a package that is too old is an error"),
    "similarity_fn_name": _harmless("what is done with vectors afterwards"),
    "__version__": _harmless("who wrote the folder"),
}
MODULE: dict[str, Key] = {
    "idx": _harmless("modules run in the order of the file"),
    "name": _harmless("a label; two modules of one name are refused"),
    "path": _obeyed("where the module's config is; the Transformer must lie in the folder itself"),
    "type": _obeyed("Transformer, WordWeights, Pooling, Normalize in this order; others are refused"),
    "kwargs": _harmless("names of further arguments of a call"),
}
POOLING: dict[str, Key] = {
    "word_embedding_dimension": _harmless("width of the states, which the model knows"),
    "embedding_dimension": _harmless("width of the states, which the model knows"),
    "pooling_mode": _obeyed("mean, weightedmean, lasttoken, cls; several at once, max and mean_sqrt_len are refused"),
    "pooling_mode_mean_tokens": _obeyed("mean"),
    "pooling_mode_weightedmean_tokens": _obeyed("weighted_mean"),
    "pooling_mode_lasttoken": _obeyed("last"),
    "pooling_mode_cls_token": _obeyed("first"),
    "pooling_mode_max_tokens": _refused("a maximum over tokens"),
    "pooling_mode_mean_sqrt_len_tokens": _refused("a sum over the root of the length"),
    "include_prompt": _obeyed("false: a prompt and the special tokens in front of it are left out of a mean"),
}
NORMALIZE: dict[str, Key] = {
    "module_input_name": _refused("other vectors are scaled", "sentence_embedding"),
    "module_output_name": _refused("other vectors are scaled", "sentence_embedding"),
}
WORD_WEIGHTS: dict[str, Key] = {
    "vocab": _harmless("spellings of the tokens"),
    "word_weights": _obeyed("where they leave out the tokenizer's added tokens and nothing else; others are refused"),
    "unknown_word_weight": _refused("every token weighted otherwise", 1, 1.0),
}
# The name under which each table stands in the documentation.
TABLES: dict[str, dict[str, Key]] = {
    "modules.json": MODULE,
    "config_sentence_transformers.json": MODEL,
    "sentence_bert_config.json": TRANSFORMER,
    "Pooling": POOLING,
    "Normalize": NORMALIZE,
    "WordWeights": WORD_WEIGHTS,
}
NESTED = {  # keys whose own keys stand in the table
    *("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs"),
    *("processing_kwargs", *(f"processing_kwargs.{x}" for x in ("text", "common", "audio", "image", "video"))),
    "processing_kwargs.chat_template",
}
MODULES = ("Transformer", "WordWeights", "Pooling", "Normalize")  # in the order in which they may come


def markdown() -> str:
    """The tables as they stand in docs/reading.md."""
    rows = ["| file or module | key | read | |", "| --- | --- | --- | --- |"]
    for name, table in TABLES.items():
        for key, entry in table.items():
            meant = ", ".join(f"`{value}`" for value in entry.neutral if value not in _NOTHING)
            rows.append(f"| {name} | `{key}` | {entry.reading} | {entry.why}{f' ({meant})' if meant else ''} |")
    return "\n".join(rows) + "\n"

"""What goes wrong where encoders are served: the name of each fault, what it means, and what to do."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to be wrong.

    Attributes:
        says: what was found, as a sentence.
        remedy: what to do.
    """

    says: str
    remedy: str


_TOKENS = "look at what the tokenizer of the served copy adds: tokenizer.json's post_processor, and add_bos_token and "
_TOKENS += "add_eos_token of tokenizer_config.json"
_POOLING = "set the runtime's pooling to what 1_Pooling/config.json says; many take the last token unless told"
_CUT = "set the runtime's limit to the encoder's max_length (sentence_bert_config.json)"
_MEAN = "the runtime knows no WordWeights module: unmask export --pool-special-tokens, or train with them (the default)"
_PROMPT = "the runtime does not leave prompts out of the mean: use include_prompt: true for it, or one that reads it"

FAULTS: dict[str, Fault] = {
    "causal": Fault(
        "attention is causal: tokens do not see those behind them",
        "the runtime does not read is_causal: false of config.json; use a version that does (docs/serving.md)",
    ),
    "bos-pooled": Fault("BOS counts in the mean", _MEAN),
    "bos-left-out": Fault("BOS is left out of the mean", "take out what excludes it; this encoder averages it in"),
    "eos-pooled": Fault("EOS counts in the mean", _MEAN),
    "eos-left-out": Fault("EOS is left out of the mean", "take out what excludes it; this encoder averages it in"),
    "prompt-pooled": Fault("the prompt counts in the mean", _PROMPT),
    "prompt-left-out": Fault("the prompt is left out of the mean", "set include_prompt: true in 1_Pooling/config.json"),
    "bos-missing": Fault("BOS is missing in front of texts", _TOKENS),
    "bos-doubled": Fault("BOS stands twice in front of texts", _TOKENS),
    "bos-added": Fault("a BOS that this encoder does not read stands in front of texts", _TOKENS),
    "eos-missing": Fault("EOS is missing behind texts", _TOKENS),
    "eos-doubled": Fault("EOS stands twice behind texts", _TOKENS),
    "eos-added": Fault("an EOS that this encoder does not read stands behind texts", _TOKENS),
    "prompt-dropped": Fault("the prompt is not put in front", "send the prompt with the text, or name it"),
    "prompt-added": Fault("a saved prompt stands in front that was not asked for", "look at default_prompt_name"),
    "template-missing": Fault("the chat template is left out", "render texts with the tokenizer's chat template first"),
    "pooled-by-mean": Fault("vectors are the mean of all tokens", _POOLING),
    "pooled-by-weighted-mean": Fault("vectors are the weighted mean of all tokens", _POOLING),
    "pooled-by-last-token": Fault("vectors are the state of the last token", _POOLING),
    "pooled-by-first-token": Fault("vectors are the state of the first token (cls)", _POOLING),
    "spaces-stripped": Fault(
        "outer spaces of texts are stripped", "sentence-transformers does so before 5.4; strip your texts, or update it"
    ),
    "special-tokens-parsed": Fault(
        "the spelling of a special token in a text is taken for the token",
        "the runtime does not read split_special_tokens of tokenizer_config.json; take such spellings out of texts",
    ),
    "cut-short": Fault("long texts are cut shorter than this encoder reads them", _CUT),
    "cut-late": Fault("long texts are read beyond the encoder's limit", _CUT),
    "cut-at-the-start": Fault(
        "long texts lose their beginning instead of their end", "let the runtime cut on the right"
    ),
    "mask-skipped": Fault(
        "padding is attended: the attention mask is not read",
        "send texts one at a time, or use a version of the runtime that masks padding",
    ),
    "not-normalised": Fault(
        "vectors do not have length 1", "normalise them (2_Normalize in modules.json), or compare by cosine only"
    ),
    "other-width": Fault("vectors have another width", "ask for no dimensions, or this is another encoder"),
    "not-finite": Fault("vectors are not finite, or all zeros", "let the runtime compute in float32"),
    "coarse": Fault(
        "arithmetic is coarser than bfloat16, as in eight bits, or weights were changed a little",
        "serve it in bfloat16 or float32, or accept the cosine",
    ),
    "another-encoder": Fault(
        "no known fault looks like this: another model, other weights or another tokenizer",
        "compare model and tokenizer files with those of the encoder",
    ),
    "some-texts": Fault(
        "some kinds of texts have other vectors, and no known fault looks like this",
        "compare the token ids of such texts with those of the encoder",
    ),
    "unsteady": Fault("the same text gets another vector the second time", "switch off prefix caching in the runtime"),
    "batch-dependent": Fault(
        "a vector depends on the texts beside it in a request",
        "send texts one at a time; look for batching of attention (llama.cpp: --kv-unified)",
    ),
    "order-lost": Fault("vectors do not come in the order of the texts", "sort the answer by its index, or one by one"),
    "base64-differs": Fault("base64 holds other numbers than the list", "ask for encoding_format float"),
    "changed-since-saved": Fault(
        "weights, tokenizer or settings are not those that were saved: the fingerprint in unmask.json is another",
        "take the folder anew from where it was made",
    ),
}

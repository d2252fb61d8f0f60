"""Models of published shapes, and texts of known lengths: what the benchmarks run on."""

import json
from functools import cache
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {  # for trying a benchmark out
        **{"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256},
        **{"num_key_value_heads": 2, "vocab_size": 32000},
    },
    "30m": {
        **{"hidden_size": 384, "num_hidden_layers": 8, "num_attention_heads": 6, "intermediate_size": 1024},
        **{"num_key_value_heads": 2, "vocab_size": 32000},
    },
    "135m": {  # SmolLM2-135M
        **{"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "intermediate_size": 1536},
        **{"num_key_value_heads": 3, "vocab_size": 49152},
    },
    "0.6b": {  # Qwen3-0.6B
        **{"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "intermediate_size": 3072},
        **{"num_key_value_heads": 8, "vocab_size": 151936, "head_dim": 128, "family": "qwen3"},
    },
    "smollm2": {  # the real weights, and its own tokenizer
        **{"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "intermediate_size": 1536},
        **{"num_key_value_heads": 3, "vocab_size": 49152},
    },
    "1b": {  # Llama-3.2-1B
        **{"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "intermediate_size": 8192},
        **{"num_key_value_heads": 8, "vocab_size": 128256},
    },
}
WORKLOADS = ("short", "mixed", "long")


def body_weights(shape: str) -> int:
    """Weights that every token is multiplied with, the head's not counted."""
    s = SHAPES[shape]
    head = s.get("head_dim", s["hidden_size"] // s["num_attention_heads"])
    attention = 2 * s["hidden_size"] * head * (s["num_attention_heads"] + s["num_key_value_heads"])
    return int(s["num_hidden_layers"] * (attention + 3 * s["hidden_size"] * s["intermediate_size"]))


def make_model(
    shape: str,
    folder: Path,
    *,
    dtype: str = "bfloat16",
    head: bool = True,
    causal: bool = True,
    device: str = "cpu",
) -> None:
    """A model of a shape as a transformers folder: random, with the pocket tokenizer, drawn on a device; or SmolLM2."""
    import torch
    import transformers

    from unmask.backbone.locate import load_tokenizer, resolve_model

    auto = transformers.AutoModelForCausalLM if head else transformers.AutoModel
    if shape == "smollm2":
        model = auto.from_pretrained(resolve_model(shape), dtype=getattr(torch, dtype))
    else:
        sizes = dict(SHAPES[shape])
        config = transformers.AutoConfig.for_model(
            sizes.pop("family", "llama"),
            **sizes,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        torch.manual_seed(0)
        with torch.device(device):
            model = auto.from_config(config, dtype=getattr(torch, dtype))
    if not causal:
        model.config.is_causal = False
    model.save_pretrained(folder)
    load_tokenizer(shape if shape == "smollm2" else "pocket").save_pretrained(folder)
    _for_other_libraries(folder)


def _for_other_libraries(folder: Path) -> None:
    """Spell tokenizer and config as older libraries know them; no BOS, which some pool and others do not."""
    names = ("tokenizer_config.json", "tokenizer.json", "config.json")
    settings, tokenizer, config = (json.loads((folder / name).read_text()) for name in names)
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if (tokenizer["post_processor"] or {}).get("type") == "TemplateProcessing":
        tokenizer["post_processor"] = None
    merges = tokenizer["model"]["merges"]
    tokenizer["model"]["merges"] = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    rope = config["rope_parameters"]
    config |= {"rope_theta": rope["rope_theta"], "rope_scaling": None, "torch_dtype": config.get("dtype")}
    for name, value in zip(names, (settings, tokenizer, config), strict=True):
        (folder / name).write_text(json.dumps(value))


def workload(name: str, count: int, source: Path | None) -> list[str]:
    """Texts of about 20 tokens (short), as paragraphs come (mixed), or 512 tokens and more (long).

    Args:
        name: one of `WORKLOADS`.
        count: how many.
        source: a jsonl file of `text` records, a paragraph a line; prose that ships with Python if there is none.
    """
    paragraphs = _paragraphs(source)
    if name == "mixed":
        step = max(1, len(paragraphs) // count)
        return paragraphs[::step][:count]
    words = " ".join(paragraphs).split()
    size = 13 if name == "short" else 420  # words; a word is about 1.5 tokens here
    return [" ".join(words[i : i + size]) for i in range(0, size * count, size)]


@cache
def _paragraphs(source: Path | None) -> list[str]:
    if source is None:
        from unmask.demo.texts import collect_texts

        return collect_texts(num_queries=1).documents
    lines = source.read_text(encoding="utf-8").splitlines()
    return [p for line in lines for p in json.loads(line)["text"].split("\n") if p.strip()]

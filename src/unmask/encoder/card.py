"""The README.md of an encoder folder: what it is, what it was trained on, how it is used, what other runtimes do.

The block on top is what hubs read (base model, library, task); it holds no licence, because nobody here knows that of
the data.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from unmask.settings import EncoderSettings

_TOKENIZER_ALONE = (
    "what reads tokenizer.json alone (text-embeddings-inference, tokenizers) and not tokenizer_config.json, takes the "
    "spelling of a special token in a text, such as that of EOS in HTML, for the token; here it is text."
)
_CAUSAL_BEFORE = (
    "- transformers >= 5.2, which reads `is_causal: false` in `config.json`; version 4 would read a causal decoder, so "
    "it is kept from opening the weights (`Incompatible safetensors file ... but v5`)"
)
_SCORES = re.compile(r"\n## Scores\n.*?(?=\n## |\Z)", re.DOTALL)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def card(
    settings: EncoderSettings,
    lineage: Mapping[str, Any],
    *,
    width: int,
    gaps: Sequence[str],
    splits: bool,
    fingerprint: str | None = None,
    scores: Mapping[str, Any] | None = None,
) -> str:
    """The card of an encoder, Markdown.

    Args:
        settings: how texts become vectors.
        lineage: where the weights came from, as saved.
        width: of the vectors.
        gaps: what other runtimes do differently, in words.
        splits: spelled special tokens are text.
        fingerprint: of the encoder.
        scores: see `with_scores`.
    """
    same = [f"- fingerprint `{fingerprint}`, nearly the same wherever the same is computed"] if fingerprint else []
    gaps = [*gaps, *([_TOKENIZER_ALONE] if splits else [])]
    known = "".join(f"- {gap}\n" for gap in gaps)
    differences = f"\n## What other runtimes do differently\n\n{known}" if gaps else ""
    text = f"""---
{yaml.safe_dump(_metadata(lineage), sort_keys=False).rstrip()}
---

A text encoder made from a decoder-only language model by `unmask` (the LLM2Vec recipe, arXiv 2404.05961).

```python
from sentence_transformers import SentenceTransformer  # or: from unmask import TextEncoder

encoder = SentenceTransformer("this folder")  # or: TextEncoder.load("this folder")
vectors = encoder.encode(["one text", "another"])
```

For vLLM, text-embeddings-inference, llama.cpp, ONNX Runtime or OpenVINO: `unmask export "this folder" --for RUNTIME`.
Over HTTP: `unmask serve "this folder"`. Is what is served right? `unmask check ADDRESS --encoder "this folder"`.

{_facts(settings, width, _CAUSAL_BEFORE, *same)}
## Where it comes from

{_origin(lineage)}{differences}"""
    return with_scores(text, scores) if scores else text


def adapter_card(settings: EncoderSettings, lineage: Mapping[str, Any], *, width: int, made: str) -> str:
    """The card of a LoRA folder that holds what training changed, Markdown.

    Args:
        settings: how texts become vectors.
        lineage: where the weights came from, as saved.
        width: of the vectors.
        made: how it was made and what it lost, a sentence.
    """
    return f"""---
{yaml.safe_dump(_metadata(lineage) | {"library_name": "peft"}, sort_keys=False).rstrip()}
---

What training changed in a decoder-only language model to make it a text encoder, by `unmask` (the LLM2Vec recipe, arXiv
2404.05961). {made}

```python
from unmask import TextEncoder

encoder = TextEncoder.load("this folder")  # reads the base, too, and lets it attend both ways
vectors = encoder.encode(["one text", "another"])
encoder.save("encoder")  # a whole folder, which sentence-transformers and other runtimes read
```

{_facts(settings, width)}
## Where it comes from

{_origin(lineage)}"""


def with_scores(text: str, scores: Mapping[str, Any]) -> str:
    """A card with a table of scores behind it, in the place of one that it has.

    Args:
        text: the card.
        scores: `figures`, by rung and name, and the command that they were `found_by`.
    """
    rungs: Mapping[str, Mapping[str, float]] = scores["figures"]
    figures = list(dict.fromkeys(name for found in rungs.values() for name in found))
    rows = []
    for name in figures:
        cells = (f"{found[name]:.2f}" if name in found else "" for found in rungs.values())
        rows.append([name.replace("|", r"\|"), *cells])
    lines = [["", *rungs], ["---", *["--:"] * len(rungs)], *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    told = f"## Scores\n\n{table}\n\nPercent, but for losses (nats); found by {scores['found_by']}.\n"
    return f"{_SCORES.sub('', text).rstrip()}\n\n{told}"


def _metadata(lineage: Mapping[str, Any]) -> dict[str, Any]:
    """What hubs read; a base that is no hub id would lead nowhere there."""
    base = str(lineage.get("base") or "")
    named = {"base_model": base} if _HUB_ID.fullmatch(base) else {}
    tags = ["sentence-transformers", "sentence-similarity", "feature-extraction", "llm2vec", "unmask"]
    return {"library_name": "sentence-transformers", "pipeline_tag": "sentence-similarity", **named, "tags": tags}


def _facts(settings: EncoderSettings, width: int, *more: str) -> str:
    """What a user must know of the vectors."""
    prompts = [f"- `{name}`: `{text!r}`" for name, text in settings.prompts.items()] or ["- none"]
    lines = [
        f"- {width} numbers a text, {'scaled to length 1' if settings.normalize else 'not scaled'}",
        f"- pooling: {settings.pooling}, over at most {settings.max_length} tokens",
        *more,
    ]
    return "\n".join([*lines, "", "Prompts:", "", *prompts, ""])


def _origin(lineage: Mapping[str, Any]) -> str:
    """The base and every stage."""
    base = lineage.get("base") or "a model that was given in memory"
    revision = lineage.get("base_revision")
    lines = [
        f"- base: {base}{f' at {revision}' if revision else ''}, whose licence and that of the data hold here, too"
    ]
    lines += [f"  {_stage(number, stage)}" for number, stage in enumerate(lineage.get("base_stages") or [], 1)]
    stages = lineage.get("stages") or []
    lines += [_stage(number, stage) for number, stage in enumerate(stages, 1)]
    if not stages:
        lines.append("- nothing was trained")
    if lineage.get("recipe"):
        lines.append(f"- recipe {lineage['recipe']}, seed {lineage.get('seed')}; every setting is in `unmask.json`")
    return "\n".join(lines) + "\n"


def _stage(number: int, stage: Mapping[str, Any]) -> str:
    settings = stage.get("settings", {})
    said = [f"{settings[key]} {word}" for key, word in (("tuning", "tuning"), ("steps", "steps")) if settings.get(key)]
    if settings.get("lr"):
        said.append(f"learning rate {settings['lr']:g}")
    files = [str(one.get("file")) for found in stage.get("data", {}).values() for one in found if one.get("file")]
    read = f"; read {', '.join(f'`{name}`' for name in dict.fromkeys(files))}" if files else ""
    return f"- {number}. {stage.get('name', 'stage')}: {', '.join(said) or 'weights alone'}{read}"

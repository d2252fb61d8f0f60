"""The folder of a runtime: an encoder folder whose config, tokenizer and card say what that runtime reads."""

import json
import shutil
from pathlib import Path
from typing import Any

from unmask.backbone.families.switches import attention_mode
from unmask.backbone.locate import sentencepiece_file
from unmask.backbone.structure import family, text_config
from unmask.backbone.written_tokenizer import cut_at
from unmask.encoder import TextEncoder
from unmask.errors import ArtifactError
from unmask.export.targets import TARGETS, Target
from unmask.files import read_json, write_json, write_text
from unmask.pooling import POOLINGS

# Keys that TEI's readers of a family ask for, with the value that stands for their absence.
_TEI_KEYS: dict[str, dict[str, Any]] = {
    "llama": {"initializer_range": 0.02},
    "mistral": {"initializer_range": 0.02},
    "qwen2": {"use_sliding_window": False, "initializer_range": 0.02},
    "qwen3": {"use_sliding_window": False, "attention_bias": False},
    "gemma3_text": {"attention_bias": False, "_sliding_window_pattern": 6},
}
# Where a runtime knows a family by another name of its class than the one without a head.
_ARCHITECTURES = {
    "llama.cpp": {"mistral": "MistralForCausalLM"},
    "vllm": {
        **{"qwen3": "Qwen3ForCausalLM", "phi3": "Phi3ForCausalLM", "ernie4_5": "Ernie4_5ForCausalLM"},
        **{"apertus": "ApertusForCausalLM", "ministral3": "Ministral3ForCausalLM"},
        "deepseek_v3": "DeepseekV3ForCausalLM",
    },
}


def write_folder(folder: Path, encoder: TextEncoder, runtime: str) -> None:
    """Write all but the graph of a runtime that runs one.

    Args:
        folder: new or empty.
        encoder: with settings that the runtime serves.
        runtime: name in the table of targets.

    Raises:
        ArtifactError: a tokenizer whose files the runtime needs and nobody has.
    """
    target = TARGETS[runtime]
    encoder.save(folder, weights=not target.graph)
    path = folder / "config.json"
    write_json(path, _config(read_json(path), encoder, runtime))
    cut_at(folder, encoder.settings.max_length)
    if runtime == "llama.cpp":
        _add_pieces(folder, encoder)
    own = folder / "unmask.json"
    write_json(own, read_json(own) | {"export": {"for": runtime, "needs": target.needs}})
    card = folder / "README.md"
    write_text(card, f"{card.read_text(encoding='utf-8').rstrip()}\n\n{_section(encoder, runtime)}")


def tell_compared(folder: Path, how: str, cost: float | None) -> None:
    """Add to the card how near the written folder is to its encoder, and what pooling more tokens than that cost."""
    card = folder / "README.md"
    before = "" if cost is None else f" It pools more tokens than the encoder as it was, to which it is at {cost:.4f}."
    told = f"Compared with the encoder: {how}.{before} `unmask check` tells by `golden.json` if a copy is right."
    write_text(card, f"{card.read_text(encoding='utf-8').rstrip()}\n\n{told}\n")


def serving(encoder: TextEncoder, runtime: str, folder: Path) -> list[str]:
    """The commands that serve a folder."""
    return [_filled(line, encoder, folder) for line in TARGETS[runtime].serve]


def cautions(encoder: TextEncoder, runtime: str) -> list[str]:
    """What is known to go wrong there."""
    return [_filled(line, encoder, Path(".")) for line in TARGETS[runtime].known]


def _filled(line: str, encoder: TextEncoder, folder: Path) -> str:
    layout = POOLINGS[encoder.settings.pooling].layout
    names = {"mean": "mean", "weightedmean": "weighted mean", "cls": "cls", "lasttoken": "last"}
    words = {"folder": folder, "pooling": names[layout[0]] if layout else encoder.settings.pooling}
    length = encoder.settings.max_length
    return line.format(**words, length=length, context=4 * length)


def _config(config: dict[str, Any], encoder: TextEncoder, runtime: str) -> dict[str, Any]:
    """A saved config with what a runtime asks for besides."""
    name, target = family(encoder.model), TARGETS[runtime]
    eos = encoder.tokenizer.eos_token_id
    if isinstance(config.get("eos_token_id"), list) and eos is not None:
        config["eos_token_id"] = eos
    if name in _ARCHITECTURES.get(runtime, {}):
        config["architectures"] = [_ARCHITECTURES[runtime][name]]
    if runtime == "tei":
        config = _TEI_KEYS.get(name, {}) | config
    return config | _gemma3(encoder, target)


def _gemma3(encoder: TextEncoder, target: Target) -> dict[str, Any]:
    """The flag by which other runtimes know a two-sided Gemma 3, and its window as they count: from end to end."""
    config = text_config(encoder.model)
    two_sided = attention_mode(encoder.model) == "bidirectional"
    if not (target.flag and two_sided and family(encoder.model) == "gemma3_text"):
        return {}
    if config.use_bidirectional_attention:  # the model has it already, and its window with it
        return {}
    return {"use_bidirectional_attention": True, "sliding_window": 2 * config.sliding_window}


def _add_pieces(folder: Path, encoder: TextEncoder) -> None:
    """The sentencepiece file, without which llama.cpp's converter splits such a tokenizer's texts otherwise.

    Raises:
        ArtifactError: the tokenizer was made of one that nobody has.
    """
    backend = json.loads(encoder.tokenizer.backend_tokenizer.to_str())
    vocabulary = backend["model"].get("vocab") or ()
    spaced = any((piece if isinstance(piece, str) else piece[0]).startswith("▁") for piece in vocabulary)
    if not spaced:
        return
    places = (str(encoder.tokenizer.name_or_path), str(encoder.lineage.get("base") or ""))
    file = next((found for place in places if place and (found := sentencepiece_file(place))), None)
    if file is None:
        raise ArtifactError(
            "llama.cpp needs the tokenizer.model that this tokenizer was made of, and neither the encoder's folder nor "
            "its base model's is here with one; put it into the encoder's folder."
        )
    shutil.copy(file, folder / "tokenizer.model")


def _section(encoder: TextEncoder, runtime: str) -> str:
    """What the card says of the runtime."""
    target = TARGETS[runtime]
    commands = "\n".join(serving(encoder, runtime, Path("this-folder")))
    known = "".join(f"- {line}\n" for line in cautions(encoder, runtime))
    return f"## For {target.title}\n\nNeeds {target.needs}.\n\n```\n{commands}\n```\n\n{known}"

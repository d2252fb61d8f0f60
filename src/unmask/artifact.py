"""The encoder folder: a plain sentence-transformers layout, written so that every runtime reads it alike.

Beside the usual files it holds `unmask.json` with what that layout cannot say (chat template, lineage). Keys that
runtimes read under different names are written in every form: `is_causal` and `use_bidirectional_attention`, both
forms of the pooling config, `rope_parameters` and the older rope keys.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from unmask.errors import ArtifactError
from unmask.pooling import POOLINGS, Pooling

logger = logging.getLogger(__name__)

# our name -> (sentence-transformers' compact name, its older boolean key)
_POOLING_NAMES: dict[str, tuple[str, str]] = {
    "mean": ("mean", "pooling_mode_mean_tokens"),
    "weighted_mean": ("weightedmean", "pooling_mode_weightedmean_tokens"),
    "last": ("lasttoken", "pooling_mode_lasttoken"),
    "eos": ("lasttoken", "pooling_mode_lasttoken"),
    "first": ("cls", "pooling_mode_cls_token"),
}
# Families whose transformers class ignores this key and where other runtimes read it instead of is_causal.
_READ_AS_BIDIRECTIONAL = ("llama", "mistral", "qwen2", "qwen3")
_MEANS = ("mean", "weighted_mean")
_EXCLUDED_WEIGHT = 1e-6
_RELEASED = "llm2vec_config.json"
_ST = "sentence_transformers.models."


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSettings:
    """How texts become vectors; saved with the encoder.

    Attributes:
        pooling: mean, weighted_mean, last, eos (an EOS token is appended) or first.
        max_length: most tokens of a text, special tokens included.
        prompts: name -> instruction put in front of a text.
        default_prompt_name: the prompt used when none is asked for.
        chat_template: wrap each text in the tokenizer's chat template.
        include_special_tokens: pool special tokens (BOS, EOS) too.
        include_prompt: pool instruction and template too.
        normalize: scale vectors to length 1.
    """

    pooling: Pooling = "mean"
    max_length: int = 512
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    chat_template: bool = False
    include_special_tokens: bool = False
    include_prompt: bool = False
    normalize: bool = False

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise ArtifactError(f"pooling={self.pooling!r} is not known; choose one of {', '.join(POOLINGS)}.")
        if self.pooling == "eos" and self.chat_template:
            raise ArtifactError("pooling 'eos' and chat_template exclude each other: a template writes its own end.")
        if self.max_length < 1:
            raise ArtifactError(f"max_length={self.max_length} leaves no room for a token.")
        if self.default_prompt_name is not None and self.default_prompt_name not in self.prompts:
            raise ArtifactError(
                f"default_prompt_name={self.default_prompt_name!r} is not among the prompts {sorted(self.prompts)}."
            )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder that appears whole or not at all: write into what is given, it is renamed at the end.

    Raises:
        ArtifactError: the folder exists and is not empty, or cannot be made.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtifactError(f"{folder} exists already and is not empty; choose another folder or remove it.")
    partial = folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be written ({error.strerror}).") from error
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if folder.exists():
        folder.rmdir()
    partial.rename(folder)


@contextmanager
def write_whole(path: Path) -> Iterator[TextIO]:
    """A text file that appears whole or not at all: what is written goes aside and is renamed at the end."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            yield file
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.rename(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people and programs (indented, UTF-8, newline at the end), whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ArtifactError: missing or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read as JSON ({error}).") from error


def write_encoder(
    folder: Path,
    model: Any,
    tokenizer: Any,
    settings: EncoderSettings,
    lineage: dict[str, Any] | None = None,
    *,
    gaps: Sequence[str] = (),
) -> None:
    """Write model, tokenizer and layout files into a new folder, and say what other runtimes will do differently.

    Args:
        folder: new or empty.
        model: with its config as it should be saved.
        tokenizer: beside it.
        settings: how texts become vectors.
        lineage: where the weights came from.
        gaps: differences between runtimes that are known already, in words.
    """
    gaps = [*gaps, *interop_gaps(tokenizer, settings)]
    for gap in gaps:
        logger.warning(gap)
    with new_folder(folder) as partial:
        model.save_pretrained(partial, safe_serialization=True)
        tokenizer.save_pretrained(partial)
        _complete_config(partial / "config.json")
        width = int(model.config.get_text_config().hidden_size)
        _write_layout(partial, tokenizer, settings, width)
        write_json(partial / "unmask.json", {"settings": asdict(settings), "lineage": lineage or {}})
        (partial / "README.md").write_text(_card(settings, gaps), encoding="utf-8")


def interop_gaps(tokenizer: Any, settings: EncoderSettings) -> list[str]:
    """What sentence-transformers cannot reproduce of these settings, in words."""
    from unmask.text.spans import special_affixes

    found = []
    if settings.chat_template:
        found.append("sentence-transformers applies no chat template; load this folder with unmask.TextEncoder.")
    if settings.pooling == "last" and special_affixes(tokenizer)[1]:
        found.append("the tokenizer ends texts with a special token, which sentence-transformers' last token is.")
    for name, prompt in settings.prompts.items():
        alone = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        joined = tokenizer(prompt + "word", add_special_tokens=False)["input_ids"]
        if joined[: len(alone)] != alone and settings.pooling in _MEANS and not settings.include_prompt:
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
    if config.get("is_causal") is False and config.get("model_type") in _READ_AS_BIDIRECTIONAL:
        config["use_bidirectional_attention"] = True
    write_json(path, config)


def _write_layout(folder: Path, tokenizer: Any, settings: EncoderSettings, width: int) -> None:
    """modules.json and the config of each module."""
    modules = [("", "Transformer")]
    excluded = _excluded_ids(tokenizer, settings)
    if excluded:
        modules.append(("WordWeights", "WordWeights"))
        _write_word_weights(folder / "WordWeights", tokenizer, excluded)
    modules.append(("1_Pooling", "Pooling"))
    (folder / "1_Pooling").mkdir()
    compact, chosen = _POOLING_NAMES[settings.pooling]
    booleans = {key: key == chosen for _, key in _POOLING_NAMES.values()}
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": width,
            "pooling_mode": compact,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
            **booleans,
            # Picking one token needs no exclusion, and that layout would pick among the tokens behind the prompt.
            "include_prompt": settings.include_prompt or settings.pooling not in _MEANS,
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
            # An older transformers would read the decoder as causal without a word.
            "requirements": {"transformers": ">=5.2"},
            "prompts": settings.prompts,
            "default_prompt_name": settings.default_prompt_name,
            "similarity_fn_name": "cosine",
        },
    )


def _excluded_ids(tokenizer: Any, settings: EncoderSettings) -> list[int]:
    """Special tokens that the tokenizer adds and a mean must leave out."""
    from unmask.text.spans import special_affixes

    if settings.include_special_tokens or settings.pooling not in _MEANS:
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


def read_lineage(folder: Path) -> dict[str, Any]:
    """Where an encoder's weights came from, as saved; empty for folders that say nothing about it."""
    own = folder / "unmask.json"
    if own.is_file():
        return dict(read_json(own).get("lineage") or {})
    if (folder / _RELEASED).is_file():  # every adapter that the paper's authors published went through MNTP
        return {"stages": [{"name": "mntp", "settings": {"objective": "mntp"}}]}
    return {}


def read_sight(folder: Path) -> dict[str, Any]:
    """How the model of an adapter folder looks at texts: attention, recurrent, window; empty if it does not say."""
    own = folder / "unmask.json"
    if own.is_file():
        saved = read_json(own)
        return {key: saved[key] for key in ("attention", "recurrent", "window") if saved.get(key)}
    return {"attention": "bidirectional"} if (folder / _RELEASED).is_file() else {}


def read_settings(folder: Path, default_length: int) -> EncoderSettings | None:
    """The settings of an encoder folder, ours or any sentence-transformers one; None for a bare model.

    Raises:
        ArtifactError: a module that this package cannot run (Dense, a Router), or a broken file.
    """
    if (folder / _RELEASED).is_file():
        return _released_settings(read_json(folder / _RELEASED))
    own = folder / "unmask.json"
    if own.is_file():
        try:
            return EncoderSettings(**read_json(own)["settings"])
        except (TypeError, KeyError) as error:
            raise ArtifactError(f"{own} is not what this version writes ({error}).") from error
    if not (folder / "modules.json").is_file():
        return None
    kinds = {str(m["type"]).rpartition(".")[2]: folder / m["path"] for m in read_json(folder / "modules.json")}
    unknown = set(kinds) - {"Transformer", "Pooling", "Normalize", "WordWeights"}
    if unknown:
        raise ArtifactError(f"{folder} has modules that unmask cannot run: {', '.join(sorted(unknown))}.")
    layout: dict[str, Any] = {}
    if (folder / "config_sentence_transformers.json").is_file():
        layout = read_json(folder / "config_sentence_transformers.json")
    length = {}
    if (folder / "sentence_bert_config.json").is_file():
        length = read_json(folder / "sentence_bert_config.json")
    pooling, include_prompt = _read_pooling(kinds.get("Pooling"))
    return EncoderSettings(
        pooling=pooling,
        max_length=int(length.get("max_seq_length") or default_length),
        prompts=layout.get("prompts") or {},
        default_prompt_name=layout.get("default_prompt_name"),
        include_special_tokens="WordWeights" not in kinds,
        include_prompt=include_prompt,
        normalize="Normalize" in kinds,
    )


def _released_settings(config: dict[str, Any]) -> EncoderSettings:
    """What the released `llm2vec` writes into its folders; its `eos_token` is a text's last token, none is added."""
    names: dict[str, Pooling] = {"eos_token": "last", "last_token": "last", "bos_token": "first"}
    mode = str(config.get("pooling_mode", "mean"))
    return EncoderSettings(
        pooling=names.get(mode, mode),  # type: ignore[arg-type]
        max_length=int(config.get("max_length", 512)),
        include_prompt=not config.get("skip_instruction", True),
    )


def _read_pooling(folder: Path | None) -> tuple[Pooling, bool]:
    if folder is None:
        return "mean", True
    config = read_json(folder / "config.json")
    mode = config.get("pooling_mode")
    for name, (compact, boolean) in _POOLING_NAMES.items():
        if mode == compact or (mode is None and config.get(boolean)):
            return name, bool(config.get("include_prompt", True))  # type: ignore[return-value]
    raise ArtifactError(f"{folder}: pooling {mode or config} is not one of {', '.join(POOLINGS)}.")


def _card(settings: EncoderSettings, gaps: Sequence[str]) -> str:
    """A short README for whoever finds the folder."""
    prompts = "".join(f"- `{name}`: `{text!r}`\n" for name, text in settings.prompts.items()) or "- none\n"
    known = "".join(f"- {gap}\n" for gap in gaps)
    differences = f"\nOther runtimes differ (`unmask.TextEncoder.load` does not):\n{known}" if gaps else ""
    return f"""---
library_name: sentence-transformers
tags: [sentence-transformers, feature-extraction, llm2vec, unmask]
---

A text encoder made from a decoder-only language model by `unmask` (the LLM2Vec recipe, arXiv 2404.05961).

```python
from sentence_transformers import SentenceTransformer

encoder = SentenceTransformer("this folder")
vectors = encoder.encode(["one text", "another"])
```

Pooling: {settings.pooling}; at most {settings.max_length} tokens; needs transformers >= 5.2, which reads
`is_causal: false` in `config.json`. Prompts:
{prompts}{differences}"""

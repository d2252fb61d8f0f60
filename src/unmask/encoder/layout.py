"""Sentence-transformers folders that others wrote: every key is obeyed, refused by name, or known to change nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from unmask.encoder.layout_keys import (
    MODEL,
    MODULE,
    MODULES,
    NESTED,
    NORMALIZE,
    POOLING,
    TRANSFORMER,
    WORD_WEIGHTS,
    Key,
)
from unmask.errors import ArtifactError
from unmask.files import read_json
from unmask.pooling import POOLINGS
from unmask.settings import EncoderSettings
from unmask.text.control import spelled_tokens
from unmask.text.prompts import ChatWrapper, render
from unmask.text.spans import special_affixes, tokenize

_KINDS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")  # of older folders
_PACKAGE = "sentence_transformers."
_ABSENT = 1e-3  # a weight of so little leaves a token out


@dataclass(frozen=True, slots=True)
class Layout:
    """What such a folder asks for.

    Attributes:
        settings: as this package calls them.
        folder: that asks.
        lower_case: letters are lowered.
        message: format and variables of the chat template that every text goes through.
        left_out: tokens that weigh nothing.
    """

    settings: EncoderSettings
    folder: Path
    lower_case: bool = False
    message: tuple[bool, dict[str, Any]] | None = None
    left_out: tuple[str, ...] = field(default=())


def read_layout(folder: Path, default_length: int) -> Layout:
    """What the files of a folder ask for.

    Raises:
        ArtifactError: something that this package does not do, by its name; or a broken file.
    """
    modules = _modules(folder)
    model = _config(folder / "config_sentence_transformers.json", MODEL)
    _check_requirements(folder, model.get("requirements"))
    path = next((p for p in (folder / f"sentence_{k}_config.json" for k in _KINDS) if _config_of(p)), None)
    transformer = _config(path, TRANSFORMER) if path else {}
    pooling, include_prompt = _pooling(modules["Pooling"])
    if "Normalize" in modules:
        _config(modules["Normalize"] / "config.json", NORMALIZE)
    left_out = _left_out(modules["WordWeights"]) if "WordWeights" in modules else ()
    if left_out and not POOLINGS[pooling].averages:
        raise ArtifactError(f"{folder} weights tokens and then takes one of them; unmask does so for means only.")
    message = _message(path, transformer) if path else None
    prompts = {name: text for name, text in (model.get("prompts") or {}).items() if text is not None}
    if message and any(prompts.values()):
        raise ArtifactError(
            f"{folder} has prompts beside a chat template, which become system messages; unmask has none."
        )
    settings = EncoderSettings(
        pooling=pooling,
        max_length=_length(transformer, default_length),
        prompts=prompts,
        default_prompt_name=model.get("default_prompt_name"),
        chat_template=message is not None,
        include_special_tokens=not left_out,
        include_prompt=include_prompt or message is not None,
        normalize="Normalize" in modules,
    )
    return Layout(settings, folder, bool(transformer.get("do_lower_case")), message, left_out)


def fit_tokenizer(tokenizer: Any, layout: Layout) -> ChatWrapper | None:
    """Make a tokenizer read texts as the folder asks for; the chat template's text, where there is one.

    Raises:
        ArtifactError: tokens or prompts that this package would pool otherwise.
    """
    if layout.lower_case:
        _lower(tokenizer)
    prompts = layout.settings.prompts
    splits = _config_of(layout.folder / "tokenizer_config.json").get("split_special_tokens")
    if splits is None and any(spelled_tokens(tokenizer, prompt) for prompt in prompts.values()):
        tokenizer.split_special_tokens = tokenizer.init_kwargs["split_special_tokens"] = False  # the prompts ask for it
    before, after = special_affixes(tokenizer)
    if layout.left_out and set(tokenizer.convert_tokens_to_ids(list(layout.left_out))) != {*before, *after}:
        raise ArtifactError(
            f"{layout.folder} weights the tokens {', '.join(layout.left_out[:5])}; unmask leaves out those that the "
            f"tokenizer adds and no others ({', '.join(tokenizer.convert_ids_to_tokens([*before, *after])) or 'none'})."
        )
    if layout.message is not None:
        if splits:
            raise ArtifactError(
                f"{layout.folder} splits special tokens, its chat template's own too; unmask keeps those."
            )
        structured, options = layout.message
        return ChatWrapper.from_tokenizer(tokenizer, structured=structured, options=options)
    if not layout.settings.include_prompt:
        for name, prompt in prompts.items():
            _check_prompt(tokenizer, layout, name, prompt)
    return None


def _check_prompt(tokenizer: Any, layout: Layout, name: str, prompt: str) -> None:
    """Sentence-transformers leaves out as many tokens as the prompt has alone, special tokens in front included."""
    alone = tokenizer(prompt)["input_ids"] if prompt else []
    count = len(alone) - bool(alone and alone[-1] in tokenizer.all_special_ids)
    (text,) = tokenize(tokenizer, render(["word"], prompt), max_length=len(alone) + 100)
    first = int(text.in_text.argmax())
    if prompt and first != count:
        raise ArtifactError(
            f"{layout.folder}: the prompt {name!r} ({prompt!r}) takes {count} tokens out of a mean (include_prompt: "
            f"false), but the text begins behind {first}; end the prompt with a full token, for example a colon."
        )


def _modules(folder: Path) -> dict[str, Path]:
    """The modules by their kind, and where their configs are."""
    listed = read_json(folder / "modules.json")
    found: dict[str, Path] = {}
    for module in listed:
        _check(folder / "modules.json", module, MODULE)
        kind = str(module["type"])
        name = kind.rpartition(".")[2]
        if name == "Dropout" and kind.startswith(_PACKAGE):  # nothing, once a model is trained
            continue
        if name not in MODULES or not kind.startswith(_PACKAGE):
            raise ArtifactError(f"{folder} has modules that unmask cannot run: {kind}.")
        if name in found:
            raise ArtifactError(f"{folder}/modules.json names {name} twice; unmask runs each module once.")
        found[name] = folder / module["path"]
    order = [kind for kind in MODULES if kind in found]
    if list(found) != order or not {"Transformer", "Pooling"} <= found.keys():
        raise ArtifactError(f"{folder} runs {', '.join(found)}; unmask runs {', '.join(MODULES)}, in this order.")
    if len({module["name"] for module in listed}) < len(listed):
        raise ArtifactError(f"{folder}/modules.json has two modules of one name, of which only one would run.")
    if found["Transformer"].resolve() != folder.resolve():
        raise ArtifactError(
            f"{folder} keeps its model in {found['Transformer'].name}; give that folder, or move it up."
        )
    return found


def _config_of(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}


def _config(path: Path, table: Mapping[str, Key]) -> dict[str, Any]:
    """A config whose every key is known; empty where there is none."""
    config = _config_of(path)
    _check(path, config, table)
    return config


def _check(path: Path, config: Mapping[str, Any], table: Mapping[str, Key], within: str = "") -> None:
    for name, value in config.items():
        key = f"{within}{name}"
        if key in NESTED and any(entry.startswith(f"{key}.") for entry in table):
            _check(path, value or {}, table, f"{key}.")
            continue
        entry = table.get(key) or table.get(f"{within}*")
        if entry is None:
            raise ArtifactError(f"{path} has the key {key!r}, which unmask does not know and which may change vectors.")
        if entry.reading == "refused" and value not in entry.neutral:
            raise ArtifactError(f"{path} says {key}: {value!r} ({entry.why}), which unmask does not do.")


def _check_requirements(folder: Path, requirements: Any) -> None:
    """Refuse versions that the author of a folder rules out."""
    for name, asked in (requirements or {}).items():
        specifier = asked.get("specifier", "") if isinstance(asked, dict) else asked
        try:
            installed = python_version() if name == "python" else version("torch" if name == "pytorch" else name)
            fits = SpecifierSet(specifier).contains(installed, prereleases=True)
        except (PackageNotFoundError, InvalidSpecifier, AttributeError, TypeError):
            continue  # what is not installed is not used
        if not fits and name.replace("_", "-") != "sentence-transformers":
            raise ArtifactError(f"{folder} needs {name}{specifier}, and {installed} is installed.")


def _length(transformer: Mapping[str, Any], default: int) -> int:
    """Most tokens of a text; what is said later in that library's way counts more."""
    called = (transformer.get("processing_kwargs") or {}).get("text") or {}
    loaded = (transformer.get(name) or {} for name in ("processor_kwargs", "tokenizer_args"))
    said = (
        called.get("max_length"),
        *(one.get("model_max_length") for one in loaded),
        transformer.get("max_seq_length"),
    )
    return int(next((length for length in said if length), default))


def _message(path: Path, transformer: Mapping[str, Any]) -> tuple[bool, dict[str, Any]] | None:
    """Format and variables of the chat template, where texts become messages."""
    modalities = transformer.get("modality_config")
    if modalities is None:
        return None
    used = modalities.get("message") or modalities.get("text")
    plain = {"method": "forward", "method_output_name": "last_hidden_state"}
    if used is None or {key: used.get(key) for key in plain} != plain or set(used) - {*plain, "format"}:
        raise ArtifactError(
            f"{path} says modality_config: {modalities!r}; unmask reads the last hidden state of texts."
        )
    if "message" not in modalities:
        return None
    if used.get("format") not in ("flat", "structured"):
        raise ArtifactError(f"{path} gives no format of messages ('flat' or 'structured'), which the template needs.")
    options = dict((transformer.get("processing_kwargs") or {}).get("chat_template") or {})
    for name in ("restore_suffix", "padding", "return_tensors"):
        options.pop(name, None)
    return used["format"] == "structured", options


def _pooling(folder: Path) -> tuple[str, bool]:
    """The pooling, and whether prompts are pooled."""
    config = _config_of(folder / "config.json")
    mode = config.get("pooling_mode")
    if mode is not None:  # then the older keys beside it are not read
        config = {key: value for key, value in config.items() if not key.startswith("pooling_mode_")}
    _check(folder / "config.json", config, POOLING)
    names = {pooling.layout: name for name, pooling in reversed(POOLINGS.items()) if pooling.layout}
    if mode is None:
        on = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
        found = [name for layout, name in names.items() if layout[1] in on] if on else ["mean"]
    else:
        modes = [mode] if isinstance(mode, str) else list(mode)
        found = [name for layout, name in names.items() if layout[0] in modes] if len(modes) == 1 else []
        on = modes
    if len(found) != 1 or len(on) > 1:
        raise ArtifactError(f"{folder}: pooling {' and '.join(on)} is not one of {', '.join(POOLINGS)}.")
    include_prompt = bool(config.get("include_prompt", True))
    if found == ["first"] and not include_prompt:
        raise ArtifactError(f"{folder} pools the first token behind a prompt; unmask pools the first token of all.")
    return found[0], include_prompt


def _left_out(folder: Path) -> tuple[str, ...]:
    """The tokens that a WordWeights module leaves out of a mean."""
    weights: dict[str, float] = _config(folder / "config.json", WORD_WEIGHTS)["word_weights"]
    heavy = [token for token, weight in weights.items() if weight > _ABSENT]
    if heavy or not weights:
        raise ArtifactError(f"{folder} weights tokens ({', '.join(heavy[:5])} ...); unmask can only leave some out.")
    return tuple(weights)


def _lower(tokenizer: Any) -> None:
    """Lower letters before anything else, unless the tokenizer does already."""
    from tokenizers import normalizers

    backend = tokenizer.backend_tokenizer
    known = backend.normalizer
    several: Any = known if isinstance(known, normalizers.Sequence) else ()
    listed = list(several) or ([known] if known is not None else [])
    if not any(isinstance(one, normalizers.Lowercase) for one in listed):
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *listed])

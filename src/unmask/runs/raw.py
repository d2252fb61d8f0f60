"""The raw text of a recipe: files and shipped ones, what they extend, their variants, and `key.path=value` changes."""

import difflib
import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from unmask.errors import RecipeError

_FOLDER = Path(str(files("unmask"))) / "recipes"
_CONFIGS = "accelerate"  # settings for `accelerate launch`, beside the recipes


class _Yaml(yaml.SafeLoader):
    """YAML as people write it: `1e-4` is a number, as in YAML 1.2, not a string as in 1.1; no key stands twice."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Refuse a key that stands there already: the first of two `stages:` would be lost without a word."""
        node: Any = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands there twice", key.start_mark)
            seen.add(str(key.value))
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Yaml` would read as a number, for example a run named `1e-4`."""


for _one in (_Yaml, _Dumper):
    _one.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
    )


def shipped() -> list[str]:
    """Names of the recipes that come with the package, for example `paper/mistral-7b`."""
    return sorted(name for name in _files() if not name.startswith(_CONFIGS))


def shipped_file(name: str) -> Path | None:
    """A shipped recipe, or settings for `accelerate launch`; None if there is none of that name."""
    return _files().get(name.removesuffix(".yaml"))


def _files() -> dict[str, Path]:
    return {path.relative_to(_FOLDER).with_suffix("").as_posix(): path for path in _FOLDER.rglob("*.yaml")}


def read_raw(source: str) -> dict[str, Any]:
    """A recipe's keys with all that it extends and the variant after a colon.

    Raises:
        RecipeError: no such recipe or variant, or no YAML.
    """
    name, _, variant = source.rpartition(":")
    if not name or Path(source).is_file():
        name, variant = source, ""
    raw, variants = composed(name)
    if variant:
        if variant not in variants:
            raise RecipeError(f"{name} has no variant {variant!r}{nearest(variant, variants)}.")
        for path, value in variants[variant].items():
            change(raw, path, value)
        raw["name"] = f"{raw.get('name', 'recipe')}-{variant}"
    return raw


def composed(name: str, seen: tuple[str, ...] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """A recipe's own keys over those that it extends, and all variants.

    Raises:
        RecipeError: no such recipe, no YAML, recipes that extend each other, or variants that are no keys and values.
    """
    if name in seen:
        raise RecipeError(f"Recipes extend each other: {' -> '.join([*seen, name])}.")
    raw = _yaml(name)
    parent, changes, variants = raw.pop("extends", None), raw.pop("set", None), raw.pop("variants", None)
    for what, value in (("set", changes), ("variants", variants)):
        if not isinstance(value, dict | None):
            raise RecipeError(f"{name}: {what} holds a {type(value).__name__}; expected keys and values.")
    for key, value in (variants or {}).items():
        if not isinstance(value, dict):
            raise RecipeError(f"{name}: variant {key!r} holds {value!r}; expected paths and values.")
    inherited: dict[str, Any] = {}
    if parent is not None:
        beside = Path(name).parent / str(parent)
        found = beside if Path(name).is_file() and beside.is_file() else parent
        inherited, known = composed(str(found), (*seen, name))
        raw, variants = {**inherited, **raw}, {**known, **(variants or {})}
    for path, value in (changes or {}).items():
        change(raw, path, value)
    return raw, variants or {}


def _yaml(source: str) -> dict[str, Any]:
    path = Path(source) if Path(source).is_file() else shipped_file(source)
    if path is None:
        close = nearest(Path(source).name, [name.rpartition("/")[2] for name in shipped()])
        raise RecipeError(f"No recipe file {source!r}, and no shipped recipe of that name{close}.")
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Yaml)
    except UnicodeDecodeError:
        raise RecipeError(f"{path} is a binary file; a recipe is YAML text.") from None
    except (yaml.YAMLError, ValueError) as error:  # 2024-02-30 is a ValueError
        said = " ".join(str(error).replace('in "<unicode string>", ', "in ").split())
        raise RecipeError(f"{source} is not YAML: {said}") from None
    if not isinstance(raw, dict):
        found_type = "nothing" if raw is None else type(raw).__name__
        raise RecipeError(f"{source} holds {found_type}; expected keys and values.")
    return dict(separate(raw))


def separate(value: Any) -> Any:
    """The same keys and values, each an object of its own: what a YAML alias repeats is changed in one place."""
    if isinstance(value, dict):
        return {key: separate(one) for key, one in value.items()}
    return [separate(one) for one in value] if isinstance(value, list) else value


def dump(raw: dict[str, Any]) -> str:
    """A recipe as YAML text."""
    return yaml.dump(raw, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def override(raw: dict[str, Any], text: str) -> None:
    """Apply `stages.mntp.steps=10` to the raw recipe; see `change`.

    Raises:
        RecipeError: not of that form, or a path that leads nowhere.
    """
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise RecipeError(f"--set {text!r}: expected key.path=value, for example stages.mntp.steps=100.")
    try:
        read = yaml.load(value, _Yaml)
    except (yaml.YAMLError, ValueError):
        raise RecipeError(f"--set {text!r}: {value!r} is not a YAML value.") from None
    change(raw, path, read)


def change(raw: dict[str, Any], path: str, value: Any) -> None:
    """Put a value at a path such as `stages.mntp.steps` (a stage by number, name or objective).

    A stage set to null is taken out.

    Raises:
        RecipeError: a path that leads nowhere.
    """
    at: Any = raw
    *parents, last = path.split(".")
    for key in parents:
        at = _enter(at, key, path)
    if isinstance(at, list):
        index = _index(at, last, path)
        at[index : index + 1] = [] if value is None else [value]
    elif isinstance(at, dict):
        at[last] = value
    else:
        raise RecipeError(f"{path!r} cannot be set: {parents[-1]!r} holds a value, not keys.")


def _enter(at: Any, key: str, path: str) -> Any:
    if isinstance(at, list):
        return at[_index(at, key, path)]
    if not isinstance(at, dict):
        raise RecipeError(f"{path!r} cannot be set: nothing is called {key!r} there.")
    if at.get(key) is None:
        at[key] = {}
    if not isinstance(at[key], dict | list):
        raise RecipeError(f"{path!r} cannot be set: {key!r} holds a value, not keys.")
    return at[key]


def _index(entries: list[Any], key: str, path: str) -> int:
    names = [str(e.get("name") or e.get("objective")) if isinstance(e, dict) else "" for e in entries]
    if key.isdigit() and int(key) < len(entries):
        return int(key)
    if key in names:
        return names.index(key)
    raise RecipeError(f"{path!r} cannot be set: no entry {key!r}; there are {', '.join(names)}.")


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or what there is."""
    names = sorted(map(str, known))  # YAML has keys that are numbers
    if close := difflib.get_close_matches(name, names, n=1, cutoff=0.5):
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""

"""`unmask recipes list | show | copy | keys`: the recipes that come with the package, and what a recipe may say."""

import argparse
import sys
from pathlib import Path

from unmask.cli.console import add_json, show

HELP = "the recipes that come with the package: list, show, copy; every key of a recipe"
EXAMPLE = ""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add_json(actions.add_parser("list", help="names and what they are"))
    showing = actions.add_parser(
        "show", help="a recipe with all that it extends", epilog="example: unmask recipes show paper/mistral-7b:ladder"
    )
    showing.add_argument("name", metavar="NAME", help="of a recipe, perhaps with :variant; or accelerate/NAME")
    copy = actions.add_parser("copy", help="a recipe as a file to change", epilog="example: unmask recipes copy NAME .")
    copy.add_argument("name", metavar="NAME", help="of a recipe, perhaps with :variant; or accelerate/NAME")
    copy.add_argument("target", metavar="PATH", help="file to write, or folder to write it into")
    add_json(actions.add_parser("keys", help="every key of a recipe, its default and what it is for"))


def run(arguments: argparse.Namespace) -> None:
    """Do one of them."""
    {"list": _list, "show": _show, "copy": _copy, "keys": _keys}[arguments.action](arguments)


def _list(arguments: argparse.Namespace) -> None:
    """One line a recipe, then one a variant."""
    from unmask.runs.raw import composed, shipped

    rows = []
    for name in shipped():
        raw, variants = composed(name)
        described = {name: raw, **{f"{name}:{variant}": changes for variant, changes in variants.items()}}
        rows += [[one, str(keys.get("description", ""))] for one, keys in described.items()]
    width = max(len(name) for name, _ in rows)
    text = "\n".join(f"{name:<{width}}  {description}" for name, description in rows)
    show(arguments, {"recipes": [{"name": name, "description": description} for name, description in rows]}, text)


def _show(arguments: argparse.Namespace) -> None:
    print(_text(arguments.name), end="")


def _copy(arguments: argparse.Namespace) -> None:
    from unmask.errors import ArtifactError

    text, target = _text(arguments.name), Path(arguments.target)
    if target.is_dir():
        target /= arguments.name.rpartition("/")[2].replace(":", "-") + ".yaml"
    if target.exists() or not target.parent.is_dir():
        raise ArtifactError(f"{target} {'exists already' if target.exists() else 'has no folder to be in'}.")
    target.write_text(text, encoding="utf-8")
    print(target, file=sys.stderr)


def _keys(arguments: argparse.Namespace) -> None:
    from unmask.runs.keys import markdown, recipe_keys

    sections = recipe_keys()
    found = [{"place": one.place, "about": one.about, "keys": [key._asdict() for key in one.keys]} for one in sections]
    show(arguments, {"sections": found}, markdown(sections))


def _text(name: str) -> str:
    """The file as it is, comments included, unless it is put together from several."""
    from unmask.runs.raw import composed, dump, read_raw, shipped_file

    found = shipped_file(name)
    text = found.read_text(encoding="utf-8") if found else ""
    if found and not any(line.startswith(("extends:", "variants:")) for line in text.splitlines()):
        return text
    raw = read_raw(name)
    return dump(raw if ":" in name else {**raw, "variants": composed(name)[1]})

"""The arrows of ARCHITECTURE.md, and other promises about the shape of the code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import unmask

SOURCE = Path(unmask.__file__).parent
# room -> rooms it may import; nothing points up. Top-level modules are rooms of their own.
ARROWS = {
    "errors": set(),
    "files": {"errors"},
    "threads": set(),
    "heap": {"backbone"},
    "pooling": {"errors"},
    "settings": {"errors", "pooling"},
    "text": {"errors", "settings"},
    "backbone": {"errors", "files", "settings", "text"},
    "encoder": {"errors", "files", "settings", "pooling", "text", "threads", "heap", "backbone"},
    "data": {"errors", "files", "text"},
    "objectives": {"errors"},
    "evaluation": {"errors", "files", "settings", "text", "data", "backbone", "encoder", "objectives"},
    "analysis": {"errors", "files", "backbone", "encoder"},
    "certificate": {"errors", "files", "pooling", "text", "backbone", "encoder"},
    "corpus": {"errors", "files", "text", "data", "encoder"},
    "serving": {"errors", "settings", "text", "encoder"},
    "export": {"errors", "files", "pooling", "text", "backbone", "certificate", "encoder"},
    "training": {"errors", "files", "settings", "text", "threads", "backbone", "data", "heap", "encoder", "objectives"},
    "runs": {
        *("errors", "files", "settings", "backbone", "data", "encoder", "evaluation", "heap", "text", "training"),
        "<package>",
    },
    "demo": {"errors", "analysis", "backbone", "data", "encoder", "evaluation", "runs"},
    "cli": {
        *("errors", "files", "settings", "analysis", "backbone", "corpus", "data", "demo", "encoder", "evaluation"),
        *("certificate", "export", "pooling", "runs", "serving", "<package>"),
    },
}
FACTS = ("pooling", "families", "tasks")  # rooms whose __init__ holds a table
MODULES = sorted(SOURCE.rglob("*.py"))


def room(path):
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return "<package>" if parts in (("__init__",), ("__main__",)) else parts[0]


def imports(path):
    """Names imported anywhere in a file; what stands under TYPE_CHECKING counts too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def module_name(path):
    parts = ("unmask", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_files_import_each_other_in_a_circle():
    """The door of a room (its __init__) is left out where it only hands on what the files in it define."""
    names = {module_name(path): path for path in MODULES if path.name != "__init__.py" or path.parent.name in FACTS}
    targets = {name: {t for t in imports(path) if t in names and t != name} for name, path in names.items()}
    left = dict(targets)
    while free := [name for name, own in left.items() if not own & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"these import each other: {sorted(left)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_follow_the_arrows(path):
    here = room(path)
    if here == "<package>":
        return
    for name in imports(path):
        if name == "unmask":
            target = "<package>"
        elif name.startswith("unmask."):
            target = name.split(".")[1]
        else:
            continue
        assert target == here or target in ARROWS[here], f"{here} must not import {target} ({path.name})"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_only_the_backbone_touches_model_libraries(path):
    allowed = {
        "datasets": {"data"},
        "mteb": {"evaluation"},
        "peft": {"backbone"},
        "transformers": {"backbone", "cli"},  # cli only turns its bars off
        "accelerate": {"training"},
        "ray": {"corpus"},
        "sentence_transformers": {"certificate", "encoder", "export"},  # export opens what was written for it
        "onnx": {"export"},
        "onnxruntime": {"certificate", "export"},
        "openvino": {"certificate", "export"},
    }
    for name in imports(path):
        library = name.split(".")[0]
        if library in allowed:
            assert room(path) in allowed[library], f"{path.name} imports {library}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_and_functions_stay_short(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 350
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            docstring = ast.get_docstring(node)
            length -= len(docstring.splitlines()) if docstring else 0
            assert length <= 60, f"{path.name}: {node.name} has {length} lines"


def test_every_room_has_its_place_in_the_map():
    assert {room(path) for path in MODULES} - {"<package>"} == set(ARROWS)
    text = (SOURCE.parents[1] / "ARCHITECTURE.md").read_text()
    for name in ARROWS:
        assert name in text


def test_public_names_are_listed_sorted_and_there():
    assert unmask.__all__ == sorted(unmask.__all__)
    assert set(unmask.__all__) == set(unmask._HOMES)
    for name in unmask.__all__:
        assert getattr(unmask, name).__name__ == name


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from unmask.cli.main import build_parser; build_parser(); "
        "heavy = {'torch', 'transformers', 'numpy', 'peft', 'pydantic', 'pyarrow'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_pickled_and_no_remote_code_is_trusted():
    for path in MODULES:
        text = path.read_text()
        for word in ("import pickle", "torch.save", "torch.load", "trust_remote_code=True"):
            assert word not in text, f"{path.name}: {word}"

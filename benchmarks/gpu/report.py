"""One JSON file with all figures, one Markdown table of them."""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.report import markdown_table

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "sentence-transformers", "bitsandbytes")
_HEADS = ("", "", "tokens/s", "ms", "of the products' rate", "peak GiB", "estimated GiB", "cosine", "")


def machine(device: str, rate: float, dtype: str) -> dict[str, Any]:
    """What the figures were measured on and with."""
    import torch

    if device == "cuda":
        torch.cuda.empty_cache()  # this process only waits from now on
    found = {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "memory": torch.cuda.get_device_properties(0).total_memory if device == "cuda" else None,
        "cuda": torch.version.cuda if device == "cuda" else None,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "products": {"dtype": dtype, "flops_per_second": rate},
    }
    return {**found, "packages": {name: _version(name) for name in _PACKAGES}}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def write(folder: Path, found: Mapping[str, Any]) -> None:
    """`gpu.json` and `gpu.md`; called after every piece, so that a run that is stopped leaves what it found."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "gpu.md").write_text(markdown(found), encoding="utf-8")


def markdown(found: Mapping[str, Any]) -> str:
    """The machine in a line, then a row a figure."""
    at = found["machine"]
    rate, dtype = at["products"]["flops_per_second"] / 1e12, at["products"]["dtype"]
    packages = ", ".join(f"{name} {number}" for name, number in at["packages"].items() if number)
    size = "tiny models, to try the command out: no figure means anything. " if found["tiny"] else ""
    lines = [
        f"{size}{at['device']}, {at['cores']} cores, Python {at['python']}, {packages}; "
        f"matrix products reach {rate:,.3g} TFLOP/s in {dtype}.",
        "",
    ]
    lines += markdown_table(_HEADS, [cells for piece in found["pieces"] for cells in _cells(piece)], names=2, notes=1)
    return "\n".join(lines) + "\n"


def _cells(piece: Mapping[str, Any]) -> list[Sequence[str]]:
    rows = [
        (
            piece["name"],
            row["line"],
            _number(row, "tokens_per_second", ",.0f"),
            _number(row, "milliseconds", ",.2f"),
            _number(row, "share", ".0%"),
            _number(row, "peak", ".2f", 2**30),
            _number(row, "estimate", ".2f", 2**30),
            _number(row, "cosine", ".5f"),
            row.get("note", ""),
        )
        for row in piece["rows"]
    ]
    if "error" in piece:
        empty = [""] * (len(_HEADS) - 3)
        rows.append((piece["name"], "**failed**", *empty, " ".join(piece["error"].replace("|", "/").split())))
    return rows


def _number(row: Mapping[str, Any], key: str, form: str, unit: float = 1) -> str:
    return "" if row.get(key) is None else format(row[key] / unit, form)


def say(piece: Mapping[str, Any]) -> None:
    """One piece on the screen, as it ends."""
    sys.stdout.write(f"{piece['name']}: {piece.get('error') or 'done'} ({piece['seconds']} s)\n")
    for cells in _cells(piece):
        sys.stdout.write(f"    {'  '.join(cell for cell in cells[1:] if cell)}\n")
    sys.stdout.flush()

"""What each fast path wins alone: everything on against everything but that one, by turns, each in its own process.

python benchmarks/fast_paths.py [--shape 135m] [--dtype float32] [--rounds 3] [--paths flat prepack]
python benchmarks/fast_paths.py --against CHECKOUT     (this version against another one, everything on)

A path that wins less than a twentieth everywhere it applies is not worth its lines.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from race import Line, median, race
from report import Report, add_json
from shapes import SHAPES, make_model, workload

from unmask.backbone.fast.contract import NAMES

_ENCODING = ("flat", "prepack", "compile")
_TRAINING = ("flat", "products", "lora", "masks", "compile")


def main() -> None:
    """Parse, make the model, race."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="135m")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=96)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--paths", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--against", type=Path, help="another checkout of this package")
    add_json(parser)
    arguments = parser.parse_args()
    report = Report(arguments.json)
    with tempfile.TemporaryDirectory() as scratch:
        for workload_name, job in _jobs(arguments, Path(scratch)).items():
            lines = _lines(workload_name, job, arguments)
            if len(lines) > 1:
                title = f"{arguments.shape}, {arguments.dtype}, {workload_name}"
                _table(report, title, race(lines, arguments.rounds))


def _jobs(arguments: argparse.Namespace, scratch: Path) -> dict[str, dict[str, Any]]:
    """What is timed: encoding of paragraphs and of single queries, steps of both objectives."""
    causal, encoder = scratch / "causal", scratch / "encoder"
    dtype = arguments.dtype
    make_model(arguments.shape, causal, dtype=dtype)
    make_model(arguments.shape, encoder, dtype=dtype, head=False, causal=False)
    encoding = {"model": str(encoder), "dtype": dtype, "scratch": str(scratch), "attention": "bidirectional"}
    training = {"causal_model": str(causal), "dtype": dtype, "scratch": str(scratch), "steps": arguments.steps}
    training |= {"documents": workload("long", 40, None), "sentences": workload("short", 200, None)}
    return {
        "encode": encoding | {"texts": workload("mixed", arguments.texts, None)},
        "query": encoding | {"texts": workload("short", 32, None), "latency": True},
        "mntp": training | {"rows": 4, "length": 512, "micro_tokens": 1024},
        "simcse": training | {"rows": 16, "length": 128, "micro_tokens": 2048},
    }


def _lines(name: str, job: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Line]:
    function = f"unmask.{name}" if name in ("mntp", "simcse") else "unmask.encode"
    lines = {"everything": (sys.executable, function, job | {"environment": {"UNMASK_FAST": "1"}})}
    if arguments.against:
        other = os.pathsep.join([str(arguments.against / "src"), os.environ.get("PYTHONPATH", "")])
        lines[arguments.against.name] = (sys.executable, function, job | {"environment": {"PYTHONPATH": other}})
        return lines
    for path in _TRAINING if name in ("mntp", "simcse") else _ENCODING:
        if path not in arguments.paths:
            continue
        if path == "compile":  # it comes by itself only when minutes are left
            lines["with compile"] = (sys.executable, function, job | {"compile": True})
            continue
        rest = ",".join(other for other in NAMES if other != path)
        lines[f"without {path}"] = (sys.executable, function, job | {"environment": {"UNMASK_FAST": rest}})
    return lines


def _table(report: Report, title: str, found: dict[str, list[dict[str, Any]]]) -> None:
    key = "seconds" if "seconds" in found["everything"][0] else "tokens_per_second"
    base = median(found["everything"], key)
    report.table(title, "", key.replace("_per_second", "/s"), "time against everything")
    for line, runs in found.items():
        if runs:
            value = median(runs, key)
            ratio = value / base if key == "seconds" else base / value
            report.row(line, f"{value:,.3f}", f"{ratio:.2f}x")


if __name__ == "__main__":
    main()

"""Everything that is to be known of this package on one GPU, in less than nine minutes: tests first, then figures.

make gpu                                                  (installs from the folder of `make gpu-wheels` first)
python -m benchmarks.gpu --device cuda --out gpu          (from the root of the repository)
python -m benchmarks.gpu --device cpu --tiny --out gpu    (every line of it, on a machine without a GPU)

Needs no network: random weights of published shapes, text that ships with Python. Each piece has a time limit and fails
alone; the exit code is 1 if one did. Writes OUT/gpu.json and OUT/gpu.md after every piece.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

_SECONDS = 500.0
_TESTS_LIMIT = 150.0


def main() -> None:
    """Parse, test, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="two layers and a handful of texts")
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.json and gpu.md")
    parser.add_argument("--only", nargs="+", default=[""], help="pieces whose names begin so (tests, encode, MNTP ...)")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # training takes a GPU where it finds one
    with tempfile.TemporaryDirectory() as scratch:
        found = _measure(arguments, Path(scratch))
    failed = [piece["name"] for piece in found if "error" in piece]
    sys.stdout.write(f"{len(found) - len(failed)} pieces done, {len(failed)} failed; see {arguments.out / 'gpu.md'}\n")
    sys.exit(1 if failed else 0)


def _measure(arguments: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    import torch
    from benchmarks.gpu.report import machine, say, write
    from benchmarks.gpu.setup import Setup
    from benchmarks.gpu.worker import Worker, pieces

    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} finds no GPU here; --device cpu --tiny tries everything out on a CPU.")
    # On a CPU nothing hangs in a kernel, and a busy one may take long.
    patience = 10 if arguments.tiny else 1
    ends = time.perf_counter() + patience * _SECONDS
    setup = Setup(arguments.device, arguments.tiny, scratch)
    found: dict[str, Any] = {"machine": machine(setup.device, setup.rate, setup.dtype), "tiny": setup.tiny}
    found["pieces"] = done = []
    worker = Worker(setup)
    known = pieces(tiny=setup.tiny)
    for name in ("tests", *known):
        if not name.startswith(tuple(arguments.only)):
            continue
        left = ends - time.perf_counter()
        if left < 5:
            done.append({"name": name, "seconds": 0.0, "rows": [], "error": "no time was left for it"})
        elif name == "tests":
            done.append(_tests(setup.device, scratch, min(patience * _TESTS_LIMIT, left)))
        else:
            done.append(worker.run(name, min(patience * known[name].limit, left)))
        say(done[-1])
        write(arguments.out, found)
    worker.stop(wait=5)
    return done


def _tests(device: str, scratch: Path, seconds: float) -> dict[str, Any]:
    """The tests marked gpu, on that device; each with its seconds, and its message if it failed."""
    report = scratch / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", f"--junitxml={report}"]
    environment = os.environ | {"UNMASK_TEST_DEVICE": device}
    started, error = time.perf_counter(), {}
    try:
        code = subprocess.run(command, env=environment, timeout=seconds, check=False).returncode
        if code:
            error = {"error": f"pytest ended with code {code}"}
    except subprocess.TimeoutExpired:
        error = {"error": f"took longer than {seconds:.0f} s"}
    rows = []
    for case in ET.parse(report).iter("testcase") if report.exists() else ():
        bad = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        note = "passed" if bad is None else f"{bad.tag}: {' '.join((bad.get('message') or '').split())[:200]}"
        rows.append({"line": case.get("name"), "milliseconds": 1000 * float(case.get("time", 0)), "note": note})
    return {"name": "tests", "seconds": round(time.perf_counter() - started, 1), "rows": rows, **error}


if __name__ == "__main__":
    main()

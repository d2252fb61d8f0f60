"""One run of one library in a process of its own, in the environment that library needs; prints a line of JSON.

python benchmarks/peers unmask.encode JOB.json        (benchmarks/race.py starts it)

A job names the model folder, the texts, dtype and sizes. What is timed begins after a warm-up; the peak is that of
the process and of those it started.
"""

import json
import sys
from importlib import import_module
from pathlib import Path


def main() -> None:
    """Run the function a peer and task name, on a job."""
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder: its modules are named like libraries
    name, path = sys.argv[1:]
    library, task = name.replace("-", "_").split(".")
    found = getattr(import_module(f"peers.{library}"), task)(json.loads(Path(path).read_text()))
    peak_mb = import_module("peers.timing").peak_mb
    print(json.dumps(found | {"peak_mb": peak_mb()}))


if __name__ == "__main__":
    main()

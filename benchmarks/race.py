"""Runs of several libraries by turns, each in a process and an environment of its own; medians and ratios."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("peers")
Line = tuple[str, str, dict[str, Any]]  # python, `module.function` of peers, job
ENVIRONMENT = dict(os.environ)  # before unmask is imported, which sets variables that other libraries do without


def race(peers: Mapping[str, Line], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Run all peers by turns.

    Args:
        peers: name to show -> what is run; a job may set environment variables.
        rounds: how often each runs.

    Returns:
        What each run said, by name; a peer that failed has none, and its last words are printed.
    """
    for name, (python, _, _) in peers.items():
        if shutil.which(python) is None:
            sys.exit(f"{name}: there is no Python at {python}; the Makefile has a target for each environment.")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in peers}
    failed: set[str] = set()
    for _ in range(rounds):
        for name, (python, function, job) in peers.items():
            if name in failed:
                continue
            with tempfile.NamedTemporaryFile("w", suffix=".json", dir=job["scratch"], delete=False) as file:
                json.dump(job, file)
            environment = ENVIRONMENT | job.get("environment", {})
            command = [python, str(WORKER), function, file.name]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                failed.add(name)
                print(f"{name} failed: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            else:
                lines = done.stdout.splitlines()
                found[name].append(json.loads([line for line in lines if line.startswith("{")][-1]))
    return found


def median(runs: Sequence[Mapping[str, Any]], key: str) -> float:
    """Of one figure over runs."""
    return statistics.median(float(run[key]) for run in runs)

"""Runs of several libraries by turns, each in a process and an environment of its own; medians and ratios."""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from unmask.training.rate import matrix_rate

WORKER = Path(__file__).with_name("peers.py")
_ENVIRONMENT = dict(os.environ)  # before unmask is imported, which sets variables that other libraries do without


def race(peers: Mapping[str, tuple[str, str, dict[str, Any]]], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Run all peers by turns.

    Args:
        peers: name to show -> (python, function in peers.py, job); a job may set environment variables.
        rounds: how often each runs.

    Returns:
        What each run said, by name; a peer that failed has none, and its last words are printed.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in peers}
    failed: set[str] = set()
    for _ in range(rounds):
        for name, (python, function, job) in peers.items():
            if name in failed:
                continue
            with tempfile.NamedTemporaryFile("w", suffix=".json", dir=job["scratch"], delete=False) as file:
                json.dump(job, file)
            environment = _ENVIRONMENT | job.get("environment", {})
            command = [python, str(WORKER), function, file.name]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                failed.add(name)
                print(f"{name} failed: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            else:
                found[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
    return found


def median(runs: Sequence[Mapping[str, Any]], key: str) -> float:
    """Of one figure over runs."""
    return statistics.median(float(run[key]) for run in runs)


def machine() -> str:
    """A line on what the figures were measured on."""
    rates = ", ".join(f"{name} {matrix_rate(getattr(torch, name)) / 1e9:,.0f}" for name in ("bfloat16", "float32"))
    model = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "")
    return (
        f"{platform.machine()} {model}, {torch.get_num_threads()} threads, torch {torch.__version__}; "
        f"matrix products reach {rates} GFLOP/s"
    )


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []

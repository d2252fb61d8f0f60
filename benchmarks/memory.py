"""The memory that `--dry-run` foretells beside the peak that training reaches, for models of published shapes.

python benchmarks/memory.py --shape 135m --tuning full lora
python benchmarks/memory.py --shape 1b --tuning lora --tokens 16384 --checkpointing     (a GPU)

Weights are random. On a GPU the peak is that of torch's allocator, on a CPU that of the process less what it took
before the model was loaded. Each line is a process of its own.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from peers.timing import peak_mb
from shapes import SHAPES, make_model


def recipe(model: Path, texts: Path, arguments: argparse.Namespace, tuning: str) -> dict[str, Any]:
    """Three steps of one stage."""
    shared = {
        "data": "texts",
        "steps": 3,
        "tuning": tuning,
        "micro_batch_tokens": arguments.tokens,
        "gradient_checkpointing": arguments.checkpointing,
    }
    stages = {
        "mntp": {"objective": "mntp", "batch_tokens": 2 * arguments.tokens, "block_size": 512, **shared},
        "simcse": {"objective": "simcse", "batch_size": 64, "max_length": 64, "grad_cache": True, **shared},
    }
    return {
        "name": "memory",
        "model": {"name": str(model), "dtype": "bfloat16"},
        "data": {"texts": {"files": [str(texts)]}},
        "stages": [stages[arguments.stage]],
    }


def measure(job: dict[str, Any]) -> dict[str, float]:
    """Estimate and peak, in this process."""
    import peft  # noqa: F401  what is imported is no part of the peak
    import torch

    from unmask.runs.plan import make_plan
    from unmask.runs.recipe import load_recipe
    from unmask.runs.run import train

    made = load_recipe(job)
    estimate = make_plan(made).stages[0].memory
    before = peak_mb() * 2**20
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        train(made, Path(folder) / "run", evaluate=lambda _: {})
    peak = peak_mb() * 2**20 - before
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    return {"estimate": estimate.peak, "activations": estimate.activations, "peak": peak}


def texts_file(folder: Path) -> Path:
    """Prose that ships with Python, several times over."""
    from pydoc_data.topics import topics

    path = folder / "texts.jsonl"
    rows = [json.dumps({"text": " ".join(text.split())}) for text in topics.values()]
    path.write_text("\n".join(rows * 4))
    return path


def main() -> None:
    """One line a way to tune."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="135m")
    parser.add_argument("--stage", choices=("mntp", "simcse"), default="mntp")
    parser.add_argument("--tuning", nargs="+", default=["full", "lora"])
    parser.add_argument("--tokens", type=int, default=2048, help="of a forward pass")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        sys.stdout.write(f"RESULT {json.dumps(measure(json.loads(arguments.job)))}\n")
        return
    print(f"{platform.machine()}, {platform.processor() or 'CPU'}; {arguments.shape}, {arguments.stage}")
    print(f"{'tuning':<8} {'estimate':>10} {'peak':>10} {'ratio':>7}")
    with tempfile.TemporaryDirectory() as scratch:
        make_model(arguments.shape, Path(scratch) / "model")
        texts = texts_file(Path(scratch))
        for tuning in arguments.tuning:
            job = json.dumps(recipe(Path(scratch) / "model", texts, arguments, tuning))
            done = subprocess.run([sys.executable, __file__, "--job", job], capture_output=True, text=True, check=False)
            lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
            if not lines:
                sys.exit(done.stderr[-2000:])
            found = json.loads(lines[0].removeprefix("RESULT "))
            estimate, peak = found["estimate"] / 2**30, found["peak"] / 2**30
            print(f"{tuning:<8} {estimate:>8.2f} G {peak:>8.2f} G {estimate / peak:>7.2f}")


if __name__ == "__main__":
    main()

"""Word-level evaluation, end to end, beside the released script's way: same model, data and machine.

    make oracle
    python benchmarks/words.py --oracle .venv-oracle/bin/python --sentences 1000 --rounds 3

Three tasks (part of speech, chunks, kind of chunk) on the words of CoNLL-2000 from $UNMASK_DATA; ten epochs for the
paper's probe in both. Whole processes by turns, imports and loading included; the median counts, as a ratio.
`released_words.py` says what the other side does.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import Report, add_json
from safetensors.torch import load, save_file

from unmask import TextEncoder

TASKS = ("pos", "chunk", "kind")
EPOCHS, BATCH = 10, 8


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oracle", required=True, help="python of the environment that `make oracle` makes")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--sentences", type=int, default=1000, help="of the training file; a quarter for the test")
    parser.add_argument("--rounds", type=int, default=3)
    add_json(parser)
    arguments = parser.parse_args()
    report = Report(arguments.json)
    data = Path(os.environ.get("UNMASK_DATA", ".")) / "conll2000"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        TextEncoder.load(arguments.model, attention="bidirectional", dtype="float32").save(folder / "encoder")
        known_to_both(folder / "encoder")
        for name, count in (("train", arguments.sentences), ("test", arguments.sentences // 4)):
            write(data / f"{name}.txt", folder / f"{name}.txt", count)
        _compare(report, arguments, folder)


def _compare(report: Report, arguments: argparse.Namespace, folder: Path) -> None:
    """All three by turns."""
    files = [str(folder / "train.txt"), str(folder / "test.txt")]
    ours = [sys.executable, "-m", "unmask.cli.main", "eval", "words", str(folder / "encoder"), "--json"]
    ours += ["--train", files[0], "--test", files[1], "--position", "same"]
    ours += [part for number, task in enumerate(TASKS, 1) for part in ("--label-column", f"{task}={number}")]
    steps = str(EPOCHS * -(-arguments.sentences // BATCH))
    script = str(Path(__file__).with_name("released_words.py"))
    runs = {
        "released way, 10 epochs": [arguments.oracle, script, str(folder / "encoder"), *files],
        "unmask, paper's probe, 10 epochs": [*ours, "--probe", "paper", "--steps", steps],
        "unmask, converged probe": ours,
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    accuracies: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        for name, command in runs.items():
            started = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds[name].append(time.perf_counter() - started)
            accuracies[name] = read(done.stdout)
    title = f"{arguments.sentences} training sentences, {arguments.model}, float32"
    report.table(title, "", "seconds", "ratio", *TASKS)
    slow = statistics.median(seconds["released way, 10 epochs"])
    for name, values in seconds.items():
        median = statistics.median(values)
        figures = [f"{value:.2f}" for value in accuracies[name]]
        report.row(name, f"{median:.1f}", f"{slow / median:.1f}x", *figures)


def known_to_both(folder: Path) -> None:
    """Write tokenizer, config and weights as the transformers of the released package reads them, too."""
    weights = folder / "model.safetensors"
    save_file(load(weights.read_bytes()), weights, metadata={"format": "pt"})  # or it would be kept from them
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32"}), encoding="utf-8")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    merges = tokenizer["model"]["merges"]
    tokenizer["model"]["merges"] = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    if tokenizer["pre_tokenizer"]["type"] == "ByteLevel":  # words that come apart are read with the space before them
        tokenizer["pre_tokenizer"]["add_prefix_space"] = True
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")


def read(output: str) -> list[float]:
    """Accuracy of each task, from either side's JSON."""
    found = json.loads(output.strip().splitlines()[-1])
    return [one["accuracy"] for one in found["results"]] if "results" in found else list(found.values())


def write(source: Path, target: Path, count: int) -> None:
    """The first sentences with a third label: the chunk's kind without its B or I."""
    blocks = source.read_text(encoding="utf-8").split("\n\n")[:count]
    rows = [[line.split() for line in block.strip().splitlines()] for block in blocks if block.strip()]
    lines = ["\n".join(f"{w}\t{p}\t{c}\t{c.rpartition('-')[2]}" for w, p, c in sentence) for sentence in rows]
    target.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""`unmask encode` killed at any moment and started again: every row once, in order, the bytes of one run."""

import json
import os
import random
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from tests.integration.small import write_small_encoder
from unmask.cli.main import main

# One process that has imported everything forks those that are killed, so that they die at work, not while importing.
# Each is a process of its own that runs the command from its arguments on and opens the encoder anew.
FORKS = """
import json, os, random, signal, sys, time
import unmask, torch, transformers, pyarrow.parquet
import unmask.corpus.encode, unmask.backbone.loading
from unmask.cli.main import main

arguments, least, seed, longest = sys.argv[4:], int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
generator, kills, starts = random.Random(seed), 0, 0
while True:
    starts += 1
    process = os.fork()
    if process == 0:
        os._exit(main(arguments))
    if kills < least:
        time.sleep(generator.uniform(0.02, longest))
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status):
        kills += 1
        continue
    print(json.dumps({"kills": kills, "starts": starts, "code": os.waitstatus_to_exitcode(status)}))
    break
"""
ROWS, SHARD_ROWS = 6000, 128


@pytest.fixture(scope="module")
def small_encoder(tmp_path_factory):
    return write_small_encoder(tmp_path_factory.mktemp("kills") / "model")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    generator = random.Random(0)
    words = ["river", "stock", "cat", "bread", "winter", "engine", "letter"]
    rows = [
        {"id": n, "text": " ".join(generator.choices(words, k=generator.randint(1, 30)))} if n % 100 else {"id": n}
        for n in range(ROWS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def command(encoder, texts, out, *options):
    rest = ["--id-field", "id", "--keep", "text", "--on-error", "skip", "--dtype", "float32"]
    return ["encode", encoder, str(texts), "--out", str(out), *rest, *options]


def files(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if not path.name.startswith(".lock")}


def kill_and_start(least, longest, arguments):
    """Kill a command so many times and let it end; how often it was killed before it was through."""
    given = [str(least), str(random.randrange(10**6)), str(longest), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", FORKS, *given], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["code"] == 0, (given, done.stderr)
    return found["kills"]


@pytest.fixture
def one_thread():
    """As the processes that are killed."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_twenty_kills_leave_the_output_of_an_uninterrupted_run(small_encoder, texts, tmp_path, one_thread):
    options = ("--shard-rows", str(SHARD_ROWS))
    assert main(command(small_encoder, texts, tmp_path / "whole", *options)) == 0
    kills = rounds = 0
    while kills < 20:  # a run that is through before it was killed often enough is followed by another
        out, rounds = tmp_path / f"killed-{rounds}", rounds + 1
        kills += kill_and_start(20 - kills, 1.5, command(small_encoder, texts, out, *options))
        assert files(out) == files(tmp_path / "whole")
    parts = sorted((tmp_path / "whole").glob("part-*.parquet"))
    ids = [identity for path in parts for identity in pq.read_table(path)["id"].to_pylist()]
    assert ids == [str(n) for n in range(ROWS) if n % 100]


@pytest.mark.slow
def test_one_file_is_whole_or_not_there(small_encoder, texts, tmp_path, one_thread):
    for name in ("whole", "killed"):
        arguments = command(small_encoder, texts, tmp_path / f"{name}.parquet")
        assert kill_and_start(3, 0.5, arguments) if name == "killed" else main(arguments) == 0
    assert (tmp_path / "killed.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jsonl", ".jsonl", ".parquet", ".parquet"]

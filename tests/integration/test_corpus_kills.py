"""`unmask encode` killed at any moment and started again: every row once, in order, the bytes of one run."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

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
    import torch
    import transformers

    from unmask.backbone.locate import load_tokenizer

    tokenizer = load_tokenizer("pocket")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **sizes)
    folder = tmp_path_factory.mktemp("kills") / "model"
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


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


@pytest.mark.slow
def test_twenty_kills_leave_the_output_of_an_uninterrupted_run(small_encoder, texts, tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    options = ("--shard-rows", str(SHARD_ROWS))
    whole = [sys.executable, "-m", "unmask", *command(small_encoder, texts, tmp_path / "whole", *options)]
    subprocess.run(whole, check=True, env=environment, capture_output=True)
    seed = random.randrange(10**6)
    kills, round_number = 0, 0
    while kills < 20:  # a run that is through before it was killed often enough is followed by another
        out = tmp_path / f"killed-{round_number}"
        arguments = [str(20 - kills), str(seed + round_number), "1.5", *command(small_encoder, texts, out, *options)]
        done = subprocess.run(
            [sys.executable, "-c", FORKS, *arguments], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["code"] == 0, (seed, done.stderr)
        kills, round_number = kills + found["kills"], round_number + 1
        assert files(out) == files(tmp_path / "whole"), seed
    parts = sorted((tmp_path / "whole").glob("part-*.parquet"))
    ids = [identity for path in parts for identity in pq.read_table(path)["id"].to_pylist()]
    assert ids == [str(n) for n in range(ROWS) if n % 100]


@pytest.mark.slow
def test_one_file_is_whole_or_not_there(small_encoder, texts, tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    code = [sys.executable, "-m", "unmask", *command(small_encoder, texts, tmp_path / "v.parquet")]
    started = subprocess.Popen(code, env=environment, stderr=subprocess.DEVNULL)
    while not (tmp_path / "v.parquet.partial" / "manifest.json").exists():
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert not (tmp_path / "v.parquet").exists()
    subprocess.run(code, check=True, env=environment, capture_output=True)
    assert pq.read_table(tmp_path / "v.parquet").num_rows == ROWS - ROWS // 100
    assert not (tmp_path / "v.parquet.partial").exists()

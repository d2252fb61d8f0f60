"""This package."""

import unmask  # noqa: F401, I001  before torch, as users are told: it says how torch's threads wait

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from .clients import timed_serving
from .timing import timed_encoding


def encode(job):
    """Vectors of texts, in eight bits where the job says so."""
    from unmask import TextEncoder

    encoder = TextEncoder.load(job["model"], dtype=job["dtype"], attention=job.get("attention"))
    texts = job["texts"]
    if job.get("int8"):
        from unmask.encoder.int8 import to_int8

        to_int8(encoder, texts[:16])
    pieces = (encoder.tokenize(texts[start : start + 1000]) for start in range(0, len(texts), 1000))
    tokens = sum(len(text) for piece in pieces for text in piece)
    compiled = job.get("compile")
    return timed_encoding(job, lambda texts: encoder.encode(texts, compile=compiled)) | {"tokens": tokens}


def serve(job):
    """`unmask serve`, asked for base64 as OpenAI's client asks."""
    command = [sys.executable, "-m", "unmask", "serve", job["model"], "--port", "0", "--json", "--dtype", job["dtype"]]
    return timed_serving(job, command, encoding_format="base64")


def mntp(job):
    """Steps of MNTP as `unmask train` runs them."""
    sizes = {"batch_tokens": job["rows"] * job["length"], "block_size": job["length"]}
    return _steps(job, job["documents"], {"objective": "mntp", **sizes})


def simcse(job):
    """Steps of SimCSE as `unmask train` runs them."""
    sizes = {"batch_size": job["rows"], "max_length": job["length"], "attention_dropout": 0.3}
    return _steps(job, job["sentences"], {"objective": "simcse", **sizes})


def _steps(job, rows, sizes):
    try:
        from unmask.runs.recipe import load_recipe
        from unmask.runs.run import train
    except ImportError:  # an earlier version, to compare with
        from unmask.ladder.recipe import load_recipe
        from unmask.ladder.run import train

    scratch = Path(tempfile.mkdtemp(dir=job["scratch"]))
    texts = scratch / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"text": text}) for text in rows))
    stage = sizes | {"data": "texts", "steps": job["steps"], "tuning": "lora", "lr": 1e-4}
    stage |= {"compile": True} if job.get("compile") else {}
    recipe = {
        "name": "steps",
        "precision": "bf16" if job["dtype"] == "bfloat16" else "fp32",
        "model": {"name": job["causal_model"], "dtype": job["dtype"], "max_length": job["length"]},
        "data": {"texts": {"files": [str(texts)]}},
        "stages": [stage | {"micro_batch_tokens": job["micro_tokens"], "log_every": 1}],
    }
    (scratch / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    train(load_recipe(scratch / "recipe.yaml"), scratch / "run", evaluate=lambda encoder: {})
    lines = next(scratch.glob("run/stages/*/metrics.jsonl")).read_text().splitlines()
    return {"tokens_per_second": statistics.median(json.loads(line)["tokens_per_second"] for line in lines[2:])}


def corpus(job):
    """A file of texts to shards, as `unmask encode` does it."""
    from unmask import CorpusOptions, TextEncoder, encode_files
    from unmask.corpus.plan import make_plan

    encoder = TextEncoder.load(job["model"], dtype=job["dtype"])
    few = Path(tempfile.mkdtemp(dir=job["scratch"])) / "few.txt"
    few.write_text("a text\n" * 4)
    encode_files(encoder, [few], few.with_suffix(".parquet"))  # warm: what reads and writes is imported, too
    out = Path(tempfile.mkdtemp(dir=job["scratch"]))
    started = time.perf_counter()
    done = encode_files(encoder, [job["file"]], out)
    seconds = time.perf_counter() - started
    make_plan([job["file"]], out.with_suffix(".planned"), CorpusOptions())
    planned = time.perf_counter() - started - seconds
    size = sum(file.stat().st_size for file in out.iterdir())
    return {
        "seconds": seconds,
        "planned": planned,
        "bytes": size,
        "tokens": done.tokens,
        "device": encoder.model.device.type,
    }


def corpus_in_memory(job):
    """The same texts out of a list into an array."""
    from unmask import TextEncoder

    encoder = TextEncoder.load(job["model"], dtype=job["dtype"])
    encoder.encode(["a text"] * 4)
    texts = Path(job["file"]).read_text(encoding="utf-8").splitlines()
    started = time.perf_counter()
    encoder.encode(texts)
    return {"seconds": time.perf_counter() - started}

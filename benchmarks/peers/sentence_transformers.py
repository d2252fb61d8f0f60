"""sentence-transformers: its `encode` and its trainer."""

import statistics
import sys
import time
from itertools import islice
from pathlib import Path

from .answering import answer
from .clients import timed_serving
from .timing import timed_encoding
from .trainers import Clock, steps_of, trainer_arguments


def encode(job):
    """sentence-transformers on the same folder."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(job["model"], model_kwargs={"dtype": job["dtype"]})
    return timed_encoding(job, lambda texts: model.encode(texts, batch_size=32))


def answers(job):
    """As `unmask check` asks it."""
    from sentence_transformers import SentenceTransformer, __version__

    model = SentenceTransformer(job["model"], device="cpu", model_kwargs={"dtype": "float32"})
    return answer(__version__, lambda texts, prompt: model.encode(texts, prompt=prompt, show_progress_bar=False))


def serve(job):
    """sentence-transformers behind FastAPI."""
    script = Path(__file__).parents[1] / "fastapi_server.py"  # here modules are named like libraries
    return timed_serving(job, [sys.executable, str(script), job["model"], job["dtype"]])


def corpus(job, **options):
    """A file of texts to a Parquet file, some ten thousand at a time."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(job["model"], model_kwargs={"dtype": job["dtype"]})
    model.encode(["a text"] * 4)
    started = time.perf_counter()
    with open(job["file"], encoding="utf-8") as file:
        while rows := [line.rstrip("\n") for line in islice(file, 32768)]:
            _write(job, model.encode(rows, batch_size=32, **options), started)
    return {"seconds": time.perf_counter() - started}


def corpus_in_processes(job):
    """The same by its pool of processes, two of them."""
    return corpus(job, device=["cpu", "cpu"])


def _write(job, vectors, started):
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(pa.table({"vector": column}), f"{job['scratch']}/{started}-{time.perf_counter()}.parquet")


def simcse(job):
    """sentence-transformers' trainer, MultipleNegativesRankingLoss on (a, a)."""
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    columns = {"anchor": job["sentences"], "positive": job["sentences"]}
    return steps(job, columns, MultipleNegativesRankingLoss, attention_dropout=0.3)


def supervised(job):
    """sentence-transformers' trainer, its GradCache on (query, positive, negative)."""
    from sentence_transformers.losses import CachedMultipleNegativesRankingLoss

    def loss(model):
        return CachedMultipleNegativesRankingLoss(model, mini_batch_size=job["mini_batch"])

    columns = {name: [pair[name] for pair in job["pairs"]] for name in ("query", "positive", "negative")}
    return steps(job, columns, loss, attention_dropout=0.0)


def steps(job, columns, loss, *, attention_dropout):
    """Steps of its trainer with LoRA, on columns of texts."""
    from datasets import Dataset
    from peft import LoraConfig
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    model = SentenceTransformer(
        job["model"], model_kwargs={"dtype": job["dtype"]}, config_kwargs={"attention_dropout": attention_dropout}
    )
    model.max_seq_length = job["length"]
    model.add_adapter(LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear"))
    texts = [text for column in columns.values() for text in column]
    tokens = statistics.mean(
        len(ids) for ids in model.tokenizer(texts, truncation=True, max_length=job["length"])["input_ids"]
    )
    clock = Clock()
    SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(**trainer_arguments(job)),
        train_dataset=Dataset.from_dict(columns),
        loss=loss(model),
        callbacks=[clock],
    ).train()
    return steps_of(clock.times, len(columns) * job["rows"] * tokens)

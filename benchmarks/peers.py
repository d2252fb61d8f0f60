"""One run of one library in a process of its own, in the environment that library needs; prints a line of JSON.

python benchmarks/peers.py unmask.encode JOB.json        (benchmarks/encode.py and benchmarks/steps.py start it)

A job names the model folder, the texts, dtype and sizes. What is timed begins after a warm-up; the peak is that of
the process. Nothing here imports another benchmark, so that the released package's environment can run it.
"""

import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

if sys.argv[1:] and sys.argv[1].startswith("unmask."):
    import unmask  # noqa: F401  before torch, as users are told: it says how torch's threads wait

import torch


def main() -> None:
    """Run the function a peer and task name, on a job."""
    name, path = sys.argv[1:]
    job = json.loads(Path(path).read_text())
    result = PEERS[name](job)
    print(json.dumps(result | {"peak_mb": peak_mb(), "threads": torch.get_num_threads()}))


def peak_mb():
    """The most memory this process has had; on Linux `ru_maxrss` may be that of the process which started it."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed_encoding(job, encode):
    """Seconds of one pass over all texts, after a short one; with latency the median over single texts."""
    texts = job["texts"]
    encode(texts[:4])
    if job.get("latency"):
        seconds = []
        for text in texts:
            started = time.perf_counter()
            encode([text])
            seconds.append(time.perf_counter() - started)
        vectors = encode(texts)
        return {"seconds": statistics.median(seconds), **kept(job, vectors)}
    started = time.perf_counter()
    vectors = encode(texts)
    return {"seconds": time.perf_counter() - started, **kept(job, vectors)}


def kept(job, vectors):
    """Write the vectors for the comparison."""
    import numpy as np

    path = tempfile.mkstemp(suffix=".npy", dir=job["scratch"])[1]
    np.save(path, np.asarray(vectors, dtype=np.float32))
    return {"vectors": path}


def unmask_encode(job):
    """This package."""
    from unmask import TextEncoder

    encoder = TextEncoder.load(job["model"], dtype=job["dtype"], attention=job.get("attention"))
    texts = job["texts"]
    pieces = (encoder.tokenize(texts[start : start + 1000]) for start in range(0, len(texts), 1000))
    tokens = sum(len(text) for piece in pieces for text in piece)
    compiled = job.get("compile")
    return timed_encoding(job, lambda texts: encoder.encode(texts, compile=compiled)) | {"tokens": tokens}


def sentence_transformers_encode(job):
    """sentence-transformers on the same folder."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(job["model"], model_kwargs={"dtype": job["dtype"]})
    return timed_encoding(job, lambda texts: model.encode(texts, batch_size=32))


def exported_encode(backend):
    """sentence-transformers on ONNX Runtime or OpenVINO, which read the plain causal model."""

    def run(job):
        from sentence_transformers import SentenceTransformer

        options = {"export": True}
        if backend == "openvino":
            options["ov_config"] = {"INFERENCE_PRECISION_HINT": {"bfloat16": "bf16", "float32": "f32"}[job["dtype"]]}
        elif job["dtype"] != "float32":
            raise SystemExit("ONNX Runtime computes in float32 on a CPU")
        model = SentenceTransformer(job["llm2vec_model"], backend=backend, model_kwargs=options)
        return timed_encoding(job, lambda texts: model.encode(texts, batch_size=32))

    return run


def transformers_encode(job):
    """The loop most people write: batches of 32 in order, padded, mean over the mask."""
    import numpy as np
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    model = AutoModel.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"])).eval()

    @torch.inference_mode()
    def encode(texts):
        found = []
        for start in range(0, len(texts), 32):
            batch = tokenizer(texts[start : start + 32], padding=True, truncation=True, return_tensors="pt")
            states = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0].float()
            mask = batch["attention_mask"][..., None].float()
            mask[:, 0] = 0  # the encoder leaves BOS out of the mean
            found.append(((states * mask).sum(1) / mask.sum(1)).numpy())
        return np.concatenate(found)

    return timed_encoding(job, encode)


def llm2vec_encode(job):
    """The released package's own `encode`, in one process."""
    from llm2vec import LLM2Vec

    model = LLM2Vec.from_pretrained(
        job["llm2vec_model"], torch_dtype=getattr(torch, job["dtype"]), max_length=8192, doc_max_length=8192
    )
    model.eval()
    return timed_encoding(job, lambda texts: model.encode(list(texts), show_progress_bar=False).float().numpy())


def steps_of(times, tokens):
    """Tokens a second from the median step, without the first two."""
    gaps = [b - a for a, b in zip(times, times[1:])]
    return {"tokens_per_second": tokens / statistics.median(gaps[1:])}


def unmask_steps(objective):
    """Steps of a stage as `unmask train` runs them."""

    def run(job):
        try:
            from unmask.runs.recipe import load_recipe
            from unmask.runs.run import train
        except ImportError:  # an earlier version, to compare with
            from unmask.ladder.recipe import load_recipe
            from unmask.ladder.run import train

        scratch = Path(tempfile.mkdtemp(dir=job["scratch"]))
        texts = scratch / "texts.jsonl"
        rows = job["documents"] if objective == "mntp" else job["sentences"]
        texts.write_text("\n".join(json.dumps({"text": text}) for text in rows))
        sizes = {
            "mntp": {"batch_tokens": job["rows"] * job["length"], "block_size": job["length"]},
            "simcse": {"batch_size": job["rows"], "max_length": job["length"], "attention_dropout": 0.3},
        }
        stage = {"objective": objective, "data": "texts", "steps": job["steps"], "tuning": "lora", "lr": 1e-4}
        stage |= {"compile": True} if job.get("compile") else {}
        recipe = {
            "name": "steps",
            "precision": "bf16" if job["dtype"] == "bfloat16" else "fp32",
            "model": {"name": job["causal_model"], "dtype": job["dtype"], "max_length": job["length"]},
            "data": {"texts": {"files": [str(texts)]}},
            "stages": [stage | sizes[objective] | {"micro_batch_tokens": job["micro_tokens"], "log_every": 1}],
        }
        (scratch / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
        train(load_recipe(scratch / "recipe.yaml"), scratch / "run", evaluate=lambda encoder: {})
        lines = next(scratch.glob("run/stages/*/metrics.jsonl")).read_text().splitlines()
        return {"tokens_per_second": statistics.median(json.loads(line)["tokens_per_second"] for line in lines[2:])}

    return run


class Clock:
    """Notes when each step of a Trainer ends; made a callback where transformers is known."""

    def __new__(cls):
        from transformers import TrainerCallback

        class Noting(TrainerCallback):
            def __init__(self):
                self.times = []

            def on_step_end(self, args, state, control, **kwargs):
                self.times.append(time.perf_counter())

        return Noting()


def trainer_arguments(job, **extra):
    """What both of the released scripts' Trainers are given here."""
    return {
        "output_dir": tempfile.mkdtemp(dir=job["scratch"]),
        "max_steps": job["steps"],
        "per_device_train_batch_size": job["rows"],
        "learning_rate": 1e-4,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": torch.cuda.is_available() and job["dtype"] == "bfloat16",  # adapters' float32 weights would be slow
        **extra,
    }


def run_mntp(job):
    """The released run_mntp as its script does it: concatenated texts in blocks, collator, Trainer, all logits."""
    from llm2vec.models import LlamaBiForMNTP
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer, DataCollatorForLanguageModeling, Trainer, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(job["causal_model"])
    tokenizer.mask_token = "_"
    model = LlamaBiForMNTP.from_pretrained(
        job["causal_model"], torch_dtype=getattr(torch, job["dtype"]), attn_implementation="sdpa"
    )
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    wrapped = get_peft_model(
        model.get_model_for_peft(), LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=targets)
    )
    model.set_model_for_peft(wrapped)
    ids = [i for text in job["documents"] for i in tokenizer(text)["input_ids"]]
    size = job["length"]
    rows = [{"input_ids": ids[i : i + size]} for i in range(0, len(ids) - size, size)]

    class MntpTrainer(Trainer):
        def _remove_unused_columns(self, dataset, description=None):
            return dataset

    clock = Clock()
    MntpTrainer(
        model=model,
        args=TrainingArguments(**trainer_arguments(job)),
        train_dataset=rows,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.2),
        callbacks=[clock],
    ).train()
    return steps_of(clock.times, job["rows"] * size)


def run_simcse(job):
    """The released run_simcse as its script does it: two columns of the same texts, one pass each."""
    from llm2vec import LLM2Vec
    from llm2vec.loss.HardNegativeNLLLoss import HardNegativeNLLLoss
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainingArguments

    model = LLM2Vec.from_pretrained(
        job["causal_model"],
        torch_dtype=getattr(torch, job["dtype"]),
        attention_dropout=0.3,
        max_length=job["length"],
    )
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model.model = get_peft_model(
        model.model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=targets)
    )
    loss = HardNegativeNLLLoss()
    tokens = []

    def collate(features):
        texts = [model.prepare_for_tokenization(f["text"]) for f in features]
        columns = [model.tokenize(texts) for _ in range(2)]
        tokens.append(sum(int(column["attention_mask"].sum()) for column in columns))
        return {"columns": columns}

    class SimcseTrainer(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            first, second = (model(column) for column in inputs["columns"])
            return loss(first, second)

        def _remove_unused_columns(self, dataset, description=None):
            return dataset

        def floating_point_ops(self, inputs):
            return 0

    clock = Clock()
    arguments = TrainingArguments(**trainer_arguments(job, remove_unused_columns=False))
    rows = [{"text": text} for text in job["sentences"]]
    SimcseTrainer(model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[clock]).train()
    return steps_of(clock.times, statistics.mean(tokens))


def sentence_transformers_simcse(job):
    """sentence-transformers' trainer, MultipleNegativesRankingLoss on (a, a)."""
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    columns = {"anchor": job["sentences"], "positive": job["sentences"]}
    return sentence_transformers_steps(job, columns, MultipleNegativesRankingLoss, attention_dropout=0.3)


def sentence_transformers_supervised(job):
    """sentence-transformers' trainer, its GradCache on (query, positive, negative)."""
    from sentence_transformers.losses import CachedMultipleNegativesRankingLoss

    def loss(model):
        return CachedMultipleNegativesRankingLoss(model, mini_batch_size=job["mini_batch"])

    columns = {name: [pair[name] for pair in job["pairs"]] for name in ("query", "positive", "negative")}
    return sentence_transformers_steps(job, columns, loss, attention_dropout=0.0)


def sentence_transformers_steps(job, columns, loss, *, attention_dropout):
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


PEERS = {
    "unmask.encode": unmask_encode,
    "sentence-transformers.encode": sentence_transformers_encode,
    "transformers.encode": transformers_encode,
    "onnx.encode": exported_encode("onnx"),
    "openvino.encode": exported_encode("openvino"),
    "llm2vec.encode": llm2vec_encode,
    "unmask.mntp": unmask_steps("mntp"),
    "llm2vec.mntp": run_mntp,
    "unmask.simcse": unmask_steps("simcse"),
    "llm2vec.simcse": run_simcse,
    "sentence-transformers.simcse": sentence_transformers_simcse,
    "sentence-transformers.supervised": sentence_transformers_supervised,
}

if __name__ == "__main__":
    main()

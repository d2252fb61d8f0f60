"""The released package, and its scripts done again."""

import statistics

import torch

from .timing import timed_encoding
from .trainers import Clock, steps_of, trainer_arguments


def encode(job):
    """The released package's own `encode`, in one process."""
    from llm2vec import LLM2Vec

    model = LLM2Vec.from_pretrained(
        job["causal_model"],
        torch_dtype=getattr(torch, job["dtype"]),
        max_length=job["max_length"],
        doc_max_length=job["max_length"],
    )
    model.eval()
    return timed_encoding(job, lambda texts: model.encode(list(texts), show_progress_bar=False).float().numpy())


def mntp(job):
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


def simcse(job):
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

"""Runs inside the environment of the released `llm2vec`: answers one question about a model folder as JSON.

python released.py QUESTION '{"model": "folder", ...}'
"""

import json
import sys

import torch
from llm2vec import LLM2Vec


def load(job):
    return LLM2Vec.from_pretrained(
        job["model"],
        peft_model_name_or_path=job.get("adapter"),
        merge_peft=job.get("merge", False),
        torch_dtype=torch.float32,
        attn_implementation=job.get("attention", "sdpa"),
        pooling_mode=job.get("pooling", "mean"),
        max_length=job.get("max_length", 512),
    )


def encode(job):
    """Vectors of texts, all in one batch."""
    return load(job).encode(job["texts"], show_progress_bar=False, device="cpu").tolist()


def simcse_views(job):
    """What its SimCSE training pools: texts come without separator. The first text alone, and beside the others."""
    model = load(job).eval()
    with torch.no_grad():
        alone = model(model.tokenize(job["texts"][:1]))[0]
        beside = model(model.tokenize(job["texts"]))[0]
    return {"alone": alone.tolist(), "beside": beside.tolist()}


def pooled_tokens(job):
    """Which tokens of an instruction and a text, joined as in training, it pools: one flag a token."""
    features = load(job).tokenize([f"{job['instruction']} !@#$%^&*(){job['text']}"])
    return {"ids": features["input_ids"][0].tolist(), "pooled": features["embed_mask"][0].tolist()}


def first_token_moves(job):
    """How far the first token's state moves when the last token is another."""
    backbone = load(job).model.eval()
    ids = torch.tensor(job["ids"])
    other = ids.clone()
    other[0, -1] += 1
    with torch.no_grad():
        states = [
            backbone(input_ids=i, attention_mask=torch.ones_like(i)).last_hidden_state[0, 0] for i in (ids, other)
        ]
    return float((states[0] - states[1]).abs().max())


def contrastive_loss(job):
    """Its loss of queries, positives and hard negatives, given as vectors, and the gradient of each."""
    from llm2vec.loss.HardNegativeNLLLoss import HardNegativeNLLLoss

    columns = [torch.tensor(column, requires_grad=True) for column in job["columns"]]
    loss = HardNegativeNLLLoss(scale=job["scale"])(*columns)
    loss.backward()
    return {"loss": float(loss.detach()), "gradients": [column.grad.tolist() for column in columns]}


def e5_samples(job):
    """Every training text of a folder in E5's layout, as it reads them: name of the set, query, positive."""
    from accelerate import PartialState
    from llm2vec.dataset.E5Data import E5Data

    PartialState(cpu=True)  # its logger wants one
    data = E5Data(file_path=job["folder"], effective_batch_size=1, split="train")
    found = []
    for i in range(len(data)):
        query, positive, _ = (text.replace("!@#$%^&*()", "") for text in data[i].texts)
        found.append([query, positive])
    return found


if __name__ == "__main__":
    answer = globals()[sys.argv[1]](json.loads(sys.argv[2]))
    sys.stdout.write(f"ANSWER {json.dumps(answer)}\n")

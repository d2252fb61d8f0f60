"""transformers alone."""

import torch

from .timing import timed_encoding


def encode(job):
    """The loop most people write: batches of 32 in order, padded, mean over the mask."""
    import numpy as np
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    model = AutoModel.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"])).eval()

    @torch.inference_mode()
    def encode(texts):
        found = []
        for start in range(0, len(texts), 32):
            batch = tokenizer(
                texts[start : start + 32],
                padding=True,
                truncation=True,
                max_length=job["max_length"],
                return_tensors="pt",
            )
            states = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0].float()
            mask = batch["attention_mask"][..., None].float()
            found.append(((states * mask).sum(1) / mask.sum(1)).numpy())
        return np.concatenate(found)

    return timed_encoding(job, encode)

"""vLLM on a CPU: its runner for pooling, on the encoder's folder as it is; it compiles the model as it loads it."""

import os
import sys

from .answering import answer
from .timing import reader, timed_encoding

# all cores for the model, as the others have; what it would keep for a cache is not used
os.environ.update(VLLM_CPU_NUM_OF_RESERVED_CPU="0", VLLM_CPU_KVCACHE_SPACE="1")
os.environ.update(VLLM_LOGGING_LEVEL="ERROR", VLLM_NO_USAGE_STATS="1")  # the last line of output is the result
os.environ["LD_PRELOAD"] = f"{sys.prefix}/lib/libiomp5.so"  # as its manual advises; the model runs in a process to come


def encode(job):
    """Vectors of token ids."""
    from vllm import LLM

    model = LLM(job["model"], runner="pooling", dtype=job["dtype"], max_model_len=job["max_length"])
    ids = reader(job)

    def vectors(texts):
        found = model.embed([{"prompt_token_ids": row} for row in ids(texts)], use_tqdm=False)
        return [one.outputs.embedding for one in found]

    return timed_encoding(job, vectors)


def answers(job):
    """Texts, cut where the encoder cuts; not compiled, which takes minutes and changes no vector."""
    from vllm import LLM, __version__

    limit = job["max_length"]
    model = LLM(job["model"], runner="pooling", dtype="float32", max_model_len=limit, enforce_eager=True)
    cut = {"truncate_prompt_tokens": limit}

    def embed(texts, prompt):
        found = model.embed([prompt + text for text in texts], use_tqdm=False, tokenization_kwargs=cut)
        return [one.outputs.embedding for one in found]

    return answer(__version__, embed)

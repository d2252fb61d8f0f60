"""The saved folder opens in sentence-transformers, without unmask in the process, with the same vectors."""

import json
import subprocess
import sys

import numpy as np
import pytest

from unmask import TextEncoder
from unmask.settings import EncoderSettings

TEXTS = [
    "Hello world, this is a test.",
    "short",
    "",
    "A longer sentence about trains. " * 40,
    "naïve café 日本語",
    "<s>struck</s> out, </s>, [CLS] and <mask> in HTML",
]
SCRIPT = """
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer
folder, texts = sys.argv[1], json.loads(sys.argv[2])
model = SentenceTransformer(folder, device="cpu")
np.savez(folder + "/../st.npz", plain=model.encode(texts), query=model.encode(texts, prompt_name="query"))
assert not any(name == "unmask" or name.startswith("unmask.") for name in sys.modules)
"""


def cosine(a, b):
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("pooling", ["mean", "weighted_mean", "last", "eos", "first"])
def test_same_vectors_without_unmask(tmp_path, pooling, dtype):
    opened = TextEncoder.load("pocket", attention="bidirectional", dtype=dtype, pooling=pooling)
    settings = EncoderSettings(
        pooling=pooling,
        max_length=128,
        prompts={"query": "Find what answers this:"},
        normalize=pooling == "last",
    )
    encoder = TextEncoder(opened.model, opened.tokenizer, settings)
    encoder.save(tmp_path / "encoder")
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / "encoder"), json.dumps(TEXTS)], check=True)
    theirs = np.load(tmp_path / "st.npz")
    # Batches differ in shape, and a CPU without bfloat16 instructions rounds products of other shapes otherwise.
    least = 0.9999 if dtype == "float32" else 0.9995
    assert cosine(theirs["plain"], encoder.encode(TEXTS)).min() > least
    full = [text for text in TEXTS if text]  # of an empty text behind a prompt, that library pools nothing
    kept = [i for i, text in enumerate(TEXTS) if text]
    assert cosine(theirs["query"][kept], encoder.encode(full, prompt_name="query")).min() > least

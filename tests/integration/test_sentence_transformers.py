"""The saved folder opens in sentence-transformers, without unmask in the process, with the same vectors."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from unmask import ArtifactError, TextEncoder
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


@pytest.mark.parametrize("settings", [{}, {"pooling": "last", "normalize": True}, {"include_prompt": True}])
def test_in_memory_it_is_that_librarys_model_on_the_same_weights(bidirectional, settings, tmp_path):
    """Also behind a prompt that ends inside a token, and of an empty text."""
    prompts = {"query": "Find wh", "document": "Passage: "}
    options = EncoderSettings(max_length=64, prompts=prompts, default_prompt_name="document", **settings)
    encoder = TextEncoder(bidirectional.model, bidirectional.tokenizer, options)
    model = encoder.to_sentence_transformer()
    for theirs, ours in (
        (model.encode(TEXTS), encoder.encode(TEXTS)),
        (model.encode_query(TEXTS), encoder.encode_query(TEXTS)),
        (model.encode(TEXTS, prompt=""), encoder.encode(TEXTS, prompt="")),
        (model.encode(TEXTS[0]), encoder.encode(TEXTS[0])),
    ):
        np.testing.assert_allclose(theirs, ours, atol=2e-5)
    assert model.get_sentence_embedding_dimension() == encoder.dimension
    assert model.max_seq_length == 64
    model.max_seq_length = 8
    np.testing.assert_allclose(model.encode(TEXTS), encoder.encode(TEXTS, max_length=8), atol=2e-5)
    own = {parameter.data_ptr() for parameter in encoder.model.parameters()}
    assert {parameter.data_ptr() for parameter in model.parameters()} == own
    with pytest.raises(ArtifactError, match=r"encoder\.save"):
        model.save(str(tmp_path / "folder"))


def test_that_librarys_losses_train_the_same_weights(tiny, tokenizer):
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from sentence_transformers.util import batch_to_device

    encoder = TextEncoder(tiny("llama", head=False), tokenizer)
    model = encoder.to_sentence_transformer()
    features = [batch_to_device(model.preprocess(TEXTS[:2]), model.device) for _ in range(2)]
    MultipleNegativesRankingLoss(model)(features, torch.zeros(2)).backward()
    assert all(parameter.grad is not None for parameter in encoder.model.layers.parameters())

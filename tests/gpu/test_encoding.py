"""Conversion and encoding in the dtype that the device is used with."""

import numpy as np
import pytest
import torch

from unmask import TextEncoder, convert, verify
from unmask.backbone.truth.flat import reads_flat
from unmask.settings import EncoderSettings

pytestmark = pytest.mark.gpu
FAMILIES = [("llama", {}), ("qwen3", {}), ("gemma3_text", {"sliding_window": 8})]


@pytest.fixture
def encoder(tiny, tokenizer, device, dtype):
    """family, sizes -> a tiny encoder on the device, with heads that the kernels take."""

    def build(family="llama", **extra):
        model = tiny(family, head=False, **{"hidden_size": 64, "head_dim": 16, **extra}).to(device, dtype)
        convert(model)
        return TextEncoder(model, tokenizer, EncoderSettings(max_length=100))

    return build


@pytest.mark.parametrize(("family", "extra"), FAMILIES)
def test_conversion_is_proven_on_the_device(encoder, family, extra):
    model = encoder(family, **extra).model
    assert verify(model).bidirectional
    flat = reads_flat(model)
    assert flat, flat.reason


@pytest.mark.parametrize(("family", "extra"), FAMILIES)
def test_vectors_without_padding_are_those_of_padded_batches_and_of_the_cpu(encoder, articles, family, extra, near):
    texts = [text[: 40 + 60 * i] for i, text in enumerate(articles[:8])]
    one = encoder(family, **extra)
    flat = one.encode(texts)
    one.padding_free = False
    padded = one.encode(texts)
    one.model.to("cpu", torch.float32)
    exact = one.encode(texts)
    for found in (flat, padded):
        assert np.linalg.norm(found - exact) / np.linalg.norm(exact) < near


@pytest.mark.slow
def test_compiled_layers_give_the_same_vectors(encoder, articles, near):
    one = encoder()
    expected = one.encode(articles)
    compiled = one.encode(articles, compile=True)
    possible = one.runner.compiled.available(one.model)  # where compiling fails, layers run as they are written
    assert possible, possible.reason
    assert np.linalg.norm(compiled - expected) / np.linalg.norm(expected) < near

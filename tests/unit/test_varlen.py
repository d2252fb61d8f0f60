"""Batches without padding: the same vectors and gradients as padded ones, and no family believed without proof."""

import threading

import numpy as np
import pytest
import torch

from unmask import ArtifactError, TextEncoder, convert
from unmask.backbone.fast import varlen
from unmask.backbone.fast.varlen import FlatLayout, attend, keep_layout
from unmask.backbone.forward import flat_states, token_states
from unmask.backbone.truth import flat
from unmask.backbone.truth.flat import reads_flat
from unmask.settings import EncoderSettings

LENGTHS = (40, 40, 17, 3)
TEXTS = ["A cat sleeps.", "The river flooded the town, and the bank closed for a week.", "No.", "Ice melts in May."]


def ids_of(lengths, vocabulary=300):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(100, vocabulary, (1, n), generator=generator) for n in lengths]


@pytest.mark.parametrize("mode", ["causal", "bidirectional"])
@pytest.mark.parametrize(
    ("family", "extra"),
    [
        ("llama", {}),
        ("qwen3", {}),
        ("gpt2", {}),
        ("mistral", {"sliding_window": 8}),
        ("gemma3_text", {"sliding_window": 8}),
    ],
)
def test_texts_in_a_row_get_the_states_they_get_alone(tiny, family, extra, mode):
    """Also beyond a window, to one side and to both."""
    model = tiny(family, head=False, **extra)
    if mode == "bidirectional":
        convert(model)
    assert reads_flat(model)
    texts = ids_of(LENGTHS)
    with torch.no_grad():
        (row,) = flat_states(model, torch.cat(texts, dim=1), LENGTHS)
        alone = torch.cat([token_states(model, ids, torch.ones_like(ids))[0] for ids in texts])
    torch.testing.assert_close(row, alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_padded_batches(tiny, tokenizer, checkpointing):
    """Checkpointed layers run again in the backward pass, outside of the layout they were run in."""
    gradients = []
    for padding_free in (True, False):
        torch.manual_seed(0)
        model = tiny("llama", head=False)
        convert(model)
        encoder = TextEncoder(model, tokenizer, EncoderSettings(max_length=100))
        encoder.padding_free = padding_free
        if checkpointing:
            options = {"use_reentrant": False, "context_fn": keep_layout}
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        model.train()
        vectors = encoder.module(encoder.collate(encoder.tokenize(TEXTS)))
        (vectors * torch.linspace(-1, 1, vectors.numel()).view_as(vectors)).sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("family", ["bloom", "gemma2"])
def test_families_that_cannot_are_padded(tiny, tokenizer, family):
    """One makes its positions from the mask, the other caps its scores."""
    model = tiny(family, head=False)
    convert(model)
    encoder = TextEncoder(model, tokenizer, EncoderSettings(max_length=100))
    assert not encoder.padding_free
    with pytest.raises(ArtifactError, match=f"{family} cannot read texts one after the other"):
        encoder.padding_free = True
    alone = np.stack([encoder.encode(text) for text in TEXTS])
    np.testing.assert_allclose(encoder.encode(TEXTS), alone, atol=1e-5)


def test_eager_attention_is_padded(tiny, tokenizer):
    assert not reads_flat(tiny("llama", head=False, attention_implementation="eager"))


def test_a_family_that_reads_on_is_found_out(tiny, monkeypatch):
    """Were texts to see each other, the comparison would say so."""
    whole = lambda q, k, v, layout, **_: torch.nn.functional.scaled_dot_product_attention(  # noqa: E731
        q, k, v, enable_gqa=True
    )[0].transpose(0, 1)
    monkeypatch.setattr(varlen, "attend", whole)
    flat._PROOFS.clear()
    assert "reads a row of texts otherwise than alone" in reads_flat(tiny("llama", head=False)).reason
    flat._PROOFS.clear()


def test_a_layout_is_of_its_thread_alone(tiny):
    model = tiny("llama", head=False)
    convert(model)
    varlen.use_flat_attention(model)
    ids = ids_of([12])[0]
    expected = token_states(model, ids)
    found = []
    with varlen.flat(FlatLayout((6, 6), torch.device("cpu"))):
        other = threading.Thread(target=lambda: found.append(token_states(model, ids)))
        other.start()
        other.join()
        assert not torch.allclose(token_states(model, ids), expected, atol=1e-4)
    assert torch.equal(found[0], expected)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_that_of_each_text_with_its_mask(causal):
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, 12, 8), torch.randn(1, 2, 12, 8), torch.randn(1, 2, 12, 8)
    found = attend(q, k, v, FlatLayout((5, 5, 2), torch.device("cpu"), causal), window=2, scale=0.3)
    text = torch.tensor([0] * 5 + [1] * 5 + [2] * 2)
    at = torch.arange(12)
    ahead = at[None] - at[:, None]
    near = (ahead <= 0) & (ahead > -2) if causal else ahead.abs() <= 2
    mask = (text[:, None] == text[None]) & near
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(found, expected[0].transpose(0, 1))

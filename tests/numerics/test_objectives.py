"""Figures: losses against the plain formula, gradients against one big batch, masks against their promise."""

import pytest
import torch
from tests.engine import LocalEngine
from torch import nn

from unmask import convert
from unmask.backbone.forward import TokenStates, token_states
from unmask.backbone.head import LanguageModelHead
from unmask.backbone.structure import body
from unmask.data.blocks import pack, stack
from unmask.errors import RecipeError
from unmask.objectives.mntp import IGNORED, MaskedNextToken, build_masking, mask_token_id, mask_tokens


def masking(tokenizer, **options):
    return build_masking(tokenizer, **{"token": "_", "rate": 0.2, "style": "bert", **options})


def blocks(tokenizer, articles, size=32, count=12):
    return list(pack(articles, tokenizer, block_size=size))[:count]


@pytest.mark.parametrize(("style", "rate"), [("bert", 0.2), ("roberta", 0.8)])
def test_masks_keep_their_promise(tokenizer, articles, style, rate):
    batch = stack(blocks(tokenizer, articles, 64, 200), pad_id=0, never_mask=66)
    made = masking(tokenizer, rate=rate, style=style)
    ids, labels = mask_tokens(batch.input_ids, batch.maskable, made, torch.Generator().manual_seed(0))
    chosen = labels != IGNORED
    assert not (chosen & ~batch.maskable).any()
    assert torch.equal(labels[chosen], batch.input_ids[chosen])
    assert torch.equal(ids[~chosen], batch.input_ids[~chosen])
    share = float(chosen.sum() / batch.maskable.sum())
    assert abs(share - rate) < 0.02
    masked = float((ids[chosen] == made.mask_id).float().mean())
    kept = float((ids[chosen] == labels[chosen]).float().mean())
    if style == "roberta":
        assert masked == 1.0
    else:
        assert abs(masked - 0.8) < 0.03
        assert abs(kept - 0.1) < 0.03
    assert not set(made.random_ids.tolist()) & set(tokenizer.all_special_ids)


def test_the_mask_token_is_one_real_token(tokenizer):
    assert mask_token_id(tokenizer, "_") == 66
    assert mask_token_id(tokenizer, "own") == tokenizer.mask_token_id == 3
    with pytest.raises(RecipeError, match="must be one known token"):
        mask_token_id(tokenizer, "certainly not a single piece")


def test_the_loss_is_that_of_the_models_own_logits_one_position_before(tiny, tokenizer, articles):
    model = tiny("llama")
    convert(model)
    batch = stack(blocks(tokenizer, articles, count=4), pad_id=0, never_mask=66)
    objective = MaskedNextToken(LanguageModelHead(model), masking(tokenizer))
    states = TokenStates(body(model))
    out = objective.step(states, [(0, batch)], LocalEngine(3))
    ids, labels = mask_tokens(batch.input_ids, batch.maskable, objective.masking, LocalEngine(3).generator(0))
    total, count = 0.0, 0
    for row in range(len(ids)):
        for piece in range(1, int(batch.pieces[row].max()) + 1):
            inside = batch.pieces[row] == piece
            logits = model(input_ids=ids[row][inside][None]).logits[0]
            wanted = labels[row][inside]
            total += float(nn.functional.cross_entropy(logits[:-1], wanted[1:], ignore_index=IGNORED, reduction="sum"))
            count += int((wanted != IGNORED).sum())
    assert out.count == count
    assert out.loss == pytest.approx(total / count, rel=1e-5)


def test_micro_batches_give_the_gradients_of_one_batch(tiny, tokenizer, articles):
    model = tiny("llama")
    convert(model)
    rows = blocks(tokenizer, articles)
    objective = MaskedNextToken(LanguageModelHead(model), masking(tokenizer, style="roberta"))
    found = []
    width = max(len(block.ids) for block in rows)
    for size in (len(rows), 3):
        model.zero_grad()
        torch.manual_seed(0)
        whole = stack(rows, pad_id=0, never_mask=66)
        ids, labels = mask_tokens(whole.input_ids, whole.maskable, objective.masking)
        parts = [stack(rows[i : i + size], pad_id=0, never_mask=66) for i in range(0, len(rows), size)]
        fixed = [(ids[i : i + size], labels[i : i + size]) for i in range(0, len(rows), size)]
        fixed = [
            (a[:, : p.input_ids.shape[1]], b[:, : p.input_ids.shape[1]]) for (a, b), p in zip(fixed, parts, strict=True)
        ]
        assert width >= parts[0].input_ids.shape[1]
        given = iter(fixed)
        objective._mask = lambda *_, given=given: next(given)
        out = objective.step(TokenStates(body(model)), list(enumerate(parts)), LocalEngine())
        found.append((out.loss, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-4, atol=1e-7)


def test_more_labels_than_a_chunk_give_the_same_gradients(tiny, tokenizer, articles, monkeypatch):
    model = tiny("llama")
    convert(model)
    batch = stack(blocks(tokenizer, articles), pad_id=0, never_mask=66)
    found = []
    for chunk in (10_000, 16):
        monkeypatch.setattr("unmask.objectives.mntp.LABELS_AT_ONCE", chunk)
        model.zero_grad()
        objective = MaskedNextToken(LanguageModelHead(model), masking(tokenizer))
        objective.step(TokenStates(body(model)), [(0, batch)], LocalEngine())
        found.append(model.model.layers[0].mlp.up_proj.weight.grad.clone())
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-7)


def test_rows_without_a_masked_token_are_no_trouble(tiny, tokenizer, articles):
    model = tiny("llama")
    convert(model)
    batch = stack(blocks(tokenizer, articles, count=2), pad_id=0, never_mask=66)
    objective = MaskedNextToken(LanguageModelHead(model), masking(tokenizer, rate=1e-9))
    out = objective.step(TokenStates(body(model)), [(0, batch), (1, batch)], LocalEngine())
    assert out.loss == 0.0
    assert float(model.model.layers[0].mlp.up_proj.weight.grad.abs().max()) == 0.0


def test_the_head_is_frozen_and_knows_the_familys_scaling(tiny):
    for family, extra in [
        ("llama", {}),
        ("gemma2", {}),
        ("cohere", {"logit_scale": 0.25}),
        ("granite", {"logits_scaling": 8.0}),
    ]:
        model = tiny(family, attention_implementation="eager", **extra)
        head = LanguageModelHead(model)
        head.check(model)
        assert not any(p.requires_grad for p in head.parameters())


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_packed_pieces_do_not_see_each_other(tiny, tokenizer, articles, family, backend):
    model = tiny(family, attention_implementation=backend)
    convert(model)
    padded = None if backend == "sdpa" else 64
    rows = list(pack([a[:90] for a in articles], tokenizer, block_size=64))[:3]
    batch = stack(rows, pad_id=0, never_mask=66, padded_tokens=padded)
    with torch.no_grad():
        packed = batch.read_by(TokenStates(body(model)), batch.input_ids)
        assert int(batch.pieces.max()) > 1
        for row in range(len(packed)):
            for piece in range(1, int(batch.pieces[row].max()) + 1):
                inside = batch.pieces[row] == piece
                alone = token_states(body(model), batch.input_ids[row][inside][None])[0]
                torch.testing.assert_close(packed[row][inside], alone, rtol=1e-4, atol=1e-5)

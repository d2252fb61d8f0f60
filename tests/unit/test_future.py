"""The future let in by and by: from causal to two-sided attention over the first steps of a stage."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from tests.engine import LocalEngine

from unmask import convert
from unmask.backbone.fast.varlen import keep_layout
from unmask.backbone.forward import TokenStates, flat_states
from unmask.backbone.head import LanguageModelHead
from unmask.backbone.structure import body
from unmask.data.blocks import pack, stack
from unmask.errors import RecipeError
from unmask.objectives.mntp import MaskedNextToken, build_masking
from unmask.training.config import MntpSettings
from unmask.training.loop import Job, fit
from unmask.training.processes import make_accelerator
from unmask.training.stages.mntp import check_future

LENGTHS = (40, 40, 17, 3)
IDS = torch.randint(100, 300, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(1))


def masking(tokenizer):
    return build_masking(tokenizer, token="_", rate=0.2, style="bert")


def settings(**extra):
    return MntpSettings(data="x", **{"steps": 8, "future_steps": 4, **extra})


def states(model, future=1.0, ids=IDS):
    with torch.no_grad():
        return flat_states(model, ids, LENGTHS, future=future)[0]


@pytest.mark.parametrize(("family", "extra"), [("llama", {}), ("gpt2", {}), ("mistral", {"sliding_window": 8})])
def test_the_way_from_causal_to_two_sided(tiny, family, extra):
    model = tiny(family, head=False, **extra)
    causal = states(model)
    torch.testing.assert_close(states(model, 0.5), causal, atol=0, rtol=0)  # it sees no future anyway
    convert(model)
    plain = states(model)
    torch.testing.assert_close(states(model, 1 - 1e-7), plain, atol=1e-5, rtol=1e-4)
    if not extra:  # a two-sided window sees one token more to the left
        torch.testing.assert_close(states(model, 0.0), causal, atol=1e-5, rtol=1e-4)
    changed = IDS.clone()
    changed[0, LENGTHS[0] - 1] += 1
    moved = []
    for share in (0.0, 0.1, 0.5, 1.0):
        moved.append(float((states(model, share, changed) - states(model, share))[: LENGTHS[0] - 1].norm()))
    assert moved[0] == 0 < moved[1] < moved[2] < moved[3]


def test_a_step_after_the_last_is_one_without_and_one_before_is_not(tiny, tokenizer, articles):
    blocks = list(pack(articles, tokenizer, block_size=32))[:6]
    batch = stack(blocks, pad_id=0, never_mask=66)
    found = {}
    for step in (3, 4, None):
        model = tiny("llama")
        convert(model)
        objective = MaskedNextToken(LanguageModelHead(model), masking(tokenizer))
        own = batch if step is None else replace(batch, future=settings().future(step))
        out = objective.step(TokenStates(body(model)), [(0, own)], LocalEngine(3))
        found[step] = (out.loss, body(model).layers[0].self_attn.q_proj.weight.grad)
    assert found[4][0] == found[None][0] != found[3][0]
    torch.testing.assert_close(found[4][1], found[None][1], atol=0, rtol=0)


def test_a_run_that_was_stopped_goes_on_with_the_share_of_its_step(tiny, tokenizer, articles, tmp_path):
    blocks = list(pack(articles, tokenizer, block_size=32))[:6]
    stage = settings(tuning="full", lr=1e-2, steps=6, save_every=1, log_every=1)
    ends = {}
    for name, stops in (("whole", ()), ("stopped", (2, 4))):
        for stop in (*stops, None):
            model = tiny("llama")
            convert(model)
            head = LanguageModelHead(model)
            head.requires_grad_(False)

            def batch(step, stop=stop):
                if step == stop:
                    raise KeyboardInterrupt
                made = stack(blocks[step : step + 1], pad_id=0, never_mask=66)
                return [(0, replace(made, future=stage.future(step)))], made.num_tokens

            job = Job(TokenStates(body(model)), MaskedNextToken(head, masking(tokenizer)), batch)
            accelerator = make_accelerator("fp32", tmp_path / name)
            with nullcontext() if stop is None else pytest.raises(KeyboardInterrupt):
                fit(job, stage, tmp_path / name, accelerator, seed=5)
        ends[name] = body(model).state_dict()
    for key, value in ends["whole"].items():
        torch.testing.assert_close(ends["stopped"][key], value, atol=0, rtol=0, msg=key)


def test_checkpointed_layers_see_as_much_when_they_run_again(tiny):
    gradients = []
    for again in (False, True):
        model = tiny("llama", head=False).train()
        convert(model)
        if again:
            options = {"use_reentrant": False, "context_fn": keep_layout}
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        flat_states(model, IDS, LENGTHS, future=0.2)[0].square()[:, ::3].sum().backward()
        gradients.append(model.layers[0].mlp.up_proj.weight.grad)
    torch.testing.assert_close(*gradients)


def test_the_share_rises_in_a_line_and_ends_before_the_stage():
    assert [settings().future(step) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert settings(future_steps=0).future(0) == 1
    with pytest.raises(ValidationError, match="must end before the stage"):
        settings(future_steps=8)
    with pytest.raises(ValidationError, match="leave compile or future_steps off"):
        settings(compile=True)


def test_who_cannot_take_a_bias_is_refused(tiny):
    model = tiny("llama", head=False)
    check_future(settings(future_steps=0), model)
    with pytest.raises(RecipeError, match="attention stays causal"):
        check_future(settings(), model)
    convert(model)
    check_future(settings(), model)
    for family in ("bloom", "falcon"):
        model = tiny(family, head=False)
        convert(model)
        with pytest.raises(RecipeError, match=r"stages.mntp.future_steps=4: the attention of \w+ takes no bias here"):
            check_future(settings(), model)

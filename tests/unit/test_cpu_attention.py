"""Attention as products against torch's own in float64: values and gradients."""

import pytest
import torch
from torch import nn

from unmask.backbone.fast.cpu_attention import attend_by_products, suits_products


def inputs(dtype=torch.float64, length=37, heads=6, shared=2, offset=0.0):
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, heads, length, 16), (3, shared, length, 16), (3, shared, length, 8))
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    made[1] += offset
    return [x.to(dtype).requires_grad_() for x in made]


@pytest.mark.parametrize("seen", ["all", "past", "window"])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_states_and_gradients_are_those_of_torch(seen, scale):
    at = torch.arange(37)
    ahead = at[None] - at[:, None]
    visible = {"all": None, "past": ahead <= 0, "window": ahead.abs() <= 5}[seen]
    given = inputs()
    found = attend_by_products(*given, scale=scale, visible=visible, dropout=0.0)
    expected = nn.functional.scaled_dot_product_attention(*given, attn_mask=visible, scale=scale, enable_gqa=True)
    torch.testing.assert_close(found, expected)
    wanted = torch.randn_like(found)
    for mine, theirs in zip(
        torch.autograd.grad(found, given, wanted), torch.autograd.grad(expected, given, wanted), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("seen", ["all", "past"])
def test_a_text_filled_up_to_a_common_length_keeps_its_gradients(seen):
    """Against float64, as near as torch's kernel; rows that only fill up must leave nothing behind."""
    given = inputs(torch.bfloat16, length=150)
    exact = [x.detach().double().requires_grad_() for x in given]
    visible = torch.ones(150, 150).tril().bool() if seen == "past" else None
    wanted = torch.randn(3, 6, 150, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def gradients(attend, given):
        return torch.autograd.grad(attend(given), given, wanted.to(given[0].dtype))

    def kernel(given):
        return nn.functional.scaled_dot_product_attention(*given, attn_mask=visible, enable_gqa=True)

    expected = gradients(kernel, exact)
    found = gradients(lambda x: attend_by_products(*x, scale=None, visible=visible, dropout=0.0), given)
    for mine, theirs, true in zip(found, gradients(kernel, given), expected, strict=True):
        assert mine.isfinite().all()
        assert (mine.double() - true).norm() <= 3 * (theirs.double() - true).norm()


@pytest.mark.parametrize("length", [40, 192])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_in_bfloat16_it_errs_as_little_as_torchs_kernel(offset, length):
    """Also where all keys have a large part in common, as biases make them: scores around 500 would be rounded to 2."""
    given = inputs(torch.bfloat16, length=length, offset=offset)
    exact = nn.functional.scaled_dot_product_attention(*(x.detach().double() for x in given), enable_gqa=True)
    errors = []
    for attend in (
        lambda *x: attend_by_products(*x, scale=None, visible=None, dropout=0.0),
        lambda *x: nn.functional.scaled_dot_product_attention(*x, enable_gqa=True),
    ):
        errors.append(float((attend(*given).detach().double() - exact).norm() / exact.norm()))
    assert errors[0] <= 3 * errors[1]


def test_where_scores_are_rounded_it_errs_hardly_more_than_eager_attention():
    given = inputs(torch.bfloat16, length=150, shared=6)
    exact = nn.functional.scaled_dot_product_attention(*(x.detach().double() for x in given))
    query, key, value = given
    eager = ((query @ key.mT) * 0.25).softmax(-1, dtype=torch.float32).bfloat16() @ value
    found = attend_by_products(*given, scale=None, visible=None, dropout=0.0)
    assert (found.double() - exact).norm() <= 1.25 * (eager.double() - exact).norm()


def test_dropout_takes_a_share_and_keeps_the_mean():
    query, key, value = (x.detach() for x in inputs(length=200))
    torch.manual_seed(0)
    runs = [attend_by_products(query, key, value, scale=None, visible=None, dropout=0.3) for _ in range(200)]
    whole = attend_by_products(query, key, value, scale=None, visible=None, dropout=0.0)
    assert not torch.equal(runs[0], runs[1])
    assert float((torch.stack(runs).mean(0) - whole).norm() / whole.norm()) < 0.1


def test_products_are_used_where_they_are_faster():
    def asked(length, dtype=torch.bfloat16, dropout=0.0):
        return suits_products(torch.zeros(1, 2, length, 16, dtype=dtype), dropout)

    assert asked(20)
    assert asked(500)
    assert asked(512)
    assert not asked(513)
    with torch.no_grad():  # GradCache's first pass
        assert asked(100)
    with torch.inference_mode():  # encoding
        assert not asked(100)
    assert not asked(100, torch.float32)
    assert asked(100, torch.float32, dropout=0.1)
    assert asked(500, dropout=0.1)

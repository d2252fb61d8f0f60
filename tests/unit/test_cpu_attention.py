"""Attention as products against torch's own in float64: values and gradients."""

import pytest
import torch
from torch import nn

from unmask.backbone.fast import cpu_attention
from unmask.backbone.fast.buckets import make_buckets
from unmask.backbone.fast.cpu_attention import ByProducts, suits_products
from unmask.backbone.fast.varlen import FlatLayout, attend


def inputs(dtype=torch.float64, length=37, heads=6, shared=2, offset=0.0):
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, heads, length, 16), (3, shared, length, 16), (3, shared, length, 8))
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    made[1] += offset
    return [x.to(dtype).requires_grad_() for x in made]


def by_products(query, key, value, scale=None, window=None, causal=False, dropout=0.0):
    """Texts of one length, [texts, heads, length, width], through a row."""
    texts, _, length, _ = query.shape
    rows = [x.transpose(0, 1).flatten(1, 2)[None] for x in (query, key, value)]
    states = ByProducts.apply(*rows, *make_buckets([length] * texts), (scale, window, causal, dropout))
    return states.unflatten(0, (texts, length)).transpose(1, 2)


@pytest.fixture(params=["all texts at a time", "one text at a time"])
def parts(request, monkeypatch):
    """How many texts' scores are in hand at a time."""
    if request.param == "one text at a time":
        monkeypatch.setattr(cpu_attention, "_CACHED", 1)


@pytest.mark.parametrize("seen", ["all", "past", "window"])
@pytest.mark.parametrize("scale", [None, 0.5])
@pytest.mark.parametrize("shared", [1, 2, 6])
def test_states_and_gradients_are_those_of_torch(seen, scale, shared, parts):
    at = torch.arange(37)
    ahead = at[None] - at[:, None]
    visible = {"all": None, "past": ahead <= 0, "window": ahead.abs() <= 5}[seen]
    given = inputs(shared=shared)
    found = by_products(*given, scale, window=5 if seen == "window" else None, causal=seen == "past")
    expected = nn.functional.scaled_dot_product_attention(*given, attn_mask=visible, scale=scale, enable_gqa=True)
    torch.testing.assert_close(found, expected)
    wanted = torch.randn_like(found)
    for mine, theirs in zip(
        torch.autograd.grad(found, given, wanted), torch.autograd.grad(expected, given, wanted), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_each_part_of_a_batch_draws_its_own_dropout(parts):
    query, key, value = inputs(length=20)
    same = [x.detach()[:1].expand(3, -1, -1, -1) for x in (query, key, value)]
    torch.manual_seed(0)
    first, second, third = by_products(*same, dropout=0.5)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


MIXED = (5, 40, 38, 3, 31, 40, 1, 9, 22)
MANY = tuple(range(40, 25, -1))  # more texts in a bucket than have their filler hidden one by one


@pytest.mark.parametrize("lengths", [MIXED, MANY])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 6])
def test_texts_in_buckets_have_the_states_and_gradients_that_they_have_alone(lengths, causal, window, parts):
    """Whatever their order; also where filler would see nothing within its window."""
    layout = FlatLayout(lengths, torch.device("cpu"), causal)
    assert max(bucket.texts for bucket in layout.buckets[0]) > 2
    given = [x.flatten(0, 1)[None, :, : sum(lengths)] for x in inputs(length=sum(lengths))]
    given = [x[:, :n].detach().requires_grad_() for x, n in zip(given, (6, 2, 2), strict=True)]
    found = attend(*given, layout, window=window)
    wanted = torch.randn_like(found)
    gradients = torch.autograd.grad(found, given, wanted)
    start = 0
    for length in lengths:
        alone = [x[:, :, start : start + length].detach().requires_grad_() for x in given]
        at = torch.arange(length)
        ahead = at[None] - at[:, None]
        far = length if window is None else window
        seen = (ahead <= 0) & (ahead > -far) if causal else ahead.abs() <= far
        states = nn.functional.scaled_dot_product_attention(*alone, attn_mask=seen, enable_gqa=True)[0].transpose(0, 1)
        part = slice(start, start + length)
        torch.testing.assert_close(found[part], states)
        expected = torch.autograd.grad(states, alone, wanted[part])
        for mine, theirs in zip(gradients, expected, strict=True):
            torch.testing.assert_close(mine[:, :, part], theirs)
        start += length


def test_buckets_hold_every_token_once_and_little_filler():
    lengths = torch.randint(1, 120, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    for some in (lengths, sorted(lengths, reverse=True), [7] * 5, [1], [500, 3, 130]):
        buckets, order = make_buckets(some)
        tokens = torch.cat([bucket.tokens for bucket in buckets])
        assert torch.equal(tokens if order is None else tokens[order], torch.arange(sum(some)))
        assert (order is None) == (some == sorted(some, reverse=True))
        assert len(buckets) <= 12
        for bucket in buckets:
            own = len(bucket.tokens)
            assert bucket.texts * bucket.length <= max(1.4 * own, own + 64 * bucket.texts)


@pytest.mark.parametrize("causal", [False, True])
def test_a_text_filled_up_to_a_common_length_keeps_its_gradients(causal):
    """Against float64, as near as torch's kernel; rows that only fill up must leave nothing behind."""
    given = inputs(torch.bfloat16, length=150)
    exact = [x.detach().double().requires_grad_() for x in given]
    wanted = torch.randn(3, 6, 150, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def gradients(attend, given):
        return torch.autograd.grad(attend(given), given, wanted.to(given[0].dtype))

    def kernel(given):
        return nn.functional.scaled_dot_product_attention(*given, is_causal=causal, enable_gqa=True)

    def in_a_row(given):
        rows = [x.transpose(0, 1).flatten(1, 2)[None] for x in given]
        states = attend(*rows, FlatLayout((150, 150, 150), torch.device("cpu"), causal))
        return states.unflatten(0, (3, 150)).transpose(1, 2)

    expected = gradients(kernel, exact)
    found = gradients(in_a_row, given)
    for mine, theirs, true in zip(found, gradients(kernel, given), expected, strict=True):
        assert mine.isfinite().all()
        assert (mine.double() - true).norm() <= 3 * (theirs.double() - true).norm()


def test_dropout_in_the_backward_pass_is_that_of_the_forward_pass(parts):
    given = [x.flatten(0, 1)[None, :, : sum(MIXED)] for x in inputs(length=sum(MIXED))]
    given = [x[:, :n].detach().requires_grad_() for x, n in zip(given, (6, 2, 2), strict=True)]
    layout = FlatLayout(MIXED, torch.device("cpu"))

    def run(query):
        torch.manual_seed(5)
        return attend(query, *given[1:], layout, dropout=0.3)

    wanted, step = torch.randn_like(run(given[0])), 1e-6
    (gradient,) = torch.autograd.grad(run(given[0]), given[:1], wanted)
    way = torch.randn_like(given[0])
    with torch.no_grad():
        slope = ((run(given[0] + step * way) - run(given[0] - step * way)) * wanted).sum() / (2 * step)
    torch.testing.assert_close((gradient * way).sum(), slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [40, 192])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_in_bfloat16_it_errs_as_little_as_torchs_kernel(offset, length):
    """Also where all keys have a large part in common, as biases make them: scores around 500 would be rounded to 2."""
    given = inputs(torch.bfloat16, length=length, offset=offset)
    exact = nn.functional.scaled_dot_product_attention(*(x.detach().double() for x in given), enable_gqa=True)
    errors = []
    for way in (
        by_products,
        lambda *x: nn.functional.scaled_dot_product_attention(*x, enable_gqa=True),
    ):
        errors.append(float((way(*given).detach().double() - exact).norm() / exact.norm()))
    assert errors[0] <= 3 * errors[1]


def test_where_scores_are_rounded_it_errs_hardly_more_than_eager_attention():
    given = inputs(torch.bfloat16, length=150, shared=6)
    exact = nn.functional.scaled_dot_product_attention(*(x.detach().double() for x in given))
    query, key, value = given
    eager = ((query @ key.mT) * 0.25).softmax(-1, dtype=torch.float32).bfloat16() @ value
    found = by_products(*given)
    assert (found.double() - exact).norm() <= 1.25 * (eager.double() - exact).norm()


def test_dropout_takes_a_share_and_keeps_the_mean():
    query, key, value = (x.detach() for x in inputs(length=200))
    torch.manual_seed(0)
    runs = [by_products(query, key, value, dropout=0.3) for _ in range(200)]
    whole = by_products(query, key, value)
    assert not torch.equal(runs[0], runs[1])
    assert float((torch.stack(runs).mean(0) - whole).norm() / whole.norm()) < 0.1


def test_products_are_used_where_they_are_faster():
    def asked(length, dtype=torch.bfloat16, dropout=0.0):
        return suits_products(torch.zeros(1, 2, length, 16, dtype=dtype), length, dropout)

    assert asked(20)
    assert asked(500)
    assert asked(512)
    assert not asked(513)
    with torch.no_grad():  # GradCache's first pass
        assert asked(100)
    with torch.inference_mode():  # encoding
        assert not asked(100)
    assert asked(100, torch.float32)
    assert not asked(200, torch.float32)
    assert asked(100, torch.float32, dropout=0.1)
    assert asked(500, dropout=0.1)

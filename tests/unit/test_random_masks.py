"""Dropout from raw random bits."""

import pytest
import torch

from unmask.backbone.fast.random_masks import ResidualDropout, masked, random_mask


def mask_of(seed, shape=(1000, 257), rate=0.05):
    torch.manual_seed(seed)
    return random_mask(torch.empty(shape), rate)


def test_a_mask_drops_its_share_anew_each_time_and_follows_the_seed():
    first = mask_of(3)
    second = random_mask(first, 0.05)
    assert torch.equal(mask_of(3), first)
    assert not torch.equal(first, second)
    gone = [mask == 0 for mask in (first, second)]
    for dropped in gone:
        assert abs(float(dropped.float().mean()) - 0.05) < 0.002
    assert abs(float((gone[0] & gone[1]).float().mean()) - 0.0025) < 0.0005  # independent


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_every_rate_is_kept_to(rate):
    assert abs(float((mask_of(1, (400_000,), rate) == 0).float().mean()) - rate) < 0.003


def test_rows_and_columns_are_dropped_alike():
    gone = (mask_of(11, (512, 768), 0.3) == 0).float()
    for dimension in (0, 1):
        shares = gone.mean(dimension)
        assert 0.5 < float(shares.std()) / (0.3 * 0.7 / gone.shape[dimension]) ** 0.5 < 1.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_what_is_not_dropped_is_untouched(dtype):
    x = torch.randn(100, 57).to(dtype).T  # not contiguous
    mask = random_mask(x, 0.3)
    assert torch.equal(masked(x, mask), x * -mask)


def test_what_a_layer_adds_is_dropped_and_rescaled_with_its_gradient():
    before, after = (torch.randn(50, 40, dtype=torch.float64, requires_grad=True) for _ in range(2))
    torch.manual_seed(3)
    out = ResidualDropout.apply(before, after, 0.4)
    torch.manual_seed(3)
    keep = -random_mask(after, 0.4)
    by_hand = before + keep * (after - before) / 0.6
    torch.testing.assert_close(out, by_hand)
    wanted = torch.randn_like(out)
    found = torch.autograd.grad(out, (before, after), wanted)
    torch.testing.assert_close(found, torch.autograd.grad(by_hand, (before, after), wanted))

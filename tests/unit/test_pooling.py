"""Pooling against what a reader would write down by hand."""

import pytest
import torch

from unmask.pooling import pool

STATES = torch.arange(2 * 4 * 3, dtype=torch.float32).view(2, 4, 3)
ATTENTION = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
POOLED = torch.tensor([[False, True, True, False], [False, False, True, True]])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("mean", [(STATES[0, 1] + STATES[0, 2]) / 2, (STATES[1, 2] + STATES[1, 3]) / 2]),
        (
            "weighted_mean",
            [(2 * STATES[0, 1] + 3 * STATES[0, 2]) / 5, (2 * STATES[1, 2] + 3 * STATES[1, 3]) / 5],
        ),
        ("last", [STATES[0, 2], STATES[1, 3]]),
        ("eos", [STATES[0, 3], STATES[1, 3]]),
        ("first", [STATES[0, 0], STATES[1, 1]]),
    ],
)
def test_pooling_takes_the_right_tokens(how, expected):
    torch.testing.assert_close(pool(STATES, ATTENTION, POOLED, how), torch.stack(expected))


def test_sums_run_in_float32():
    states = torch.ones(1, 4000, 2, dtype=torch.bfloat16)
    mask = torch.ones(1, 4000, dtype=torch.bool)
    assert pool(states, mask.long(), mask, "mean").dtype == torch.float32
    torch.testing.assert_close(pool(states, mask.long(), mask, "mean"), torch.ones(1, 2))

"""Pooling against what a reader would write down by hand."""

import pytest
import torch

from unmask.pooling.modules import PlainPooling

STATES = torch.arange(7 * 3, dtype=torch.float32).view(7, 3)
LENGTHS = torch.tensor([4, 3])
POOLED = torch.tensor([False, True, True, False, False, True, True])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("mean", [(STATES[1] + STATES[2]) / 2, (STATES[5] + STATES[6]) / 2]),
        (
            "weighted_mean",
            [(2 * STATES[1] + 3 * STATES[2]) / 5, (2 * STATES[5] + 3 * STATES[6]) / 5],
        ),
        ("last", [STATES[2], STATES[6]]),
        ("eos", [STATES[3], STATES[6]]),
        ("first", [STATES[0], STATES[4]]),
    ],
)
def test_pooling_takes_the_right_tokens(how, expected):
    torch.testing.assert_close(PlainPooling(how)(STATES, LENGTHS, POOLED), torch.stack(expected))


def test_sums_run_in_float32():
    states, lengths, pooled = torch.ones(4000, 2, dtype=torch.bfloat16), torch.tensor([4000]), torch.ones(4000).bool()
    vectors = PlainPooling("mean")(states, lengths, pooled)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors, torch.ones(1, 2))

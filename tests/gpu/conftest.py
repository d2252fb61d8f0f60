"""The device that these tests run on: a GPU where UNMASK_TEST_DEVICE=cuda says so (`make gpu`), else the CPU."""

import os

import pytest
import torch


@pytest.fixture(scope="session")
def device():
    return torch.device(os.environ.get("UNMASK_TEST_DEVICE", "cpu"))


@pytest.fixture(scope="session")
def dtype(device):
    """Of the weights: what each device is used with."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


@pytest.fixture(scope="session")
def near(device):
    """How far results may be off, relative to their size: rounding to eight bits of mantissa, or hardly at all."""
    return 3e-2 if device.type == "cuda" else 1e-4


@pytest.fixture(scope="session")
def off():
    """The distance of one tensor from another, relative to the other's size."""

    def distance(found, expected):
        found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
        return float((found - expected).norm() / expected.norm())

    return distance

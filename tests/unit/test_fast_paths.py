"""The contract of the fast paths: each tests itself, says why it is not taken, and can be turned off."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from unmask import ArtifactError, TextEncoder, convert
from unmask.backbone.fast import operators
from unmask.backbone.fast.compiling import CompiledLayers, CompiledTraining
from unmask.backbone.fast.contract import NAMES, Availability, FastPath, chosen
from unmask.backbone.fast.cpu_attention import Products
from unmask.backbone.fast.lora_branch import LoraBranch
from unmask.backbone.fast.prepack import PrepackedLayers, PrepackedLinear
from unmask.backbone.fast.random_masks import RandomMasks
from unmask.backbone.fast.varlen import FlatAttention

TEXTS = ["The river flooded the town.", "No.", "Ice melts in May, and the ferries run again from June."]


def paths(model):
    made = [FlatAttention(), Products(), LoraBranch(), RandomMasks(), PrepackedLayers(model), CompiledLayers(model)]
    made.append(CompiledTraining(model))
    return {path.name: path for path in made}


def test_every_path_has_a_name_and_tests_itself(tiny):
    model = tiny("llama", head=False)
    made: dict[str, FastPath] = paths(model)
    assert set(made) == set(NAMES)
    torch.manual_seed(0)
    for name, path in made.items():
        possible = path.available(model)
        if possible:
            assert path.self_test() < 1e-5, name
        else:
            assert possible.reason, name


def test_what_is_attached_is_detached(tiny):
    model = tiny("llama", head=False)
    classes = [type(module) for module in model.modules()]
    for path in paths(model).values():
        if path.available(model):
            path.attach(model)
            path.detach(model)
    assert [type(module) for module in model.modules()] == classes
    assert model.config._attn_implementation == "sdpa"
    assert all(layer._compiled_call_impl is None for layer in model.layers)


def test_a_path_that_is_not_taken_says_why(tiny, tokenizer, monkeypatch):
    encoder = TextEncoder.load("pocket", attention="bidirectional", dtype="float32", fast=False)
    assert {str(taken) for taken in encoder.runner.paths().values()} == {"no: fast leaves it out"}
    monkeypatch.setenv("UNMASK_FAST", "prepack")
    other = TextEncoder(encoder.model, tokenizer, encoder.settings)
    assert str(other.padding_free) == "no: UNMASK_FAST leaves it out"
    monkeypatch.delenv("UNMASK_FAST")
    assert other.padding_free
    for family, reason in [("bloom", "eager"), ("falcon", "falcon"), ("mamba", "eager")]:
        model = tiny(family, head=False)
        told = TextEncoder(model, tokenizer).padding_free
        assert not told
        assert reason in told.reason
    assert not Availability(False, "x")


def test_one_switch_turns_all_off(articles, monkeypatch):
    fast = TextEncoder.load("pocket", attention="bidirectional", dtype="float32")
    expected = fast.encode(articles[:5])
    plain = TextEncoder.load("pocket", attention="bidirectional", dtype="float32", fast=False)
    np.testing.assert_allclose(plain.encode(articles[:5], compile=True), expected, atol=1e-5)
    assert not any(isinstance(module, PrepackedLinear) for module in plain.model.modules())
    assert plain.model.config._attn_implementation == "sdpa"
    assert all(layer._compiled_call_impl is None for layer in plain.model.layers)
    with pytest.raises(ArtifactError, match="cannot read texts one after the other"):
        plain.padding_free = True
    monkeypatch.setenv("UNMASK_FAST", "0")
    assert chosen() == frozenset()
    monkeypatch.setenv("UNMASK_FAST", "flat, lora")
    assert chosen() == {"flat", "lora"}
    with pytest.raises(ArtifactError, match="no fast path 'turbo'"):
        chosen(["turbo"])


RENAMED = """
import torch, sys
missing = sys.argv[1]
plain = torch._ops._OpNamespace.__getattr__
def gone(self, name):
    if name == missing:
        raise AttributeError(name)
    return plain(self, name)
if missing == "varlen":
    sys.modules["torch.nn.attention.varlen"] = None
elif missing == "_reorder_linear_weight":
    torch._ops._OpNamespace.__getattr__ = gone
else:  # torch itself cannot be imported without these
    from unmask.backbone.fast import operators
    find = operators.find
    operators.find = lambda path: None if missing in path else find(path)
from unmask import TextEncoder
encoder = TextEncoder.load("pocket", attention="bidirectional", dtype="float32")
print(float(encoder.encode("It still encodes.").sum()), encoder.runner.paths()["prepack"])
"""


@pytest.mark.parametrize(
    "missing", ["_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported", "varlen"]
)
def test_a_torch_that_renamed_an_operator_does_without(missing, bidirectional):
    done = subprocess.run([sys.executable, "-c", RENAMED, missing], capture_output=True, text=True, check=True)
    vector_sum, _, said = done.stdout.strip().partition(" ")
    assert float(vector_sum) == pytest.approx(float(bidirectional.encode("It still encodes.").sum()), abs=1e-3)
    if missing in ("_reorder_linear_weight", "_linear_pointwise"):
        assert said.startswith("no: this CPU and torch have no laid-out products")


def test_operators_that_are_not_there_are_none():
    assert operators.find("torch.ops.mkldnn.no_such_operator") is None
    assert operators.find("torch.no_such_module.at_all") is None
    assert operators.find("torch.nn.Linear") is nn.Linear


def test_a_second_encoder_of_a_model_may_be_plain(tokenizer, tiny):
    model = tiny("llama", head=False)
    convert(model)
    fast, plain = TextEncoder(model, tokenizer), TextEncoder(model, tokenizer, fast=False)
    first = fast.encode(TEXTS)
    np.testing.assert_allclose(plain.encode(TEXTS), first, atol=1e-5)
    np.testing.assert_array_equal(fast.encode(TEXTS), first)

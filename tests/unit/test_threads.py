"""One encoder, many threads; and a model that somebody changes between two calls."""

import copy
import gc
import threading

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from unmask import TextEncoder
from unmask.backbone.fast.prepack import PrepackedLinear
from unmask.backbone.fast.varlen import FlatUnsupportedError
from unmask.backbone.forward import flat_states, token_states
from unmask.backbone.structure import FLAT_ATTENTION

TEXTS = [
    "The river flooded the town.",
    "No.",
    "Ice melts in May, and the ferries run again from the first of June.",
] * 4


def fresh(**options):
    return TextEncoder.load("pocket", attention="bidirectional", dtype="float32", **options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_eight_threads_may_encode_on_one_fresh_encoder(dtype):
    for _ in range(3):
        encoder = fresh() if dtype == "float32" else TextEncoder.load("pocket", attention="bidirectional", dtype=dtype)
        barrier, found, errors = threading.Barrier(8), {}, []

        def work(number, encoder=encoder, barrier=barrier, found=found, errors=errors):
            try:
                barrier.wait()
                found[number] = encoder.encode(TEXTS)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        for vectors in found.values():
            np.testing.assert_array_equal(vectors, found[0])


def test_another_implementation_set_after_encoding_is_noticed():
    """The texts of a batch attended to each other once, and nothing said so."""
    encoder = fresh()
    before = encoder.encode(TEXTS)
    assert encoder.padding_free
    encoder.model.set_attn_implementation("eager")
    assert not encoder.padding_free
    assert "eager" in encoder.padding_free.reason
    np.testing.assert_allclose(encoder.encode(TEXTS), before, atol=1e-5)
    encoder.model.set_attn_implementation("sdpa")
    assert encoder.padding_free
    np.testing.assert_array_equal(encoder.encode(TEXTS), before)


def test_a_flat_batch_reaches_no_attention_that_does_not_know_layouts(tiny):
    model = tiny("llama", head=False, attention_implementation="eager")
    with pytest.raises(FlatUnsupportedError, match="'eager' does not know where a text of a flat batch ends"):
        flat_states(model, torch.arange(20, 32)[None], (5, 7))


def test_other_models_of_the_process_behave_as_if_nothing_were_imported(tiny):
    encoder = fresh()
    other = tiny("llama", head=False)
    ids = torch.arange(20, 32)[None]
    before = token_states(other, ids)
    encoder.encode(TEXTS)
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is transformers.integrations.sdpa_attention.sdpa_attention_forward
    assert other.config._attn_implementation == "sdpa"
    assert encoder.model.config._attn_implementation == FLAT_ATTENTION
    assert torch.equal(token_states(other, ids), before)


def test_the_saved_config_names_a_standard_implementation(tmp_path):
    encoder = fresh()
    encoder.encode(TEXTS)
    encoder.save(tmp_path / "encoder")
    text = (tmp_path / "encoder" / "config.json").read_text()
    assert FLAT_ATTENTION not in text
    assert transformers.AutoModel.from_pretrained(tmp_path / "encoder").config._attn_implementation == "sdpa"


def test_no_class_of_a_users_module_outlives_the_encoder():
    encoder = fresh()
    encoder.encode(TEXTS)
    model = encoder.model
    if not any(type(module) is PrepackedLinear for module in model.modules()):
        pytest.skip("weights are not laid out on this machine")
    second = TextEncoder(model, encoder.tokenizer, encoder.settings)
    second.encode(TEXTS[:1])
    assert not any(type(module) is PrepackedLinear for module in copy.deepcopy(model).modules())
    del encoder
    gc.collect()
    assert any(type(module) is PrepackedLinear for module in model.modules())  # the second still needs them
    del second
    gc.collect()
    assert not any(type(module) is PrepackedLinear for module in model.modules())
    assert any(type(module) is nn.Linear for module in model.modules())


def test_a_copied_encoder_lays_out_weights_of_its_own():
    encoder = fresh()
    expected = encoder.encode(TEXTS)
    twin = copy.deepcopy(encoder)
    np.testing.assert_allclose(twin.encode(TEXTS), expected, atol=1e-6)
    laid_out = [any(type(m) is PrepackedLinear for m in one.model.modules()) for one in (encoder, twin)]
    assert laid_out[0] == laid_out[1]

"""The fingerprint: the same through rounding, saving and renaming; another for another computation."""

import json

import numpy as np
import pytest
import torch

from unmask import DataError, EncoderSettings, TextEncoder
from unmask.encoder import to_int8
from unmask.encoder.fingerprint import TEXTS, apart, fingerprint_of, same


def opened(**options):
    return TextEncoder.load("pocket", **{"attention": "bidirectional", "dtype": "float32", **options})


@pytest.fixture(scope="module")
def right():
    return opened().fingerprint()


def test_the_id_of_vectors_is_the_same_everywhere():
    vectors = (np.arange(len(TEXTS) * 8, dtype=np.float64) * 7919 % 101 - 50).reshape(-1, 8)
    assert fingerprint_of(vectors.astype(np.float32)) == "080a0be58ed4d4e7d1d12105c01e0d17"
    assert fingerprint_of(vectors * np.arange(1, len(TEXTS) + 1)[:, None]) == "080a0be58ed4d4e7d1d12105c01e0d17"


def test_rounding_leaves_it(right, articles):
    assert same(opened(dtype="bfloat16").fingerprint(), right)
    encoder = opened()
    assert encoder.fingerprint() == right
    to_int8(encoder, articles[:8])
    found = encoder.fingerprint()
    assert 0 < apart(found, right) < 0.05
    assert same(found, right)


@pytest.mark.parametrize(
    "options",
    [{"attention": "causal"}, *({"pooling": name} for name in ("weighted_mean", "last", "eos", "first"))],
    ids=lambda options: "-".join(options.values()),
)
def test_another_computation_has_another(right, options):
    assert not same(opened(**options).fingerprint(), right)


def test_special_tokens_out_of_the_mean_and_a_default_prompt_change_it(right):
    assert not same(opened(include_special_tokens=False).fingerprint(), right)
    encoder = opened()
    settings = EncoderSettings(prompts={"q": "Find what answers this question:"}, default_prompt_name="q")
    assert not same(TextEncoder(encoder.model, encoder.tokenizer, settings).fingerprint(), right)


def test_it_is_kept_until_weights_or_precision_change(right):
    encoder = opened()
    assert encoder.fingerprint() == right
    encoder.encode = None  # whoever asks again is not made to wait
    assert encoder.fingerprint() == right
    del encoder.encode
    with torch.no_grad():
        for layer in encoder.model.layers:
            layer.mlp.down_proj.weight.zero_()
    assert not same(encoder.fingerprint(), right)


def test_a_folder_records_it_under_any_name_and_old_folders_open(right, tmp_path):
    opened().save(tmp_path / "one")
    TextEncoder.load(tmp_path / "one").save(tmp_path / "two")
    said = [json.loads((tmp_path / name / "unmask.json").read_text()) for name in ("one", "two")]
    assert same(said[0]["fingerprint"], right)
    assert same(said[1]["fingerprint"], right)
    del said[0]["fingerprint"]
    (tmp_path / "one" / "unmask.json").write_text(json.dumps(said[0]))
    assert same(TextEncoder.load(tmp_path / "one").fingerprint(), right)


def test_what_is_no_id_is_refused():
    with pytest.raises(DataError, match="no fingerprint"):
        same("0" * 32, "pocket-bi")
    with pytest.raises(DataError, match="24 finite vectors"):
        fingerprint_of(np.zeros((3, 4), dtype=np.float32))

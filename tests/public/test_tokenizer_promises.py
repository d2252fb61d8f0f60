"""A tokenizer does what its files promise: BOS and EOS around texts, and the pieces of its sentencepiece file."""

import json
import shutil

import pytest
from tokenizers import Tokenizer

from unmask.backbone import pieces
from unmask.backbone.locate import load_tokenizer
from unmask.errors import ArtifactError
from unmask.text.spans import special_affixes


@pytest.fixture
def folder(tiny, tokenizer, tmp_path):
    """A model folder; `edit` sets keys of its tokenizer_config.json."""
    tiny("llama").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit(folder, **keys):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **keys}))


def bare(folder):
    """Without the special tokens that tokenizer.json adds."""
    path = folder / "tokenizer.json"
    config = json.loads(path.read_text())
    config["post_processor"] = None
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("promised", "around"),
    [
        ({}, ([], [])),
        ({"add_bos_token": False}, ([], [])),
        ({"add_bos_token": True}, ([1], [])),
        ({"add_eos_token": True}, ([], [2])),
        ({"add_bos_token": True, "add_eos_token": True}, ([1], [2])),
    ],
)
def test_promised_tokens_are_added(folder, promised, around, caplog, tmp_path):
    bare(folder)
    edit(folder, **promised)
    tokenizer = load_tokenizer(str(folder))
    assert special_affixes(tokenizer) == around
    assert len(caplog.records) == any(promised.values())
    shutil.copytree(folder, tmp_path / "saved", ignore=shutil.ignore_patterns("tokenizer*"))
    tokenizer.save_pretrained(tmp_path / "saved")
    caplog.clear()
    assert special_affixes(load_tokenizer(str(tmp_path / "saved"))) == around
    assert not caplog.records


def test_a_kept_promise_is_left_alone(folder, caplog):
    edit(folder, add_bos_token=True)
    assert special_affixes(load_tokenizer(str(folder))) == ([1], [])
    assert not caplog.records


def test_a_promise_that_cannot_be_kept_is_refused(folder):
    bare(folder)
    edit(folder, add_eos_token=True, eos_token=None)
    with pytest.raises(ArtifactError, match="says add_eos_token: true, but the tokenizer has no such token"):
        load_tokenizer(str(folder))


@pytest.fixture
def sentencepiece_folder(tiny, data_folder, tmp_path):
    """A model with the sentencepiece file of Mistral alone, which transformers converts."""
    pytest.importorskip("sentencepiece")
    tiny("llama").save_pretrained(tmp_path / "model")
    shutil.copy(data_folder / "tokenizers" / "mistral_v1_sp" / "tokenizer.model", tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.data
@pytest.mark.parametrize("config", [{}, {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}])
def test_a_sentencepiece_file_is_followed(sentencepiece_folder, tmp_path, config):
    from sentencepiece import SentencePieceProcessor
    from transformers import AutoTokenizer

    if config:
        edit(sentencepiece_folder, **config)
    original = SentencePieceProcessor(model_file=str(sentencepiece_folder / "tokenizer.model"))
    tokenizer = load_tokenizer(str(sentencepiece_folder))
    tokenizer.save_pretrained(tmp_path / "saved")
    for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / "saved")):
        for text in ("word", "two  words", "\tdef f(x):\n    return  x", "naïve 😀 日本語"):
            assert each(text, add_special_tokens=False)["input_ids"] == original.encode(text), text
        assert special_affixes(each)[0] == ([1] if config else [])


@pytest.mark.data
def test_a_tokenizer_that_splits_otherwise_is_refused_by_its_first_text(sentencepiece_folder, tokenizer):
    tokenizer.save_pretrained(sentencepiece_folder)
    with pytest.raises(ArtifactError, match=r"tokenizer.model splits 'word' into \['▁word'\], but") as caught:
        load_tokenizer(str(sentencepiece_folder))
    assert "remove tokenizer.model to follow tokenizer.json, or tokenizer.json to follow" in str(caught.value)
    ids = {}
    for kept, removed in (("tokenizer.json", "tokenizer.model"), ("tokenizer.model", "tokenizer.json")):
        shutil.copytree(sentencepiece_folder, sentencepiece_folder.with_name(kept))
        (sentencepiece_folder.with_name(kept) / removed).unlink()
        ids[kept] = load_tokenizer(str(sentencepiece_folder.with_name(kept)))("word")["input_ids"]
    assert ids["tokenizer.json"] == tokenizer("word")["input_ids"] != ids["tokenizer.model"]


@pytest.mark.data
def test_a_tokenizer_json_that_agrees_with_the_file_is_taken_as_it_is(sentencepiece_folder, tmp_path):
    agreeing = load_tokenizer(str(sentencepiece_folder))
    agreeing.backend_tokenizer.save(str(sentencepiece_folder / "tokenizer.json"))
    edit(sentencepiece_folder, tokenizer_class="LlamaTokenizer")  # transformers rebuilds that class otherwise
    again = load_tokenizer(str(sentencepiece_folder))
    text = " word  and\n  word"
    assert (
        again(text)["input_ids"] == Tokenizer.from_file(str(sentencepiece_folder / "tokenizer.json")).encode(text).ids
    )


@pytest.mark.data
def test_without_the_package_a_lone_file_is_refused(sentencepiece_folder, monkeypatch):
    monkeypatch.setattr(pieces, "find_spec", lambda name: None)
    with pytest.raises(ArtifactError, match="pip install sentencepiece"):
        load_tokenizer(str(sentencepiece_folder))


def test_files_of_tiktoken_are_none_of_sentencepiece(tmp_path):
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")
    assert not pieces.is_sentencepiece(tmp_path / "tokenizer.model")

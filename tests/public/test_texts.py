"""What is refused before anything is encoded: texts that are none, and lengths and tokens that a model has not."""

import copy

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from unmask import TextEncoder
from unmask.backbone.loading import learned_positions
from unmask.backbone.truth.convert import convert
from unmask.encoder.conversion import convert_and_save
from unmask.errors import ArtifactError, DataError
from unmask.settings import EncoderSettings


def test_half_a_surrogate_pair_names_its_text(bidirectional):
    with pytest.raises(DataError, match=r"Text 1 holds half a surrogate pair \('\\ud83d' at character 3\)"):
        bidirectional.encode(["fine", "not\ud83d fine"])
    with pytest.raises(DataError, match="The prompt holds half a surrogate pair"):
        bidirectional.encode(["fine"], prompt="\udc00:")
    many = ["fine"] * 5000 + ["\ud83d"]
    with pytest.raises(DataError, match="Text 5000 holds"):
        list(bidirectional.stream(many))
    assert bidirectional.encode(["a whole pair: \U0001f600"]).shape[0] == 1


@pytest.mark.parametrize("way", ["encode", "encode_query", "encode_tokens"])
@pytest.mark.parametrize(("texts", "what"), [({"a": "text"}, "a dict"), ({"a", "b"}, "a set")])
def test_texts_without_an_order_are_refused(bidirectional, way, texts, what):
    with pytest.raises(DataError, match=f"Texts came as {what}"):
        getattr(bidirectional, way)(texts)
    with pytest.raises(DataError, match=f"Texts came as {what}"):
        next(bidirectional.stream(texts))


@pytest.mark.parametrize("way", ["encode", "encode_tokens", "tokenize", "stream"])
@pytest.mark.parametrize(
    "texts", [None, 5, b"bytes", np.array("a"), pa.table({"text": ["a"]}), pd.DataFrame({"text": ["a"]})]
)
def test_what_is_no_list_of_texts_is_refused(bidirectional, way, texts):
    with pytest.raises(DataError, match="Texts came as"):
        list(getattr(bidirectional, way)(texts))


@pytest.mark.parametrize("way", ["encode_tokens", "tokenize", "stream", "encode_words"])
def test_one_string_is_no_list(bidirectional, way):
    with pytest.raises(DataError, match="Texts came as one str"):
        list(getattr(bidirectional, way)("a text"))


def test_whatever_gives_texts_in_an_order_is_encoded(bidirectional):
    texts = ["a cat", "stocks fell"]
    expected = bidirectional.encode(texts)
    for given in (
        iter(texts),
        (text for text in texts),
        np.array(texts),
        pd.Series(texts, index=[7, 3]),
        {"a cat": 1}.keys(),
    ):
        found = bidirectional.encode(given)
        assert (found == expected[: len(found)]).all()
    assert len(bidirectional.encode_tokens(pd.Series(texts, index=[7, 3]))) == 2
    assert len(bidirectional.encode_words(words for words in [("a", "cat"), ("stocks",)])) == 2


@pytest.mark.parametrize("words", [{"a", "b"}, {"a": 1}, None, b"ab"])
def test_words_without_an_order_are_refused(bidirectional, words):
    with pytest.raises(DataError, match="The words of text 1 came as"):
        bidirectional.encode_words([["a"], words])


def test_a_prompt_is_a_string(bidirectional):
    with pytest.raises(DataError, match="The prompt is a int, not a string"):
        bidirectional.encode(["a"], prompt=3)


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(tiny, tokenizer):
    grown = copy.deepcopy(tokenizer)
    grown.add_tokens(["<one>", "<two>"])
    rows = len(tokenizer)
    with pytest.raises(ArtifactError, match=rf"number {rows + 1} \('<two>'\).* only {rows} rows"):
        TextEncoder(tiny("llama", head=False), grown)
    TextEncoder(tiny("llama", head=False, vocab_size=rows + 64), grown)  # a table that is larger is usual


@pytest.mark.parametrize(("family", "most"), [("gpt2", 128), ("opt", 128), ("bert", 128), ("roberta", 127)])
def test_learned_positions_end(tiny, tokenizer, tmp_path, family, most):
    model = tiny(family, head=False)
    assert learned_positions(model) == most  # RoBERTa counts from behind its padding position
    encoder = TextEncoder(model, tokenizer, EncoderSettings(max_length=most))
    assert encoder.encode(["word " * 500]).shape == (1, encoder.dimension)
    with pytest.raises(DataError, match=f"max_length={most + 1} is more than the {most} positions"):
        encoder.encode(["short"], max_length=most + 1)
    encoder.save(tmp_path / "encoder")
    with pytest.raises(ArtifactError, match=f"max_length=4096 is more than the {most} positions"):
        TextEncoder.load(tmp_path / "encoder", max_length=4096)


def test_convert_refuses_a_length_beyond_the_positions(tiny, tokenizer, tmp_path):
    tiny("gpt2").save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ArtifactError, match="max_length=129 is more than the 128 positions"):
        convert_and_save(str(tmp_path / "gpt2"), tmp_path / "out", max_length=129)
    assert not (tmp_path / "out").exists()


def test_rotary_positions_have_no_end(tiny):
    assert learned_positions(tiny("llama", head=False)) is None


def rotary(tiny, family, rope, **config):
    """A model whose states depend on its frequencies by far more than rounding."""
    model = tiny(family, head=False, initializer_range=0.25, rope_parameters={"rope_theta": 1e4, **rope}, **config)
    convert(model, backends=["sdpa"])
    return model


@pytest.mark.parametrize("flat", [True, False])
def test_a_long_text_changes_no_frequency_of_a_short_one(tiny, tokenizer, flat):
    factors = {"short_factor": [1.0] * 4, "long_factor": [1.0, 8.0, 16.0, 32.0]}
    rope = {"rope_type": "longrope", "original_max_position_embeddings": 64, **factors}
    more = {"max_position_embeddings": 512, "original_max_position_embeddings": 64}
    encoder = TextEncoder(rotary(tiny, "phi3", rope, **more), tokenizer, EncoderSettings(max_length=400))
    encoder.padding_free = flat
    short, long = "The quick brown fox jumps over the lazy dog.", "a river runs through the town " * 40
    alone = np.concatenate([encoder.encode([short]), encoder.encode([long])])
    np.testing.assert_allclose(encoder.encode([short, long]), alone, atol=1e-4)
    lengths = [len(text) for text in encoder.tokenize([short, long, short])]
    assert list(encoder.reader.groups(lengths, 4096, padded=not flat)) == [[1], [0, 2]]


def test_dynamic_frequencies_end_where_they_would_change(tiny, tokenizer):
    model = rotary(tiny, "llama", {"rope_type": "dynamic", "factor": 4.0}, max_position_embeddings=128)
    encoder = TextEncoder(model, tokenizer, EncoderSettings(max_length=128))
    before = encoder.encode(["a river runs through the town"])
    encoder.encode(["a river runs through the town " * 40])
    np.testing.assert_array_equal(encoder.encode(["a river runs through the town"]), before)
    with pytest.raises(ArtifactError, match="max_length=129 is more than the 128 positions"):
        TextEncoder(model, tokenizer, EncoderSettings(max_length=129))


@pytest.mark.parametrize("length", [0, -1])
def test_a_text_needs_a_token(bidirectional, length):
    with pytest.raises(DataError, match=f"max_length={length}: a text needs at least 1 token"):
        bidirectional.encode(["a"], max_length=length)

"""The one stream: order, bounded memory, texts of any length, settings that a call changes."""

import time
from itertools import count

import numpy as np
import pytest
import torch

from unmask import DataError, EncoderSettings, TextEncoder
from unmask.encoder import stream as streaming
from unmask.text.prompts import render
from unmask.text.spans import tokenize


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(streaming, "_WINDOW_TEXTS", 7)


def test_a_stream_gives_what_encode_gives_in_order(bidirectional, articles, small_windows):
    blocks = list(bidirectional.stream(iter(articles), normalize=True))
    assert [len(block) for block in blocks] == [7] * 5 + [5]
    np.testing.assert_allclose(np.concatenate(blocks), bidirectional.encode(articles, normalize=True), atol=1e-6)
    keyed = list(bidirectional.stream_keyed(zip(count(3), articles)))
    assert [key for keys, _ in keyed for key in keys] == list(range(3, 43))
    assert list(bidirectional.stream([])) == []


def test_a_stream_reads_no_further_than_it_must(bidirectional, small_windows):
    read = 0

    def endless():
        nonlocal read
        for number in count():
            read += 1
            yield f"text number {number}"

    stream = bidirectional.stream(endless())
    for block, _ in zip(stream, range(5), strict=False):
        assert block.shape == (7, bidirectional.dimension)
    stream.close()
    assert read <= 7 * 9


def test_windows_are_bounded_by_characters_too(bidirectional, monkeypatch):
    monkeypatch.setattr(streaming, "_WINDOW_CHARACTERS", 1000)
    blocks = list(bidirectional.stream(["a word " * 100] * 5))
    assert [len(block) for block in blocks] == [2, 2, 1]


def test_a_text_that_is_no_string_is_named_by_its_number(bidirectional, small_windows):
    with pytest.raises(DataError, match="Text 16 is a int"):
        list(bidirectional.stream(["fine"] * 16 + [3]))


def test_what_the_model_will_not_read_is_not_tokenized(bidirectional, articles):
    """Ten million characters cost no more than the first pages, and give their vector."""
    text = " ".join(articles)
    long = text * (10_000_000 // len(text))
    started = time.perf_counter()
    found = bidirectional.encode(long)
    assert time.perf_counter() - started < 2.0
    np.testing.assert_array_equal(found, bidirectional.encode(text[:20_000]))


@pytest.mark.data
@pytest.mark.parametrize("name", ["mistral_v1_sp", "gpt2_bpe", "qwen2.5_bpe", "pocket"])
def test_tokens_of_a_long_text_are_those_of_the_whole(name, tokenizer, data_folder, articles):
    from transformers import AutoTokenizer, GPT2TokenizerFast

    loader = GPT2TokenizerFast if name == "gpt2_bpe" else AutoTokenizer  # vocabulary and merges alone
    own = tokenizer if name == "pocket" else loader.from_pretrained(data_folder / "tokenizers" / name)
    texts = [
        " ".join(articles),
        "a" * 100_000,
        "日本語のテキスト" * 3000,
        "x\n\n" * 9000,
        "word " * 3000 + "\u0301" * 500,
    ]
    texts.append("word " * 3000 + "\u0301" * 500)
    texts.append("".join(chr(0x1F600 + i % 50) for i in range(20_000)))
    for limit in (16, 300):
        whole = own(texts)["input_ids"]
        for prompt in ("", "Find this: "):
            found = tokenize(own, render(texts, prompt), max_length=limit)
            for text, ids, one in zip(texts, whole, found, strict=True):
                expected = own(prompt + text)["input_ids"] if prompt else ids
                keep = int(one.in_text.sum())
                start = int(one.in_text.argmax())
                assert len(one) == limit
                assert one.ids[start : start + keep].tolist() == expected[start : start + keep]


def test_settings_are_immutable_and_a_call_may_change_the_length(bidirectional):
    text = "one two three four five six seven eight nine ten"
    short = TextEncoder(bidirectional.model, bidirectional.tokenizer, EncoderSettings(max_length=5))
    np.testing.assert_allclose(bidirectional.encode(text, max_length=5), short.encode(text), atol=1e-6)
    with pytest.raises(AttributeError):
        bidirectional.settings = EncoderSettings(max_length=5)
    with pytest.raises(ValueError, match="frozen"):
        bidirectional.settings.max_length = 5


def test_queries_and_documents_get_their_saved_prompts(bidirectional):
    settings = EncoderSettings(prompts={"query": "Find: ", "passage": "Text: "})
    encoder = TextEncoder(bidirectional.model, bidirectional.tokenizer, settings)
    text = "Rivers flood in spring."
    np.testing.assert_array_equal(encoder.encode_query(text), encoder.encode(text, prompt="Find: "))
    np.testing.assert_array_equal(encoder.encode_document([text])[0], encoder.encode(text, prompt="Text: "))
    np.testing.assert_array_equal(encoder.encode_query(text, prompt=""), encoder.encode(text))
    np.testing.assert_array_equal(bidirectional.encode_query(text), bidirectional.encode(text))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("pooling", ["mean", "last", "weighted_mean"])
def test_the_module_that_encodes_can_be_exported(implementation, pooling, tokenizer):
    encoder = TextEncoder.load(
        "pocket",
        **{"attention": "bidirectional", "dtype": "float32", "pooling": pooling},
        attention_implementation=implementation,
        include_special_tokens=True,
    )
    batch = tokenizer(["Hello world", "A longer text, with more words in it."], padding=True, return_tensors="pt")
    given = (batch["input_ids"], batch["attention_mask"])
    rows, tokens = torch.export.Dim("rows", min=1, max=64), torch.export.Dim("tokens", min=2, max=512)
    exported = torch.export.export(
        encoder.exportable(), given, dynamic_shapes=({0: rows, 1: tokens}, {0: rows, 1: tokens}), strict=False
    )
    texts = ["Another one", "and three", "texts of unlike lengths, one of them longer"]
    again = tokenizer(texts, padding=True, return_tensors="pt")
    found = exported.module()(again["input_ids"], again["attention_mask"]).detach().numpy()
    np.testing.assert_allclose(found, encoder.encode(texts), atol=1e-4)


def test_a_row_of_padding_alone_stays_finite(bidirectional):
    ids = torch.full((2, 6), 7)
    mask = torch.tensor([[1] * 6, [0] * 6])
    with torch.no_grad():
        pooled = torch.ones(2, 6, dtype=torch.bool)
        vectors = bidirectional.exportable()(ids, mask, pooled)
    assert torch.isfinite(vectors).all()

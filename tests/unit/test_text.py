"""Prompts, spans and batches."""

import numpy as np
import pytest

from unmask.errors import ArtifactError, DataError
from unmask.text.batching import pad, token_budget
from unmask.text.prompts import ChatWrapper, render
from unmask.text.spans import special_affixes, tokenize
from unmask.text.words import append_eos, word_tokens


def spans(tokenizer, texts, prompt="", **options):
    options = {"max_length": 512, **options}
    return tokenize(tokenizer, render(texts, prompt), **options)


def pooled_text(tokenizer, text):
    return tokenizer.decode(text.ids[text.pooled])


def test_special_tokens_and_prompt_are_outside_the_span(tokenizer):
    (text,) = spans(tokenizer, ["Hello world"], prompt="Represent this sentence:")
    assert text.ids[0] == tokenizer.bos_token_id
    assert not text.pooled[0]
    assert pooled_text(tokenizer, text) == "Hello world"


def test_a_token_across_the_border_belongs_to_the_text(tokenizer):
    (text,) = spans(tokenizer, ["world"], prompt="query: ")
    assert pooled_text(tokenizer, text).strip() == "world"


def test_everything_can_be_pooled(tokenizer):
    (text,) = spans(tokenizer, ["Hello"], prompt="query:", include_special_tokens=True, include_prompt=True)
    assert text.pooled.all()


@pytest.mark.parametrize("prompt", ["", "Find the answer to this question:"])
def test_truncation_keeps_the_prompt_and_cuts_the_text(tokenizer, prompt):
    (long,) = spans(tokenizer, ["word " * 400], prompt=prompt, max_length=32)
    (short,) = spans(tokenizer, ["word"], prompt=prompt)
    assert len(long) == 32
    head = int(short.in_text.argmax())
    assert np.array_equal(long.ids[:head], short.ids[:head])
    assert long.pooled.sum() == 32 - head


def test_a_prompt_that_fills_the_length_is_an_error(tokenizer):
    with pytest.raises(DataError, match="max_length=8"):
        spans(tokenizer, ["word " * 20], prompt="a very long instruction indeed, is it not?", max_length=8)


@pytest.mark.parametrize("text", ["", " ", "\n\n"])
def test_an_empty_text_is_pooled_over_what_the_model_reads(tokenizer, text):
    (empty,) = spans(tokenizer, [text])
    assert empty.pooled.any()
    assert len(empty) >= 1


def test_offsets_point_into_the_users_text(tokenizer):
    source = "Größe, naïve café 日本語 x_y"
    (text,) = spans(tokenizer, [source], prompt="Encode:")
    own = text.offsets[text.in_text]
    assert own[0, 0] <= 0
    assert own[-1, 1] == len(source)
    assert "".join(source[a:b] for a, b in dict.fromkeys(map(tuple, own.clip(min=0).tolist()))) == source


def test_a_chat_template_is_read_off_the_tokenizer_and_not_pooled(tokenizer):
    import copy

    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = "{{ bos_token }}{% for m in messages %}[USER] {{ m['content'] }} [END]{% endfor %}"
    wrapper = ChatWrapper.from_tokenizer(chatty)
    assert (wrapper.before, wrapper.after) == ("<s>[USER] ", " [END]")
    (text,) = tokenize(chatty, render(["Hello world"], "", wrapper), max_length=64)
    message, real = [{"role": "user", "content": "Hello world"}], {"split_special_tokens": False}
    expected = chatty.apply_chat_template(message, return_dict=False, tokenizer_kwargs=real)
    assert text.ids.tolist() == expected
    assert pooled_text(chatty, text).strip() == "Hello world"
    (cut,) = tokenize(chatty, render(["word " * 100], "", wrapper), max_length=24)
    assert chatty.decode(cut.ids).endswith("[END]")


def test_no_chat_template_is_an_error(tokenizer):
    with pytest.raises(ArtifactError, match="has none"):
        ChatWrapper.from_tokenizer(tokenizer)


@pytest.mark.data
@pytest.mark.parametrize("name", ["mistral_v1_sp", "gpt2_bpe", "qwen2.5_bpe"])
def test_spans_of_real_tokenizers_hold_the_text_and_nothing_else(data_folder, name):
    from transformers import AutoTokenizer, GPT2TokenizerFast

    loader = GPT2TokenizerFast if name == "gpt2_bpe" else AutoTokenizer  # vocabulary and merges alone
    tokenizer = loader.from_pretrained(data_folder / "tokenizers" / name)
    prompts = ["", "query: ", "Given a question, retrieve passages that answer it:", "Instruct: find\nQuery:"]
    for prompt in prompts:
        for source in ["Hello world", " leading", "it's 3 o'clock", "日本語 text", "a", "(see _this_)"]:
            (text,) = tokenize(tokenizer, render([source], prompt), max_length=512)
            found = tokenizer.decode(text.ids[text.pooled]).strip()
            first = text.offsets[text.pooled][0]
            straddles = first[0] < 0 < first[1]  # such as ":a" in Qwen: it counts as text
            assert found == source.strip() or (straddles and found.endswith(source.strip())), (prompt, found)


def test_the_budget_holds_and_every_row_appears_once():
    lengths = np.random.default_rng(0).integers(1, 90, size=200).tolist()
    groups = list(token_budget(lengths, 128, padded=True))
    assert sorted(row for group in groups for row in group) == list(range(200))
    assert all(len(g) == 1 or max(lengths[r] for r in g) * len(g) <= 128 for g in groups)


def test_left_and_right_padding_hold_the_same_tokens(tokenizer):
    texts = spans(tokenizer, ["one", "a much longer text than that"])
    left, right = (pad(texts, pad_id=0, padding_side=side) for side in ("left", "right"))
    for row, text in enumerate(texts):
        for batch in (left, right):
            real = batch.attention_mask[row].bool()
            assert batch.input_ids[row][real].tolist() == text.ids.tolist()
            assert batch.position_ids[row][real].tolist() == list(range(len(text)))
            assert batch.pooled[row][real].tolist() == text.pooled.tolist()


def test_words_are_found_by_offsets(tokenizer):
    words = ["Pre-trained", "models", "(e.g.", "Llama)", "naïve", ",", "ok"]
    (text,) = spans(tokenizer, [" ".join(words)])
    tokens, numbers = word_tokens(text, words, 0, 512)
    for i, word in enumerate(words):
        assert tokenizer.decode(text.ids[tokens[numbers == i]]).strip() == word


def test_words_beyond_the_length_are_an_error(tokenizer):
    words = ["word"] * 100
    (text,) = spans(tokenizer, [" ".join(words)], max_length=20)
    with pytest.raises(DataError, match=r"Text 3 \(word word word word word ...\) has 100 words"):
        word_tokens(text, words, 3, 20)


@pytest.mark.data
def test_eos_leaves_byte_level_offsets_alone(data_folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(data_folder / "tokenizers" / "qwen2.5_bpe")
    before = tokenizer("Hello world", return_offsets_mapping=True)
    append_eos(tokenizer)
    after = tokenizer("Hello world", return_offsets_mapping=True)
    assert after["input_ids"] == [*before["input_ids"], tokenizer.eos_token_id]
    assert after["offset_mapping"][:-1] == before["offset_mapping"]


def test_eos_is_appended_by_the_tokenizer_itself(tokenizer, tmp_path):
    import copy

    from transformers import AutoTokenizer

    changed = copy.deepcopy(tokenizer)
    append_eos(changed)
    append_eos(changed)
    changed.save_pretrained(tmp_path)
    for each in (changed, AutoTokenizer.from_pretrained(tmp_path)):
        assert special_affixes(each) == ([1], [2])
        assert each("Hello").input_ids[-1] == 2

"""Chat templates: rendered once, the same on every day an encoder is loaded, refused in a sentence where they fail."""

import copy
import json
import shutil

import numpy as np
import pytest

from unmask import TextEncoder
from unmask.backbone.locate import load_tokenizer
from unmask.errors import ArtifactError
from unmask.runs.rungs import open_run, open_rung
from unmask.settings import EncoderSettings
from unmask.text.prompts import ChatWrapper, render
from unmask.text.spans import tokenize

USER = "{% for m in messages %}[USER] {{ m['content'] }} </s>{% endfor %}"
DATED = {
    "a function": "<s>Today: {{ strftime_now('%d %b %Y') }}\n" + USER,
    "as Llama has it": (
        "{% if not date_string is defined %}{% if strftime_now is defined %}"
        "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}"
        "{% endif %}{% endif %}<s>Today Date: {{ date_string }}\n" + USER
    ),
    "in a macro": "{% macro day() %}{{ strftime_now('%Y-%m-%d') }}{% endmacro %}<s>{{ day() }}" + USER,
}


def chatty(tokenizer, template):
    with_template = copy.deepcopy(tokenizer)
    with_template.chat_template = template
    return with_template


@pytest.fixture
def another_day(monkeypatch):
    """Let transformers believe in another day."""
    from datetime import datetime

    from transformers.utils import chat_template_utils

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 5, 6)

    def travel():
        monkeypatch.setattr(chat_template_utils, "datetime", Later)

    return travel


@pytest.mark.parametrize("template", DATED.values(), ids=DATED)
def test_a_saved_encoder_stays_in_its_day(bidirectional, tokenizer, tmp_path, another_day, caplog, template):
    settings = EncoderSettings(max_length=128, chat_template=True)
    encoder = TextEncoder(bidirectional.model, chatty(tokenizer, template), settings)
    said = [record.message for record in caplog.records if "writes the date" in record.message]
    assert len(said) == 1
    assert "vectors change by the day" in said[0]
    encoder.save(tmp_path / "encoder")
    before = encoder.encode(["Hello"])
    another_day()
    again = TextEncoder.load(tmp_path / "encoder", dtype="float32")
    assert "2031" in ChatWrapper.from_tokenizer(again.tokenizer).before
    assert again.reader.chat == encoder.reader.chat
    np.testing.assert_allclose(again.encode(["Hello"]), before, atol=1e-6)
    again.save(tmp_path / "copy")
    saved = [json.loads((tmp_path / name / "unmask.json").read_text())["chat"] for name in ("encoder", "copy")]
    assert saved[0] == saved[1]


def test_a_template_without_a_date_says_nothing(tokenizer, caplog):
    ChatWrapper.from_tokenizer(chatty(tokenizer, "<s>" + USER))
    assert not caplog.records


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('only system messages') }}", "only system messages"),
        ("{{ missing.name }}", "'missing' is undefined"),
        ("{% if %}", "Expected an expression"),
        ("{{ messages + 1 }}", "can only concatenate list"),
        ("a fixed text", "does not show a user message exactly once"),
    ],
)
def test_a_template_that_fails_is_one_sentence(bidirectional, tokenizer, template, why):
    with pytest.raises(ArtifactError, match=why) as caught:
        TextEncoder(bidirectional.model, chatty(tokenizer, template), EncoderSettings(chat_template=True))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{% for tool in tools %}{{ tool.name }}{% endfor %}" + USER, "tools"),
        ("{{ documents[0]['title'] }}" + USER, "documents"),
        ("{{ task + ': ' }}" + USER, "task"),
        ("{% if not enable_thinking is defined %}{{ raise_exception('set it') }}{% endif %}" + USER, "enable_thinking"),
        ("{% if task == 'query' %}[QUERY]{% endif %}" + USER, "task"),
        ("{{ task }}" + USER, "task"),
    ],
)
def test_a_variable_that_nobody_gives_is_named(bidirectional, tokenizer, template, name):
    with pytest.raises(ArtifactError, match=rf"(nothing sets .*|its variable ')\b{name}\b") as caught:
        TextEncoder(bidirectional.model, chatty(tokenizer, template), EncoderSettings(chat_template=True))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        "{% if tools %}[TOOLS]{% endif %}" + USER,
        "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}" + USER,
        "{{ style | default('plain') }}{{ nothing }}" + USER,
        {"default": "<s>" + USER, "rag": "{{ documents[0] }}" + USER},
    ],
)
def test_a_variable_that_may_be_missing_is_left_out(tokenizer, template):
    with_template = chatty(tokenizer, template)
    (rendered,) = render(["Hello"], "", ChatWrapper.from_tokenizer(with_template))
    assert rendered.text == with_template.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)


@pytest.mark.parametrize(
    "trim", ["m['content'] | trim", "m['content'].strip()", "m['content'].rstrip()", "m['content']"]
)
@pytest.mark.parametrize("text", [" two words\n", "two words", "  ", ""])
@pytest.mark.parametrize("prompt", ["", "find: "])
def test_a_template_that_trims_does_so_here(tokenizer, trim, text, prompt):
    with_template = chatty(tokenizer, "<s>{% for m in messages %}[USER]\n{{ " + trim + " }}\n[END]{% endfor %}")
    wrapper = ChatWrapper.from_tokenizer(with_template)
    (rendered,) = render([text], prompt, wrapper)
    message = [{"role": "user", "content": prompt + text}]
    assert rendered.text == with_template.apply_chat_template(message, tokenize=False)
    (found,) = tokenize(with_template, [rendered], max_length=64)
    if text.strip():
        own = found.offsets[found.in_text].clip(min=0)
        assert text[own[0, 0] : own[-1, 1]].strip() == "two words"


def test_a_run_stays_in_the_day_it_began(tokenizer, tmp_path, another_day):
    """Killed after its first stage and resumed on another day, it trains and scores as on the first."""
    from unmask.runs.recipe import load_recipe
    from unmask.runs.run import train

    model = tmp_path / "model"
    TextEncoder.load("pocket", attention="causal").model.save_pretrained(model)
    chatty(tokenizer, DATED["a function"]).save_pretrained(model)
    (tmp_path / "texts.txt").write_text("One sentence.\nAnother sentence.\nA third one.\nThe last of four.\n")
    (tmp_path / "recipe.yaml").write_text(
        f"name: dated\nmodel: {{name: {model}, chat_template: true}}\n"
        f"data: {{t: {{kind: texts, files: [{tmp_path / 'texts.txt'}]}}}}\n"
        "stages:\n- {name: a, objective: simcse, data: t, steps: 1, batch_size: 4}\n"
        "- {name: b, objective: simcse, data: t, steps: 1, batch_size: 4}\n"
    )
    recipe = load_recipe(tmp_path / "recipe.yaml")
    train(recipe, tmp_path / "run")
    first = TextEncoder.load(tmp_path / "run" / "encoder").reader.chat
    shutil.rmtree(tmp_path / "run" / "encoder")
    shutil.rmtree(tmp_path / "run" / "stages" / "2-b")
    another_day()
    assert "2031" in ChatWrapper.from_tokenizer(load_tokenizer(str(model))).before
    train(recipe, tmp_path / "run")
    for place in ("encoder", "stages/2-b/adapter"):
        assert TextEncoder.load(tmp_path / "run" / place).reader.chat == first
    assert all(open_rung(recipe, place).reader.chat == first for place in open_run(tmp_path / "run")[1])

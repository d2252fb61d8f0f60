"""Folders of sentence-transformers that others wrote: each key is obeyed, with that library's vectors, or refused."""

import copy
import inspect
import json
from pathlib import Path

import numpy as np
import pytest

from unmask import TextEncoder
from unmask.backbone.locate import load_tokenizer
from unmask.encoder.folder import _write_word_weights
from unmask.encoder.layout import read_layout
from unmask.encoder.layout_keys import NESTED, TABLES, markdown
from unmask.errors import ArtifactError, RecipeError
from unmask.runs.check import check_reading
from unmask.runs.recipe import load_recipe
from unmask.settings import EncoderSettings
from unmask.text.words import append_eos

TEXTS = ["Hello world", "A LONGER Text about trains. " * 12, "Größe und naïve café", "short", " white space\n"]
FILES = {
    "config_sentence_transformers.json": "config_sentence_transformers.json",
    "sentence_bert_config.json": "sentence_bert_config.json",
    "Pooling": "1_Pooling/config.json",
    "Normalize": "2_Normalize/config.json",
    "WordWeights": "WordWeights/config.json",
}
TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] | trim }} </s>{% endfor %}{{ end }}"
PLAIN = {"method": "forward", "method_output_name": "last_hidden_state"}


def edit(folder, name, **keys):
    """Set keys of a file, at dotted places; None removes one."""
    path = folder / name
    config = json.loads(path.read_text()) if path.exists() else {}
    for key, value in keys.items():
        *outer, last = key.split(".")
        place = config
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
        if value is None:
            del place[last]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(config))


@pytest.fixture
def folder(tiny, tokenizer, tmp_path):
    """A folder as that library would write one, of a model with special tokens on both sides of a text."""
    both = copy.deepcopy(tokenizer)
    append_eos(both)
    settings = EncoderSettings(max_length=40, include_special_tokens=True, normalize=True)
    TextEncoder(tiny("llama", head=False, is_causal=False), both, settings).save(tmp_path / "folder")
    (tmp_path / "folder" / "unmask.json").unlink()
    edit(tmp_path / "folder", "1_Pooling/config.json", include_prompt=True)
    edit(tmp_path / "folder", "tokenizer_config.json", split_special_tokens=None)
    return tmp_path / "folder"


def weighted(folder):
    """The same with a WordWeights module."""
    modules = json.loads((folder / "modules.json").read_text())
    modules.insert(1, {"name": "w", "path": "WordWeights", "type": "sentence_transformers.models.WordWeights"})
    (folder / "modules.json").write_text(json.dumps(modules))
    if not (folder / "WordWeights").exists():
        _write_word_weights(folder / "WordWeights", load_tokenizer(str(folder)), [1, 2])


def agree(folder, texts=TEXTS, **options):
    """Assert that both libraries make the same vectors of a folder."""
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(folder), device="cpu").encode(texts, **options)
    ours = TextEncoder.load(folder, device="cpu").encode(texts, **options)
    cosine = (theirs * ours).sum(-1) / (np.linalg.norm(theirs, axis=-1) * np.linalg.norm(ours, axis=-1))
    assert cosine.min() > 0.9999, cosine
    return ours


OBEYED = {
    "max_seq_length": ("sentence_bert_config.json", {"max_seq_length": 9}),
    "no max_seq_length": ("sentence_bert_config.json", {"max_seq_length": None}),
    "do_lower_case": ("sentence_bert_config.json", {"do_lower_case": True}),
    "modality_config": (
        "sentence_bert_config.json",
        {"modality_config.text": PLAIN, "module_output_name": "token_embeddings"},
    ),
    "tokenizer_args": ("sentence_bert_config.json", {"tokenizer_args.model_max_length": 11}),
    "processor_kwargs": ("sentence_bert_config.json", {"processor_kwargs.model_max_length": 11}),
    "processing_kwargs": ("sentence_bert_config.json", {"processing_kwargs.text.max_length": 12}),
    "default_prompt_name": ("config_sentence_transformers.json", {"prompts.q": "query: ", "default_prompt_name": "q"}),
    "requirements": (
        "config_sentence_transformers.json",
        {"requirements": {"transformers": ">=5.2", "pytorch": ">=2"}},
    ),
    "pooling_mode": ("1_Pooling/config.json", {"pooling_mode": "weightedmean"}),
    "a list of one": ("1_Pooling/config.json", {"pooling_mode": ["lasttoken"]}),
    "cls": ("1_Pooling/config.json", {"pooling_mode": "cls"}),
    "old keys": (
        "1_Pooling/config.json",
        {"pooling_mode": None, "pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True},
    ),
    "no old key": ("1_Pooling/config.json", {"pooling_mode": None, "pooling_mode_mean_tokens": False}),
    "old keys beside the new": ("1_Pooling/config.json", {"pooling_mode": "cls", "pooling_mode_max_tokens": True}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", OBEYED)
def test_obeyed_keys_give_the_same_vectors(folder, case):
    name, keys = OBEYED[case]
    edit(folder, name, **keys)
    agree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "weightedmean", "lasttoken"])
@pytest.mark.parametrize("words", [False, True])
def test_a_prompt_is_left_out_with_the_special_tokens_in_front_of_it(folder, pooling, words):
    edit(folder, "1_Pooling/config.json", include_prompt=False, pooling_mode=pooling)
    edit(folder, "config_sentence_transformers.json", **{"prompts.q": "Find what answers this:"})
    if words and pooling != "lasttoken":
        weighted(folder)
    with_prompt = agree(folder, prompt_name="q")
    assert not np.allclose(with_prompt, agree(folder), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["flat", "structured"])
@pytest.mark.parametrize("pooling", ["mean", "lasttoken"])
def test_a_chat_template_that_is_applied_there_is_applied_here(folder, shape, pooling):
    template = TEMPLATE if shape == "flat" else TEMPLATE.replace("m['content']", "m['content'][0]['text']")
    (folder / "chat_template.jinja").write_text(template)
    message = {**PLAIN, "format": shape}
    edit(folder, "sentence_bert_config.json", modality_config={"text": PLAIN, "message": message})
    edit(folder, "sentence_bert_config.json", module_output_name="token_embeddings")
    edit(folder, "sentence_bert_config.json", **{"processing_kwargs.chat_template.end": "Answer:"})
    edit(folder, "1_Pooling/config.json", pooling_mode=pooling)
    vectors = agree(folder)
    edit(folder, "sentence_bert_config.json", modality_config={"text": PLAIN})
    assert not np.allclose(vectors, agree(folder), atol=1e-3)


VARIABLES = {
    "enable_thinking": {"enable_thinking": False},
    "task": {"task": "query"},
    "tools": {"tools": [{"type": "function", "function": {"name": "find"}}]},
    "documents": {"documents": [{"title": "one", "text": "two"}]},
    "add_generation_prompt": {"add_generation_prompt": True},
    "another template": {"chat_template": "other"},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", VARIABLES)
def test_variables_of_a_chat_template_are_given_to_it(folder, case):
    names = ("enable_thinking", "tools", "documents", "add_generation_prompt")
    shown = "".join(f"{{{{ {name} }}}}" for name in names) + ("{{ task }}" if case == "task" else "")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "other.jinja").write_text("other: " + TEMPLATE)
    (folder / "chat_template.jinja").write_text(TEMPLATE + shown)
    edit(folder, "sentence_bert_config.json", modality_config={"text": PLAIN, "message": {**PLAIN, "format": "flat"}})
    given = {f"processing_kwargs.chat_template.{key}": value for key, value in VARIABLES[case].items()}
    edit(folder, "sentence_bert_config.json", module_output_name="token_embeddings", max_seq_length=100, **given)
    agree(folder)


def test_a_chat_template_for_queries_alone_is_refused(folder):
    (folder / "chat_template.jinja").write_text("{{ 'find: ' if task == 'query' }}" + TEMPLATE)
    edit(folder, "sentence_bert_config.json", modality_config={"text": PLAIN, "message": {**PLAIN, "format": "flat"}})
    with pytest.raises(ArtifactError, match=r"tells queries from documents by its variable 'task'"):
        TextEncoder.load(folder)


@pytest.mark.slow
def test_spellings_of_special_tokens_are_read_as_the_folder_says(folder):
    texts = ["<s>struck</s> out", "</s>", "a <mask> b [CLS]"]
    edit(folder, "tokenizer_config.json", split_special_tokens=True)
    split = agree(folder, texts)
    edit(folder, "tokenizer_config.json", split_special_tokens=False)
    assert not np.allclose(split, agree(folder, texts), atol=1e-3)
    edit(folder, "tokenizer_config.json", split_special_tokens=None)
    edit(folder, "config_sentence_transformers.json", **{"prompts.q": "</s>find: "})
    agree(folder, prompt_name="q")  # a prompt that spells one asks for it


def other_values(entry):
    return next(value for value in ("something", 7, {"key": 1}) if value not in entry.neutral)


def cases(reading):
    return [(file, key) for file in FILES for key, entry in TABLES[file].items() if entry.reading == reading]


@pytest.mark.parametrize(("file", "key"), cases("refused"))
def test_refused_keys_are_named(folder, file, key):
    if file == "WordWeights":
        weighted(folder)
    if file == "Pooling":
        edit(folder, FILES[file], pooling_mode=None)
    edit(folder, FILES[file], **{key: other_values(TABLES[file][key])})
    with pytest.raises(ArtifactError, match=key.rpartition(".")[2]) as caught:
        read_layout(folder, 512)
    assert "\n" not in str(caught.value)
    for neutral in TABLES[file][key].neutral:
        edit(folder, FILES[file], **{key: neutral})
        read_layout(folder, 512)


@pytest.mark.parametrize(("file", "key"), cases("no influence"))
def test_harmless_keys_change_nothing(folder, file, key):
    if file == "WordWeights":
        weighted(folder)
    before = read_layout(folder, 512)
    edit(folder, FILES[file], **{key.replace("*", "something"): ["some value"]})
    assert read_layout(folder, 512) == before


@pytest.mark.parametrize("file", FILES)
def test_unknown_keys_are_named(folder, file):
    if file == "WordWeights":
        weighted(folder)
    edit(folder, FILES[file], novelty=1)
    with pytest.raises(ArtifactError, match="'novelty', which unmask does not know"):
        read_layout(folder, 512)


@pytest.mark.parametrize(
    "key",
    sorted(
        NESTED - {"processing_kwargs.chat_template"} - {f"processing_kwargs.{m}" for m in ("audio", "image", "video")}
    ),
)
def test_unknown_keys_within_keys_are_named(folder, key):
    edit(folder, "sentence_bert_config.json", **{f"{key}.novelty": 1})
    with pytest.raises(ArtifactError, match=f"'{key}.novelty', which unmask does not know"):
        read_layout(folder, 512)


MODULES = {
    "Dense": ("sentence_transformers.models.Dense", "cannot run: sentence_transformers.models.Dense"),
    "StaticEmbedding": ("sentence_transformers.models.StaticEmbedding", "StaticEmbedding"),
    "Router": ("sentence_transformers.models.Router", "Router"),
    "LayerNorm": ("sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm", "LayerNorm"),
    "code of their own": ("custom_st.Transformer", "cannot run: custom_st.Transformer"),
    "twice": ("sentence_transformers.models.Pooling", "names Pooling twice"),
}


@pytest.mark.parametrize("case", MODULES)
def test_other_modules_are_named(folder, case):
    kind, message = MODULES[case]
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 9, "name": "9", "path": "1_Pooling", "type": kind})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ArtifactError, match=message):
        TextEncoder.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda modules: modules.reverse(), "in this order"),
        (lambda modules: modules.pop(1), "runs Transformer, Normalize; unmask runs"),
        (lambda modules: modules[0].update(path="0_Transformer"), "keeps its model in 0_Transformer"),
        (lambda modules: modules[0].update(name="1"), "two modules of one name"),
        (lambda modules: modules[0].update(novelty=1), "'novelty'"),
    ],
)
def test_the_order_and_places_of_modules_are_checked(folder, change, message):
    modules = json.loads((folder / "modules.json").read_text())
    change(modules)
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ArtifactError, match=message):
        read_layout(folder, 512)


def test_newer_names_of_modules_are_known(folder):
    before = read_layout(folder, 512)
    names = ["base.modules.transformer.Transformer", "sentence_transformer.modules.pooling.Pooling"]
    names.append("base.modules.normalize.Normalize")
    modules = json.loads((folder / "modules.json").read_text())
    for module, name in zip(modules, names, strict=True):
        module["type"] = f"sentence_transformers.{name}"
    modules.append({"idx": 3, "name": "3", "path": "3_Dropout", "type": "sentence_transformers.models.Dropout"})
    (folder / "modules.json").write_text(json.dumps(modules))
    assert read_layout(folder, 512) == before


REFUSED = {
    "two poolings": ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, "cls and mean"),
    "two old ones": ("1_Pooling/config.json", {"pooling_mode": None, "pooling_mode_cls_token": True}, "is not one of"),
    "max": ("1_Pooling/config.json", {"pooling_mode": "max"}, "pooling max"),
    "root": ("1_Pooling/config.json", {"pooling_mode": "mean_sqrt_len_tokens"}, "mean_sqrt_len_tokens"),
    "cls behind a prompt": ("1_Pooling/config.json", {"pooling_mode": "cls", "include_prompt": False}, "first token"),
    "requirements": ("config_sentence_transformers.json", {"requirements": {"torch": ">=99"}}, "needs torch>=99"),
    "reasons": ("config_sentence_transformers.json", {"requirements": {"torch": {"specifier": ">=99"}}}, "torch>=99"),
    "another output": ("sentence_bert_config.json", {"modality_config.text": {**PLAIN, "method": "x"}}, "last hidden"),
    "a layer": (
        "sentence_bert_config.json",
        {"modality_config.text": {**PLAIN, "method_output_name": ["hidden_states", -2]}},
        "last hidden",
    ),
    "images alone": ("sentence_bert_config.json", {"modality_config.image": PLAIN}, "last hidden state of texts"),
    "a shape": ("sentence_bert_config.json", {"modality_config.message": PLAIN}, "format of messages"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_values_that_cannot_be_obeyed_are_named(folder, case):
    name, keys, message = REFUSED[case]
    edit(folder, name, **keys)
    with pytest.raises(ArtifactError, match=message):
        read_layout(folder, 512)


def test_a_template_whose_control_tokens_are_split_is_refused(folder):
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    edit(folder, "sentence_bert_config.json", **{"modality_config.message": {**PLAIN, "format": "flat"}})
    edit(folder, "tokenizer_config.json", split_special_tokens=True)
    with pytest.raises(ArtifactError, match="splits special tokens"):
        TextEncoder.load(folder)


def test_prompts_beside_a_chat_template_are_refused(folder):
    edit(folder, "sentence_bert_config.json", **{"modality_config.message": {**PLAIN, "format": "flat"}})
    edit(folder, "config_sentence_transformers.json", **{"prompts.q": "find: "})
    with pytest.raises(ArtifactError, match="system messages"):
        TextEncoder.load(folder)


def test_a_prompt_that_ends_inside_a_token_is_refused(folder):
    edit(folder, "1_Pooling/config.json", include_prompt=False)
    edit(folder, "config_sentence_transformers.json", **{"prompts.q": "query: "})
    with pytest.raises(ArtifactError, match=r"the prompt 'q' \('query: '\) takes"):
        TextEncoder.load(folder)


@pytest.mark.parametrize("weights", [{"the": 0.5, "<s>": 1e-6}, {"<s>": 1e-6}, {"<s>": 1e-6, "</s>": 1e-6, "<pad>": 0}])
def test_weights_of_words_are_refused(folder, weights):
    weighted(folder)
    edit(folder, "WordWeights/config.json", word_weights=weights)
    with pytest.raises(ArtifactError, match="weights"):
        TextEncoder.load(folder)


def test_a_length_beyond_learned_positions_is_cut_and_said(tiny, tokenizer, tmp_path, caplog):
    TextEncoder(tiny("bert", head=False), tokenizer).save(tmp_path / "folder")
    (tmp_path / "folder" / "unmask.json").unlink()
    edit(tmp_path / "folder", "sentence_bert_config.json", max_seq_length=514)
    assert TextEncoder.load(tmp_path / "folder").settings.max_length == 128
    assert "asks for 514 tokens, but its model learned 128 positions" in caplog.text


def test_the_documentation_has_this_table():
    page = Path(__file__).parents[2] / "docs" / "reading.md"
    assert page.read_text().endswith(markdown()), f"put unmask.encoder.layout_keys.markdown() at the end of {page}"


def test_the_installed_library_has_no_key_that_the_table_lacks():
    from sentence_transformers.models import Normalize, Pooling, Transformer, WordWeights

    for kind in (Transformer, Pooling, Normalize, WordWeights):
        table = TABLES.get(kind.__name__, TABLES["sentence_bert_config.json"])
        own = getattr(kind, "config_keys", []) if isinstance(kind.config_keys, list) else []
        wanted = {*own, *(inspect.signature(kind.__init__).parameters if kind is Transformer else ())}
        known = {*table, *NESTED, "self", "args", "kwargs", "model_name_or_path", "cache_dir"}
        assert wanted <= known, wanted - known


def test_a_recipe_does_not_train_on_texts_that_its_rungs_read_otherwise(folder, tiny, tmp_path):
    tiny("llama").save_pretrained(folder)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS[:1] * 8))
    recipe = load_recipe(
        {
            "name": "t",
            "model": {"name": str(folder), "max_length": 32},
            "data": {"texts": {"files": [str(tmp_path / "texts.txt")]}},
            "stages": [{"objective": "simcse", "data": "texts", "steps": 1, "batch_size": 4, "max_length": 32}],
        }
    )
    check_reading(recipe)
    edit(folder, "sentence_bert_config.json", do_lower_case=True)
    with pytest.raises(RecipeError, match="lowers letters, which training does not"):
        check_reading(recipe)

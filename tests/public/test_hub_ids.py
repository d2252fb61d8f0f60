"""Hub ids, from a hub on this machine into an empty cache: the first load is like every other; adapters are told."""

import json
import shutil

import numpy as np
import pytest

from tests.hub import run_with_hub
from tests.public.test_adapters_of_peft import build_base, trained
from unmask import TextEncoder
from unmask.pooling import POOLINGS
from unmask.settings import EncoderSettings

pytestmark = pytest.mark.slow

TEXTS = ["one", "two  other texts"]
LOAD_TWICE = """
from unmask.backbone.locate import load_tokenizer
from unmask.errors import ArtifactError
for _ in range(2):
    try:
        print("read", load_tokenizer("someone/model")("<s> two  words")["input_ids"])
    except ArtifactError as error:
        print("refused", "remove tokenizer.model" in str(error))
"""
ENCODE = """
import sys
import numpy as np
from unmask import TextEncoder
np.save(sys.argv[1], TextEncoder.load("someone/model", dtype="float32").encode(["one", "two  other texts"]))
"""
POOLING = """
import torch
from unmask import Pooling, register_pooling
class Scaled(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.rand(width))
    def forward(self, states, lengths, pooled, real=None):
        return states[lengths.cumsum(0) - 1] * self.scale
register_pooling("scaled", Pooling(Scaled))
"""
COMMAND = """
import sys
from unmask.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "hub" / "someone").mkdir(parents=True)
    return tmp_path / "hub" / "someone" / "model"


def lines(tmp_path, script):
    done = run_with_hub(tmp_path / "hub", tmp_path / "cache", script)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.data
@pytest.mark.parametrize("stale", [False, True])
def test_the_first_load_compares_with_sentencepiece_as_the_second_does(
    tiny, tokenizer, data_folder, repository, tmp_path, stale
):
    tiny("llama").save_pretrained(repository)
    shutil.copy(data_folder / "tokenizers" / "mistral_v1_sp" / "tokenizer.model", repository)
    if stale:
        tokenizer.save_pretrained(repository)
    first, second = lines(tmp_path, LOAD_TWICE)
    assert first == second
    assert first.startswith("refused True" if stale else "read")


def test_the_first_load_knows_an_encoder_whose_texts_may_spell_tokens(bidirectional, repository, tmp_path):
    bidirectional.save(repository)
    path = repository / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "split_special_tokens": False}))
    first, second = lines(tmp_path, LOAD_TWICE)
    assert first == second
    assert first.startswith("read [1, 1, ")


def from_the_hub(tmp_path, script):
    done = run_with_hub(tmp_path / "hub", tmp_path / "cache", script, tmp_path / "v.npy")
    assert done.returncode == 0, done.stderr
    return np.load(tmp_path / "v.npy")


def test_an_encoder_with_a_learned_pooling_comes_whole(bidirectional, repository, tmp_path):
    exec(POOLING, {})
    try:
        encoder = TextEncoder(bidirectional.model, bidirectional.tokenizer, EncoderSettings(pooling="scaled"))
        encoder.save(repository)
        expected = encoder.encode(TEXTS)
    finally:
        del POOLINGS["scaled"]
    assert abs(from_the_hub(tmp_path, POOLING + ENCODE) - expected).max() < 1e-5


@pytest.mark.data
def test_an_adapter_brings_all_files_of_its_tokenizer(tiny, tokenizer, data_folder, repository, tmp_path):
    base = tmp_path / "base"
    tiny("gpt2", vocab_size=50257).save_pretrained(base)
    tokenizer.save_pretrained(base)
    trained(base, repository, target_modules=["c_attn"])
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(data_folder / "tokenizers" / "gpt2_bpe" / name, repository)
    template = "{% for m in messages %}User: {{ m['content'] }}\n{% endfor %}"
    (repository / "chat_template.jinja").write_text(template)
    expected = TextEncoder.load(repository, chat_template=True, dtype="float32").encode(TEXTS)
    found = from_the_hub(tmp_path, ENCODE.replace("dtype=", "chat_template=True, dtype="))
    assert abs(found - expected).max() < 1e-6


@pytest.mark.parametrize("command", ["convert", "train", "dry run"])
def test_an_adapter_where_a_whole_model_is_needed_is_called_what_it_is(tokenizer, repository, tmp_path, command):
    base = build_base(tmp_path / "base", tokenizer, "llama")
    trained(base, repository, target_modules=["q_proj"])
    (tmp_path / "docs.txt").write_text("one text\n" * 50)
    stage = {"objective": "simcse", "data": "docs", "steps": 1, "batch_size": 4}
    data = {"docs": {"files": [str(tmp_path / "docs.txt")]}}
    recipe = {"name": "t", "model": {"name": "someone/model"}, "data": data, "stages": [stage]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    arguments = ["convert", "someone/model"] if command == "convert" else ["train", tmp_path / "recipe.yaml"]
    arguments += ["--out", tmp_path / "out", *(["--dry-run"] if command == "dry run" else [])]
    done = run_with_hub(tmp_path / "hub", tmp_path / "cache", COMMAND, *arguments)
    assert done.returncode == 2, done.stderr
    assert "someone/model is a LoRA adapter, and a whole model is needed here" in done.stderr
    assert not (tmp_path / "out").exists()

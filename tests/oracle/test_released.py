"""Side by side with the authors' package, `llm2vec==0.2.3` in an environment of its own.

Where it is right, our vectors are its vectors. Where it is wrong, a test shows it wrong and us right.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.engine import LocalEngine
from transformers import CONFIG_MAPPING, AutoModel

from unmask import TextEncoder
from unmask.backbone.forward import token_states
from unmask.backbone.loading import load_model
from unmask.backbone.lora import add_lora
from unmask.backbone.truth.twins import tiny_config, tiny_model
from unmask.backbone.written_weights import refuse_to_transformers_4
from unmask.data.e5 import _HALVES, _WHOLE, read_e5
from unmask.objectives.contrastive import Contrastive
from unmask.objectives.losses import NO_DOCUMENT, ContrastiveBatch, InfoNce, Part

PYTHON = Path(os.environ.get("UNMASK_ORACLE", Path(__file__).parents[2] / ".venv-oracle" / "bin" / "python"))
TEXTS = [
    "A treaty was signed after three days of talks.",
    "Rain.",
    "The museum, closed since the fire of 1911, opens its doors again this autumn with a show of early maps.",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason=f"no environment with llm2vec at {PYTHON} (make oracle)"),
]


def ask(question, **job):
    """The released package's answer."""
    script = Path(__file__).with_name("released.py")
    job = {key: str(value) if isinstance(value, Path) else value for key, value in job.items()}
    command = [str(PYTHON), str(script), question, json.dumps(job)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    answers = [line for line in run.stdout.splitlines() if line.startswith("ANSWER ")]
    assert answers, run.stderr[-2000:]
    return json.loads(answers[0].removeprefix("ANSWER "))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """name -> a tiny random model that both packages read: old rope and tokenizer keys stand beside the new."""

    def build(name):
        place = tmp_path_factory.mktemp(name)
        sizes = {
            "vocab_size": len(tokenizer) + 64,
            "max_position_embeddings": 1024,
            "hidden_size": 64,
            "head_dim": 16,
        }  # Qwen2 adds a token
        sizes["initializer_range"] = 0.2  # so that attention moves the states by more than rounding
        sizes = {key: value for key, value in sizes.items() if hasattr(CONFIG_MAPPING[name](), key)}
        special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "sliding_window": None}
        config = tiny_config(CONFIG_MAPPING[name](), **sizes, **special)
        tiny_model(config, head=True).save_pretrained(place)
        tokenizer.save_pretrained(place)
        _add(place / "config.json", {"rope_theta": 10000.0, "rope_scaling": None, "torch_dtype": "float32"})
        _add(place / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
        model = json.loads((place / "tokenizer.json").read_text())["model"]
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        _add(place / "tokenizer.json", {"model": {**model, "merges": merges}})
        return place

    return build


def _add(path, values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _old_adapter_config(path, base):
    """The keys that peft of that time knows."""
    names = ("peft_type", "r", "lora_alpha", "lora_dropout", "bias", "fan_in_fan_out", "target_modules")
    config = json.loads(path.read_text())
    path.write_text(json.dumps({name: config[name] for name in names} | {"base_model_name_or_path": str(base)}))


def cosine(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma"])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_same_vectors(folder, name, pooling):
    place = folder(name)
    theirs = ask("encode", model=place, texts=TEXTS, pooling={"last": "last_token"}.get(pooling, pooling))
    options = {"pooling": pooling, "include_special_tokens": False, "dtype": "float32"}
    encoder = TextEncoder.load(place, attention="bidirectional", **options)
    assert cosine(encoder.encode(TEXTS), theirs).min() > 0.99999
    causal = TextEncoder.load(place, attention="causal", **options)
    assert cosine(causal.encode(TEXTS), theirs).min() < 0.99


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma"])
@pytest.mark.parametrize("merge", [True, False])
def test_same_vectors_with_lora(folder, name, merge, tmp_path):
    place = folder(name)
    wrapped = add_lora(load_model(str(place), head=False, dtype="float32"), rank=4, alpha=8, dropout=0.0)
    torch.manual_seed(0)
    for key, parameter in wrapped.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(parameter, std=0.1)
    wrapped.save_pretrained(str(tmp_path))
    _old_adapter_config(tmp_path / "adapter_config.json", place)
    (tmp_path / "llm2vec_config.json").write_text(json.dumps({"pooling_mode": "mean", "max_length": 512}))
    theirs = ask("encode", model=place, adapter=tmp_path, merge=merge, texts=TEXTS)
    encoder = TextEncoder.load(place, adapters=[tmp_path], merge=merge, dtype="float32")
    assert cosine(encoder.encode(TEXTS), theirs).min() > 0.99999
    bare = TextEncoder.load(place, attention="bidirectional", dtype="float32")
    assert cosine(bare.encode(TEXTS), theirs).max() < 0.999


def test_fault_its_simcse_pools_padding_and_ours_does_not(folder):
    place = folder("llama")
    texts = [TEXTS[1], TEXTS[2]]
    theirs = ask("simcse_views", model=place, texts=texts)
    assert cosine(theirs["alone"], theirs["beside"]) < 0.99
    encoder = TextEncoder.load(place, attention="bidirectional", dtype="float32")
    for side in ("left", "right"):  # as the SimCSE stage batches its views
        encoder.padding_free, encoder.padding_side = False, side
        batch = encoder.pad(encoder.tokenize(texts))
        alone = encoder.pad(encoder.tokenize(texts[:1]))
        vectors = [encoder.module(part)[0].detach().numpy() for part in (batch, alone)]
        assert cosine(*vectors) > 0.99999


def test_fault_a_truncated_text_pools_its_instruction_and_ours_does_not(folder):
    place = folder("llama")
    instruction, text = "Find a passage that says the same:", "word and thing " * 300
    theirs = ask("pooled_tokens", model=place, instruction=instruction, text=text, max_length=512)
    assert len(theirs["ids"]) == 512
    assert all(theirs["pooled"])  # BOS and instruction among them
    encoder = TextEncoder.load(place, attention="bidirectional", max_length=512)
    (ours,) = encoder.tokenize([text], prompt=instruction + " ")
    before = len(encoder.tokenizer(instruction)["input_ids"])
    assert len(ours) == 512
    assert not ours.pooled[:before].any()
    assert ours.pooled[before:].all()


def test_fault_its_qwen2_is_causal_and_ours_is_not(folder):
    place = folder("qwen2")
    ids = torch.arange(100, 110)[None]
    assert ask("first_token_moves", model=place, ids=ids.tolist()) == 0.0
    encoder = TextEncoder.load(place, attention="bidirectional", dtype="float32")
    other = ids.clone()
    other[0, -1] += 1
    with torch.no_grad():
        moved = token_states(encoder.model, ids)[0, 0] - token_states(encoder.model, other)[0, 0]
    assert moved.abs().max() > 1e-3
    assert ask("first_token_moves", model=folder("llama"), ids=ids.tolist()) > 1e-3


def test_the_supervised_loss_and_its_gradients_are_theirs():
    generator = torch.Generator().manual_seed(0)
    columns = [torch.randn(size, 8, generator=generator) for size in (6, 6, 6)]
    theirs = ask("contrastive_loss", columns=[column.tolist() for column in columns], scale=50.0)
    vectors = torch.cat(columns).requires_grad_()
    rows = torch.arange(18)
    batch = ContrastiveBatch([Part(0, slice(None), rows)], 6, rows, torch.full_like(rows, NO_DOCUMENT), rows % 6, rows)
    out = Contrastive(InfoNce(scale=50.0)).step(lambda part: vectors[part], batch, LocalEngine())
    assert out.loss == pytest.approx(theirs["loss"], rel=1e-5)
    torch.testing.assert_close(vectors.grad, torch.tensor(theirs["gradients"]).flatten(0, 1), rtol=1e-3, atol=1e-6)


def test_fault_symmetric_sets_of_e5_have_their_instruction_on_one_side_only(tmp_path):
    """Queries read the same in both; by the paper, documents of NLI's second half and of Quora are instructed too."""
    for name in set(_WHOLE) | {file for file, _, _ in _HALVES}:
        rows = [{"query": f"{name} {i}", "positive": f"{name} p{i}", "negative": "n"} for i in range(2)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    theirs = {tuple(row) for row in ask("e5_samples", folder=tmp_path)}
    ours, symmetric = set(), set()
    for one in read_e5(tmp_path):
        for pair in one.take(range(len(one))):
            texts = (one.query_prompt + pair.query, one.document_prompt + pair.positive)
            ours.add(texts)
            if one.document_prompt:
                symmetric.add(texts)
    assert {query for query, _ in theirs} == {query for query, _ in ours}
    assert theirs & symmetric == set()
    assert theirs - ours == {(query, positive.partition("; ")[2]) for query, positive in symmetric}
    assert len(symmetric) == 3


def test_its_transformers_does_not_open_weights_that_it_would_read_as_causal(tiny, tmp_path):
    model = tiny("llama", head=False)
    for name, size in (("plain", "50GB"), ("marked", "50GB"), ("shards", "20KB")):
        model.save_pretrained(tmp_path / name, max_shard_size=size)
    for name in ("marked", "shards"):
        refuse_to_transformers_4(tmp_path / name)
        again = AutoModel.from_pretrained(tmp_path / name).state_dict()
        assert all(torch.equal(weight, again[key]) for key, weight in model.state_dict().items())
    script = """
import sys
from transformers import AutoModel
for folder in sys.argv[1:]:
    try:
        AutoModel.from_pretrained(folder)
        print("opened")
    except Exception as error:
        print(error)
"""
    command = [str(PYTHON), "-c", script, *(str(tmp_path / name) for name in ("plain", "marked", "shards"))]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    plain, marked, shards = run.stdout.strip().splitlines()
    assert plain == "opened"
    assert marked.endswith("but v5")
    assert "does not contain the valid metadata" in shards

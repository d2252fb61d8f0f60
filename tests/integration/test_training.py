"""Stages on the pocket decoder: what they change, what they leave, and when they refuse."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen3_5TextConfig

from unmask import (
    ConversionError,
    DataError,
    RecipeError,
    TextEncoder,
    TrainingError,
    UnmaskError,
    threads,
    verify,
)
from unmask.backbone.truth.twins import tiny_config, tiny_model
from unmask.runs.recipe import load_recipe
from unmask.runs.run import train
from unmask.training.monitor import read_metrics


@pytest.fixture
def make(tmp_path, articles):
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in articles))

    def build(*stages, **model):
        defaults = {"data": "docs", "steps": 4, "micro_batch_tokens": 512, "log_every": 1}
        sizes = {
            "mntp": {"batch_tokens": 512, "block_size": 64, "lr": 1e-3},
            "simcse": {"batch_size": 8, "max_length": 32, "lr": 1e-3},
        }
        return load_recipe(
            {
                "name": "t",
                "precision": "fp32",
                "model": {"name": "pocket", "dtype": "float32", **model},
                "data": {"docs": {"files": [str(path)]}},
                "stages": [{**defaults, **sizes[stage["objective"]], **stage} for stage in stages],
            }
        )

    return build


def weights(folder):
    return load_file(folder / "model.safetensors")


def nothing(_):
    return {}


def test_full_mntp_changes_all_but_the_tied_head(make, tmp_path):
    train(make({"objective": "mntp", "tuning": "full"}), tmp_path / "run", evaluate=nothing)
    before = TextEncoder.load("pocket", dtype="float32").model.state_dict()
    after = weights(tmp_path / "run" / "encoder")
    assert torch.equal(after["embed_tokens.weight"], before["embed_tokens.weight"])
    changed = [name for name in after if not torch.equal(after[name], before[name])]
    assert len(changed) == len(after) - 1


def test_lora_is_merged_into_plain_weights_and_kept_beside_them(make, tmp_path):
    recipe = make({"objective": "mntp", "steps": 6}, {"objective": "simcse", "steps": 6})
    result = train(recipe, tmp_path / "run", evaluate=nothing)
    after = weights(result.encoder)
    assert not any("lora" in name for name in after)
    assert [rung.name for rung in result.rungs] == ["Uni", "Bi", "Bi+MNTP", "Bi+MNTP+SimCSE"]
    for stage in ("1-mntp", "2-simcse"):
        adapter = tmp_path / "run" / "stages" / stage / "adapter"
        assert (adapter / "adapter_model.safetensors").is_file()
        assert json.loads((adapter / "unmask.json").read_text())["attention"] == "bidirectional"
    before = TextEncoder.load("pocket", dtype="float32").model.state_dict()
    name = "layers.0.mlp.up_proj.weight"
    middle = weights(tmp_path / "run" / "stages" / "1-mntp" / "encoder")
    delta = load_file(tmp_path / "run" / "stages" / "2-simcse" / "adapter" / "adapter_model.safetensors")
    a, b = (delta[f"base_model.model.layers.0.mlp.up_proj.lora_{x}.weight"] for x in "AB")
    torch.testing.assert_close(after[name], middle[name] + 2.0 * b @ a, rtol=1e-5, atol=1e-6)
    assert not torch.equal(middle[name], before[name])
    lineage = json.loads((tmp_path / "run" / "lineage.json").read_text())
    assert [stage["name"] for stage in lineage["stages"]] == ["mntp", "simcse"]
    assert len(lineage["base_weights"][0]["sha256"]) == 64
    assert json.loads((result.encoder / "unmask.json").read_text())["lineage"] == lineage


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_losses_fall(make, tmp_path, precision):
    recipe = make(
        {
            "objective": "mntp",
            "tuning": "full",
            "steps": 12,
            "held_out": "docs",
            "eval_every": 12,
            "held_out_blocks": 8,
        }
    )
    train(recipe.model_copy(update={"precision": precision}), tmp_path / "run", evaluate=nothing)
    rows = read_metrics(tmp_path / "run" / "stages" / "1-mntp" / "metrics.jsonl")
    held_out = [row["masked_loss"] for row in rows if "masked_loss" in row]
    assert held_out[-1] < held_out[0] - 0.3
    assert list((tmp_path / "run" / "stages" / "1-mntp" / "logs").rglob("events.*"))


def test_gradient_checkpointing_changes_nothing(make, tmp_path):
    found = []
    for on in (False, True, "products"):
        recipe = make({"objective": "mntp", "tuning": "full", "gradient_checkpointing": on, "future_steps": 2})
        found.append(weights(train(recipe, tmp_path / str(on), evaluate=nothing).encoder))
    for name, value in found[0].items():
        for again in found[1:]:
            torch.testing.assert_close(again[name], value, rtol=1e-4, atol=1e-5)


def test_a_loss_that_is_not_finite_stops_before_the_update(make, tmp_path, monkeypatch):
    from unmask.objectives.contrastive import Contrastive

    plain, calls = Contrastive.step, []

    def third_is_nan(self, *args):
        out = plain(self, *args)
        calls.append(1)
        return replace(out, loss=float("nan")) if len(calls) == 3 else out

    monkeypatch.setattr(Contrastive, "step", third_is_nan)
    with pytest.raises(TrainingError, match=r"simcse: loss nan .* at step 3; stopped before the update"):
        train(make({"objective": "simcse", "save_every": 1}), tmp_path / "run", evaluate=nothing)
    saved = tmp_path / "run" / "stages" / "1-simcse" / "checkpoints" / "step-00000002" / "weights.safetensors"
    assert all(bool(torch.isfinite(value).all()) for value in load_file(saved).values())


def test_a_family_without_attention_dropout_is_an_error_not_silence(make, tiny, tokenizer, tmp_path, monkeypatch):
    from unmask.backbone import dropout

    monkeypatch.setattr(dropout, "DROPOUT_KEYS", ())
    with pytest.raises(RecipeError, match="applies no attention dropout"):
        train(make({"objective": "simcse"}), tmp_path / "run", evaluate=nothing)


def test_another_family_goes_through_the_whole_ladder(make, tiny, tokenizer, tmp_path):
    tiny("qwen3").save_pretrained(tmp_path / "qwen3")
    tokenizer.save_pretrained(tmp_path / "qwen3")
    recipe = make({"objective": "mntp"}, {"objective": "simcse"}, name=str(tmp_path / "qwen3"), max_length=64)
    result = train(recipe, tmp_path / "run", evaluate=nothing)
    assert TextEncoder.load(result.encoder).encode("Hello").shape == (32,)


def test_stages_follow_each_other_in_any_order(make, tmp_path):
    recipe = make({"objective": "simcse"}, {"objective": "mntp"}, {"objective": "mntp", "name": "again"})
    result = train(recipe, tmp_path / "run", evaluate=nothing)
    assert [rung.name for rung in result.rungs][2:] == ["Bi+SimCSE", "Bi+SimCSE+MNTP", "Bi+SimCSE+MNTP+again"]
    first, last = (weights(tmp_path / "run" / "stages" / stage / "encoder") for stage in ("2-mntp", "3-again"))
    assert not torch.equal(first["layers.0.mlp.up_proj.weight"], last["layers.0.mlp.up_proj.weight"])


def test_a_run_that_cannot_start_leaves_nothing_behind(make, tmp_path):
    out = tmp_path / "run"
    bad = [
        (make({"objective": "mntp", "mask_token": "more than one token"}), "must be one known token"),
        (make({"objective": "mntp", "lora": {"targets": ["nowhere"]}}), "fit no layer"),
        (make({"objective": "mntp"}, name="./nowhere"), "No folder"),
        (make({"objective": "simcse", "batch_size": 4000}), "fewer than one batch"),
    ]
    for recipe, message in bad:
        with pytest.raises(UnmaskError, match=message):
            train(recipe, out, evaluate=nothing)
        assert not out.exists()
    (tmp_path / "docs.jsonl").write_text('{"text": "fine"}\n{"text" broken\n')
    with pytest.raises(DataError, match=r"docs.jsonl:2: broken JSON"):
        train(make({"objective": "mntp"}), out, evaluate=nothing)
    assert not out.exists()


def test_a_recipe_without_stages_gives_the_converted_encoder(make, tmp_path):
    result = train(make(max_length=77, prompts={"query": "Find:"}), tmp_path / "run", evaluate=nothing)
    encoder = TextEncoder.load(result.encoder)
    assert (encoder.settings.max_length, encoder.settings.prompts) == (77, {"query": "Find:"})
    assert encoder.lineage["base"] == "pocket"


def test_causal_training_leaves_a_causal_encoder(make, tmp_path):
    from unmask.backbone.truth.verify import first_sees_last

    recipe = make({"objective": "simcse"}, attention="causal")
    result = train(recipe, tmp_path / "run", evaluate=nothing)
    assert [rung.name for rung in result.rungs] == ["Uni", "Uni+SimCSE"]
    assert not first_sees_last(TextEncoder.load(result.encoder).model)


def test_a_hybrid_trains_through_both_stages_and_its_adapters_remember(make, tmp_path, tokenizer):
    base = str(tmp_path / "hybrid")
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = tiny_config(Qwen3_5TextConfig(), vocab_size=len(tokenizer), **special)
    tiny_model(config, head=True).save_pretrained(base)
    tokenizer.save_pretrained(base)
    stages = ({"objective": "mntp"}, {"objective": "simcse", "attention_dropout": 0, "hidden_dropout": 0.1})
    with pytest.raises(ConversionError, match="qwen3_5_text has 3 modules that read left to right"):
        train(make(*stages, name=base), tmp_path / "refused", evaluate=nothing)
    assert not (tmp_path / "refused").exists()
    result = train(make(*stages, name=base, recurrent="two-way"), tmp_path / "run", evaluate=nothing)
    encoder = TextEncoder.load(result.encoder)
    assert verify(encoder.model).bidirectional
    adapters = [tmp_path / "run" / "stages" / stage / "adapter" for stage in ("1-mntp", "2-simcse")]
    assert json.loads((adapters[0] / "unmask.json").read_text())["recurrent"] == "two-way"
    texts = ["one text", "another that is longer"]
    apart = TextEncoder.load(base, adapters=adapters, merge=False)
    assert abs(apart.encode(texts) - encoder.encode(texts)).max() < 1e-5
    alone = TextEncoder.load(adapters[1])  # on the encoder of the stage before
    assert abs(alone.encode(texts) - encoder.encode(texts)).max() < 1e-5


@pytest.mark.skipif(torch.cuda.is_available(), reason="threads hardly wait where a GPU works")
def test_a_run_looks_for_busy_processes_where_threads_spin(make, tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "_too_late", True)
    monkeypatch.setattr(threads, "_last", None)
    train(make({"objective": "mntp", "steps": 1}), tmp_path / "run", evaluate=nothing)
    assert threads._last is not None or sys.platform != "linux"

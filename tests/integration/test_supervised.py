"""The supervised stage, what it starts from, merging and averaging, on the pocket decoder."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen3Config

from unmask import DataError, RecipeError, TextEncoder, TrainingError, UnmaskError
from unmask.backbone.truth.twins import tiny_config, tiny_model
from unmask.objectives.contrastive import Contrastive
from unmask.runs.recipe import load_recipe
from unmask.runs.run import train
from unmask.runs.rungs import checkpoints, open_run
from unmask.training.monitor import read_metrics


@pytest.fixture
def make(tmp_path, articles):
    """Stages on sentences, pairs whose documents are told, and triples."""
    sentences = [s for text in articles for s in text.split(". ") if 30 < len(s) < 200]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in articles))
    (tmp_path / "sentences.txt").write_text("\n".join(sentences))
    rows = [{"query": a, "positive": b, "doc": i // 3} for i, (a, b) in enumerate(itertools.pairwise(sentences))]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [
        {"anchor": a, "pos": a.lower(), "neg": [b, c]}
        for a, b, c in zip(*(sentences[i : 40 + i] for i in range(3)), strict=True)
    ]
    (tmp_path / "triples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = {
        "mntp": {"data": "docs", "batch_tokens": 512, "block_size": 64},
        "simcse": {"data": "sentences", "batch_size": 8, "max_length": 32},
        "supervised": {"data": ["pairs", "triples"], "batch_size": 8, "max_length": 48},
    }
    shared = {"steps": 4, "micro_batch_tokens": 512, "log_every": 1, "lr": 1e-3, "warmup_steps": 0}

    def build(*stages, **model):
        filled = [{**shared, **sizes[s["objective"]], **s} if s["objective"] in sizes else s for s in stages]
        return load_recipe(
            {
                "name": "t",
                "precision": "fp32",
                "model": {"name": "pocket", "dtype": "float32", **model},
                "data": {
                    "docs": {"files": [str(tmp_path / "docs.jsonl")]},
                    "sentences": {"files": [str(tmp_path / "sentences.txt")]},
                    "pairs": {"kind": "pairs", "files": [str(tmp_path / "pairs.jsonl")], "instruction": "Next: "},
                    "triples": {
                        "kind": "pairs",
                        "files": [str(tmp_path / "triples.jsonl")],
                        "instruction": "Same: ",
                        "symmetric": True,
                    },
                },
                "stages": filled,
            }
        )

    return build


def nothing(_):
    return {}


def weights(folder):
    return load_file(folder / "model.safetensors")


def losses(run, stage):
    return [row["loss"] for row in read_metrics(run / "stages" / stage / "metrics.jsonl")]


class Watch:
    """Looks at the batches that training makes."""

    def __init__(self, monkeypatch):
        self.batches = []
        plain = Contrastive.step

        def step(objective, model, batch, engine):
            self.batches.append(batch)
            return plain(objective, model, batch, engine)

        monkeypatch.setattr(Contrastive, "step", step)


def test_each_step_is_of_one_set_with_its_negatives_instructions_and_documents(make, tmp_path, monkeypatch):
    watch = Watch(monkeypatch)
    result = train(make({"objective": "supervised", "steps": 12}), tmp_path / "run", evaluate=nothing)
    tokenizer = TextEncoder.load(result.encoder).tokenizer
    kinds = set()
    for batch in watch.batches:
        ids = [row for part in batch.parts for row in part.batch.input_ids[0].split(part.batch.lengths)]
        rows = torch.cat([part.rows for part in batch.parts])
        read = dict(zip(rows.tolist(), ids, strict=True))  # what is equal, once
        texts = [tokenizer.decode(read[int(row)], skip_special_tokens=True) for row in batch.sources]
        assert all(text.startswith(texts[0][:5]) for text in texts[:8])
        if texts[0].startswith("Next: "):
            kinds.add("pairs")
            assert len(texts) == 16
            assert not any(text.startswith("Next: ") for text in texts[8:])
            assert (batch.documents >= 0).all()
            assert torch.equal(batch.documents[:8], batch.documents[8:])  # a query has its positive's
        else:
            kinds.add("triples")
            assert len(texts) == 8 * 4  # two hard negatives each
            assert all(text.startswith("Same: ") for text in texts)
            assert (batch.documents == -1).all()
            assert batch.owners[16:].tolist() == [i // 2 for i in range(16)]
    assert kinds == {"pairs", "triples"}
    for part in watch.batches[0].parts:
        for row, pooled in zip(part.rows, part.batch.pooled.split(part.batch.lengths), strict=True):
            assert row >= 8 or not pooled[:3].any()  # neither special tokens nor instruction
    assert all(math.isfinite(loss) for loss in losses(tmp_path / "run", "1-supervised"))
    assert [rung.name for rung in result.rungs] == ["Uni", "Bi", "Bi+Supervised"]


def test_the_loss_falls_and_grad_cache_ends_with_the_same_weights(make, tmp_path):
    found = []
    for cached in (False, True):
        stage = {
            "objective": "supervised",
            "steps": 10,
            "data": "triples",
            "grad_cache": cached,
            "matryoshka": [64, 128],
        }
        out = tmp_path / str(cached)
        found.append(weights(train(make({**stage, "micro_batch_tokens": 256}), out, evaluate=nothing).encoder))
    assert losses(out, "1-supervised")[-1] < 0.5 * losses(out, "1-supervised")[0]
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=2e-5)


def test_fewer_hard_negatives_take_turns(make, tmp_path, monkeypatch):
    watch = Watch(monkeypatch)
    train(
        make({"objective": "supervised", "steps": 6, "data": "triples", "hard_negatives": 1}),
        tmp_path / "one",
        evaluate=nothing,
    )
    assert {len(batch.texts) for batch in watch.batches} == {24}
    watch.batches.clear()
    train(
        make({"objective": "supervised", "data": "triples", "hard_negatives": 0}), tmp_path / "none", evaluate=nothing
    )
    assert {len(batch.texts) for batch in watch.batches} == {16}


def test_a_teacher_is_followed(make, tmp_path):
    stage = {"objective": "supervised", "data": "triples", "steps": 10}
    train(make({**stage, "teacher": {"name": "pocket", "weight": 2.0}}), tmp_path / "run", evaluate=nothing)
    rows = read_metrics(tmp_path / "run" / "stages" / "1-supervised" / "metrics.jsonl")
    assert rows[-1]["teacher_distance"] < rows[0]["teacher_distance"]


def test_supervised_lora_goes_on_where_simcse_stopped(make, tmp_path):
    """As the paper trains: MNTP merged into the base, SimCSE's LoRA the start of the supervised one."""
    last = {"objective": "supervised", "lr": 1e-6}
    stages = [{"objective": "mntp"}, {"objective": "simcse"}, {**last, "lora": {"start": "previous"}}]
    result = train(make(*stages), tmp_path / "run", evaluate=nothing)
    folders = [tmp_path / "run" / "stages" / name for name in ("1-mntp", "2-simcse", "3-supervised")]
    simcse, supervised = (load_file(f / "adapter" / "adapter_model.safetensors") for f in folders[1:])
    name = "base_model.model.layers.0.mlp.up_proj.lora_B.weight"  # zero in a fresh adapter
    fresh = make(*stages[:2], last)
    train(fresh, tmp_path / "fresh", evaluate=nothing)
    other = load_file(tmp_path / "fresh" / "stages" / "3-supervised" / "adapter" / "adapter_model.safetensors")
    assert float(simcse[name].abs().max()) > 1e-3
    torch.testing.assert_close(supervised[name], simcse[name], rtol=0, atol=1e-5)  # four very small steps away
    assert float(other[name].abs().max()) < 1e-5
    # What is saved is MNTP's weights and the one adapter that both stages trained.
    apart = TextEncoder.load(folders[0] / "encoder", adapters=[folders[2] / "adapter"], dtype="float32")
    texts = ["one text", "another that is longer"]
    np.testing.assert_allclose(apart.encode(texts), TextEncoder.load(result.encoder).encode(texts), atol=1e-5)
    recipe, _ = open_run(tmp_path / "run")
    *_, (place, step, last) = checkpoints(recipe, tmp_path / "run")
    assert (place.name, step) == ("Bi+MNTP+SimCSE+Supervised", 4)
    np.testing.assert_allclose(last.encode(texts), apart.encode(texts), atol=1e-5)
    lineage = json.loads((tmp_path / "run" / "lineage.json").read_text())
    assert [stage["name"] for stage in lineage["stages"]] == ["mntp", "simcse", "supervised"]
    assert set(lineage["stages"][2]["data"]) == {"pairs", "triples"}


@pytest.mark.parametrize("tuning", ["dora", "full"])
def test_other_ways_to_tune_end_in_plain_weights_too(make, tmp_path, tuning):
    result = train(make({"objective": "supervised", "tuning": tuning}), tmp_path / "run", evaluate=nothing)
    before = TextEncoder.load("pocket", dtype="float32").model.state_dict()
    after = weights(result.encoder)
    assert set(after) == set(before)
    assert not torch.equal(after["layers.0.mlp.up_proj.weight"], before["layers.0.mlp.up_proj.weight"])


def test_qlora_is_merged_into_the_weights_that_are_not_quantised(make, tmp_path, tokenizer):
    base = str(tmp_path / "base")  # sizes that the four-bit kernels take
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    tiny_model(tiny_config(Qwen3Config(), vocab_size=len(tokenizer), **special), head=True).save_pretrained(base)
    tokenizer.save_pretrained(base)
    stages = [{"objective": "mntp", "tuning": "qlora"}, {"objective": "supervised", "tuning": "qlora"}]
    result = train(make(*stages, name=base, max_length=64), tmp_path / "run", evaluate=nothing)
    before, after = TextEncoder.load(base, dtype="float32").model.state_dict(), weights(result.encoder)
    assert set(after) == set(before)
    assert all(value.dtype == torch.float32 for value in after.values())
    name = "layers.0.mlp.up_proj.weight"
    sizes = torch.linalg.svdvals(after[name] - before[name])  # two adapters of rank 16, and no rounding to four bits
    assert sizes[0] > 1e-3
    assert sizes[32] < 1e-4 * sizes[0]
    for stage in ("1-mntp", "2-supervised"):
        assert all(math.isfinite(loss) for loss in losses(tmp_path / "run", stage))


def test_merging_with_the_base_and_averaging_checkpoints_are_stages(make, tmp_path):
    stages = [
        {"objective": "simcse", "save_every": 1, "keep_checkpoints": 3, "lr": 1e-2},
        {"objective": "average", "checkpoints": 2},
        {"objective": "merge", "base_share": 0.25},
    ]
    result = train(make(*stages), tmp_path / "run", evaluate=nothing)
    assert [rung.name for rung in result.rungs][2:] == [
        "Bi+SimCSE",
        "Bi+SimCSE+averaged",
        "Bi+SimCSE+averaged+merged",
    ]
    recipe, _ = open_run(tmp_path / "run")
    name = "layers.0.mlp.up_proj.weight"
    kept = [dict(encoder.model.named_parameters())[name] for _, _, encoder in checkpoints(recipe, tmp_path / "run")]
    assert len(kept) == 3
    averaged = weights(tmp_path / "run" / "stages" / "2-average" / "encoder")[name]
    torch.testing.assert_close(averaged, (kept[1] + kept[2]).detach() / 2, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(averaged, kept[2])
    base = TextEncoder.load("pocket", dtype="float32").model.state_dict()[name]
    torch.testing.assert_close(weights(result.encoder)[name], 0.75 * averaged + 0.25 * base, rtol=1e-5, atol=1e-6)
    again = train(make(*stages), tmp_path / "run", evaluate=nothing)
    assert again.encoder == result.encoder


def test_what_cannot_start_is_said_before_any_weight_is_loaded(make, tmp_path, monkeypatch):
    monkeypatch.setattr("unmask.training.building.load_model", lambda *_, **__: pytest.fail("weights were loaded"))
    bad = [
        (make({"objective": "supervised", "batch_size": 4000}), DataError, "fewer than one batch of 4000"),
        (
            make({"objective": "supervised", "batch_size": 41}),
            DataError,
            "rows of triples are fewer than one batch of 41",
        ),
    ]
    for recipe, kind, message in bad:
        with pytest.raises(kind, match=message):
            train(recipe, tmp_path / "run", evaluate=nothing)
        assert not (tmp_path / "run").exists()
    supervised = {"objective": "supervised"}
    for stage, message in [
        ({**supervised, "matryoshka": [999]}, "must lie between 0 and the vectors' width"),
        ({**supervised, "lora": {"targets": ["nowhere"]}}, "fit no layer"),
        ({**supervised, "teacher": {"name": "./nowhere"}}, "No folder './nowhere'"),
    ]:
        with pytest.raises(UnmaskError, match=message):
            train(make({"objective": "mntp"}, stage), tmp_path / "run", evaluate=nothing)
    with (tmp_path / "triples.jsonl").open("a") as file:
        file.write('{"anchor": "a", "neg": "b"}\n')
    with pytest.raises(DataError, match=r"triples.jsonl:41: no positive"):
        train(make({"objective": "supervised"}), tmp_path / "run", evaluate=nothing)
    (tmp_path / "triples.jsonl").unlink()
    with pytest.raises(RecipeError, match=r"data.triples: no file .*triples.jsonl"):
        train(make({"objective": "supervised"}), tmp_path / "run", evaluate=nothing)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, r"stage 3 .*accelerate/fsdp2"),
        (
            {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": "z.json"},
            "a file of DeepSpeed's own",
        ),
        (
            {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"},
            "offloading is not supported",
        ),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_ACTIVATION_CHECKPOINTING": "true"}, "gradient_checkpointing: true"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "FSDP of version 1 is not supported"),
    ],
)
def test_what_a_launcher_may_not_ask_for_is_refused_by_name(make, tmp_path, monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match=message):
        train(make({"objective": "supervised"}), tmp_path / "run", evaluate=nothing)


def test_widths_that_the_vectors_have_not_are_refused(make, tmp_path):
    with pytest.raises(UnmaskError, match=r"matryoshka: \[64, 256\] must lie between 0 and the vectors' width, 256"):
        train(make({"objective": "supervised", "matryoshka": [64, 256]}), tmp_path / "run", evaluate=nothing)


def test_a_loss_that_is_not_finite_names_stage_and_step(make, tmp_path):
    with pytest.raises(TrainingError, match=r"supervised: loss .* at step \d+; stopped before the update"):
        train(
            make({"objective": "supervised", "tuning": "full", "lr": 1e30, "clip_norm": 1e30}),
            tmp_path / "run",
            evaluate=nothing,
        )


def test_a_recipe_without_tasks_opens_no_rung(make, tmp_path, monkeypatch):
    monkeypatch.setattr("unmask.runs.run.open_rung", lambda *_: pytest.fail("a rung was opened"))
    result = train(make({"objective": "supervised"}), tmp_path / "run")
    assert [rung.figures for rung in result.rungs] == [{}, {}, {}]
    assert TextEncoder.load(result.encoder).dimension == 256

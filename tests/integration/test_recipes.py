"""Every recipe that comes with the package: it resolves, and it runs, with the model swapped for a tiny one."""

import json
import math
from importlib.util import find_spec
from pathlib import Path

import pytest
import transformers
import yaml

from unmask.backbone.truth.twins import tiny_config, tiny_model
from unmask.cli.main import main
from unmask.data.e5 import _HALVES, _WHOLE
from unmask.errors import RecipeError
from unmask.runs.raw import composed, read_raw, shipped
from unmask.runs.recipe import load_recipe
from unmask.runs.run import train
from unmask.runs.schema import E5Source, PairSource
from unmask.training.base_settings import TrainedStage
from unmask.training.config import ContrastiveSettings, MntpSettings
from unmask.training.monitor import read_metrics

# What architecture each hub id stands for; the hub is not asked.
FAMILIES = {
    "princeton-nlp/Sheared-LLaMA-1.3B": "llama",
    "meta-llama/Llama-2-7b-chat-hf": "llama",
    "mistralai/Mistral-7B-Instruct-v0.2": "mistral",
    "meta-llama/Meta-Llama-3-8B-Instruct": "llama",
    "HuggingFaceTB/SmolLM2-135M": "llama",
    "Qwen/Qwen3-0.6B-Base": "qwen3",
    "meta-llama/Llama-3.2-1B": "llama",
    "google/gemma-3-1b-pt": "gemma3_text",
    "Qwen/Qwen3.5-0.8B-Base": "qwen3_5_text",
    "microsoft/Phi-4-mini-instruct": "phi3",
    "pocket": "llama",
    "smollm2": "llama",
}
NAMES = [f"{name}:{variant}" if variant else name for name in shipped() for variant in ("", *composed(name)[1])]
TEMPLATE = "{{ bos_token }}{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}"


@pytest.fixture(scope="session")
def models(tmp_path_factory, tokenizer):
    """family -> folder of a tiny model of it."""
    made = {}

    def build(family):
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
            config = transformers.AutoConfig.for_model(family)
            tiny_model(tiny_config(config, vocab_size=len(tokenizer), **special), head=True).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            settings = json.loads((folder / "tokenizer_config.json").read_text())
            (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))
            made[family] = str(folder)
        return made[family]

    return build


@pytest.fixture(scope="session")
def files(tmp_path_factory, articles):
    """Local data of each kind."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "texts.txt").write_text("\n".join(articles))
    sentences = [s for text in articles for s in text.split(". ") if len(s) > 30][:48]
    triples = zip(sentences, sentences[1:], sentences[2:], strict=False)
    rows = [json.dumps({"query": a, "positive": b, "negative": c}) + "\n" for a, b, c in triples]
    (folder / "pairs.jsonl").write_text("".join(rows))
    (folder / "e5").mkdir()
    for name in set(_WHOLE) | {file for file, _, _ in _HALVES}:
        (folder / "e5" / f"{name}.jsonl").write_text("".join(rows))
    return folder


def swap(name, models, files):
    """The recipe with a tiny model of its family, local data and three small steps a stage."""
    recipe = load_recipe(name)
    changes = [f"model.name={models(FAMILIES[recipe.model.name])}", "model.dtype=float32", "precision=fp32"]
    changes += ["model.max_length=64", "evaluation={}"]
    for key, source in recipe.data.items():
        if isinstance(source, E5Source):
            changes.append(f"data.{key}.folder={files / 'e5'}")
        else:
            local = "pairs.jsonl" if isinstance(source, PairSource) else "texts.txt"
            changes.append(f"data.{key}.files=[{files / local}]")
    for number, stage in enumerate(recipe.stages):
        if isinstance(stage, TrainedStage):
            sizes = {"steps": 3, "warmup_steps": 1, "micro_batch_tokens": 512, "log_every": 1}
            sizes |= {"tuning": "lora"} if stage.tuning == "qlora" and find_spec("bitsandbytes") is None else {}
            if isinstance(stage, ContrastiveSettings):
                sizes |= {"batch_size": 8, "max_length": 64}
            if isinstance(stage, MntpSettings):
                sizes |= {"batch_tokens": 512, "block_size": 64, "held_out_blocks": 2}
            changes += [f"stages.{number}.{key}={value}" for key, value in sizes.items()]
    return load_recipe(name, changes)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_runs_for_three_steps(name, models, files, tmp_path):
    recipe = swap(name, models, files)
    result = train(recipe, tmp_path / "run", evaluate=lambda _: {})
    assert len(result.rungs) == len(recipe.stages) + (2 if recipe.model.attention == "bidirectional" else 1)
    for log in (tmp_path / "run" / "stages").glob("*/metrics.jsonl"):
        losses = [row["loss"] for row in read_metrics(log) if "loss" in row]
        assert len(losses) == 3
        assert all(math.isfinite(loss) for loss in losses)


def test_the_papers_hyper_parameters_are_the_papers():
    mntp, simcse, supervised = load_recipe("paper/s-llama-1.3b").stages
    assert (mntp.steps, mntp.batch_size, mntp.block_size, mntp.lr) == (1000, 32, 512, 5e-5)
    assert (mntp.masking, mntp.mask_rate, mntp.mask_token) == ("bert", 0.2, "_")
    assert (simcse.batch_size, simcse.attention_dropout, simcse.max_length) == (32, 0.3, 128)
    assert (simcse.lr, simcse.scale) == (3e-5, 20)
    assert (supervised.batch_size, supervised.lr, supervised.warmup_steps) == (512, 2e-4, 300)
    assert (supervised.scale, supervised.lora.start) == (50, "previous")
    for stage in (mntp, simcse, supervised):
        assert (stage.lora.rank, stage.lora.alpha, stage.lora.dropout, stage.tuning) == (16, 32, 0.05, "lora")
    mistral = load_recipe("paper/mistral-7b").stages
    assert (mistral[0].masking, mistral[0].mask_rate, mistral[1].batch_size) == ("roberta", 0.8, 128)
    assert load_recipe("paper/mistral-7b:words").stages[0].mask_rate == 0.2
    uni = load_recipe("paper/llama-2-7b:uni-supervised")
    assert (uni.model.attention, uni.model.pooling, len(uni.stages)) == ("causal", "weighted_mean", 1)
    assert load_recipe("paper/llama-3-8b:supervised-without-simcse").stages[1].lora.start == "fresh"


def test_recipes_are_listed_shown_and_copied(tmp_path, capsys):
    assert main(["recipes", "list", "--json"]) == 0
    listed = {one["name"]: one["description"] for one in json.loads(capsys.readouterr().out)["recipes"]}
    assert set(listed) == set(NAMES)
    assert all(listed.values())
    assert main(["recipes", "list"]) == 0
    assert "paper/mistral-7b:words" in capsys.readouterr().out
    for name in ("pocket-wiki", "paper/mistral-7b:words", "accelerate/fsdp2"):
        assert main(["recipes", "show", name]) == 0
        assert yaml.safe_load(capsys.readouterr().out)
    assert main(["recipes", "copy", "paper/mistral-7b:words", str(tmp_path)]) == 0
    copied = tmp_path / "mistral-7b-words.yaml"
    assert load_recipe(str(copied)) == load_recipe("paper/mistral-7b:words")
    assert main(["recipes", "copy", "paper/mistral-7b", str(tmp_path)]) == 0
    assert load_recipe(f"{tmp_path / 'mistral-7b.yaml'}:ladder") == load_recipe("paper/mistral-7b:ladder")
    capsys.readouterr()
    assert main(["recipes", "copy", "paper/mistral-7b:words", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["recipes", "show", "paper/mistral"]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert main(["recipes", "show", "pocket-wiki:words"]) == 2
    assert "has no variant 'words'" in capsys.readouterr().err


def test_every_key_is_described(capsys):
    assert main(["recipes", "keys"]) == 0
    page = Path(__file__).parents[2] / "docs" / "recipe.md"
    assert capsys.readouterr().out == page.read_text(), "unmask recipes keys > docs/recipe.md"
    assert main(["recipes", "keys", "--json"]) == 0
    sections = json.loads(capsys.readouterr().out)["sections"]
    undescribed = {key["name"] for section in sections for key in section["keys"] if not key["about"]}
    assert undescribed <= {"objective", "kind"}


def test_a_recipe_of_ones_own_extends_another(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(read_raw("one-gpu/base")))
    (tmp_path / "mine.yaml").write_text(
        "extends: base.yaml\nname: mine\n"
        "set: {stages.simcse: null, stages.mntp.steps: 70, stages.supervised.lora.start: fresh}\n"
        "variants: {short: {stages.mntp.steps: 60}}\n"
    )
    recipe = load_recipe(str(tmp_path / "mine.yaml"))
    assert [stage.steps for stage in recipe.stages] == [70, 2000]
    short = load_recipe(f"{tmp_path / 'mine.yaml'}:short", ["stages.supervised.steps=300"])
    assert (short.name, [stage.steps for stage in short.stages]) == ("mine-short", [60, 300])


def test_recipes_that_cannot_be_put_together_are_refused(tmp_path):
    for name, text in {
        "a": "extends: b.yaml\n",
        "b": "extends: a.yaml\n",
        "c": "name: c\nvariants: {x: null}\n",
        "d": "set: [1]\n",
        "e": "variants: {x: {seed: 1}}\n",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    for source, message in [
        ("a.yaml", "extend each other"),
        ("c.yaml:x", "variant 'x' holds None"),
        ("d.yaml", "set holds a list"),
        ("e.yaml:x", "model: missing"),
    ]:
        with pytest.raises(RecipeError, match=message):
            load_recipe(str(tmp_path / source))

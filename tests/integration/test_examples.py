"""The examples run, on small sizes, and what they make is usable."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from unmask.backbone.locate import resolve_model
from unmask.cli.main import main
from unmask.data.ranking import read_candidates
from unmask.data.words import ColumnFile
from unmask.evaluation.tasks.similarity import read_pairs
from unmask.runs.recipe import load_recipe

EXAMPLES = Path(__file__).parents[2] / "examples"
RECIPES = [
    f"{path}:{variant}" if variant else str(path)
    for path in sorted(EXAMPLES.glob("*.yaml"))
    for variant in ("", *yaml.safe_load(path.read_text()).get("variants", ()))
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.rpartition("/")[2])
def test_every_recipe_among_the_examples_can_be_read(recipe):
    assert load_recipe(recipe).stages


@pytest.mark.slow
def test_a_decoder_pretrained_from_text_converts(articles, tmp_path):
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in articles))
    sizes = ["--steps", "6", "--width", "64", "--layers", "2", "--batch", "4", "--vocab-size", "600"]
    command = [sys.executable, str(EXAMPLES / "pretrain_decoder.py"), str(tmp_path / "docs.jsonl"), *sizes]
    done = subprocess.run([*command, "--out", str(tmp_path / "decoder")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert main(["convert", str(tmp_path / "decoder"), "--out", str(tmp_path / "encoder")]) == 0


def test_the_ladder_table_takes_mean_and_spread(tmp_path):
    for run, value in (("a", 1.0), ("b", 2.0)):
        (tmp_path / run).mkdir()
        rungs = [{"name": "Uni", "sts": 5.0}, {"name": "Bi", "sts": value}]
        (tmp_path / run / "results.json").write_text(json.dumps({"rungs": rungs}))
    command = [sys.executable, str(EXAMPLES / "ladder_table.py"), str(tmp_path / "a"), str(tmp_path / "b")]
    done = subprocess.run(
        [*command, "--svg", str(tmp_path / "x.svg"), "--figures", "sts"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "| sts | 5.00 | 1.50 ± 0.50 |" in done.stdout
    assert (tmp_path / "x.svg").read_text().count("<svg") == 1


@pytest.mark.slow
@pytest.mark.data
def test_a_hybrid_is_pretrained_and_compared_both_ways(articles, tmp_path, data_folder):
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in articles))
    shape = ["--family", "qwen3_5", "--steps", "2", "--width", "64", "--layers", "4", "--batch", "2"]
    script = str(EXAMPLES / "pretrain_decoder.py")
    command = [sys.executable, script, *shape, "--vocab-size", "600", "--out", str(tmp_path / "decoder")]
    done = subprocess.run([*command, str(tmp_path / "docs.jsonl")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    command = [sys.executable, str(EXAMPLES / "recurrent_layers.py"), "--decoder", str(tmp_path / "decoder")]
    command += ["--out", str(tmp_path / "out"), "--steps", "2", "--seeds", "0", "--modes", "two-way"]
    less = (
        "stages.mntp.warmup_steps=1",
        "stages.mntp.batch_tokens=2048",
        "stages.mntp.held_out_blocks=2",
        "evaluation.masked.blocks=4",
    )
    chunking = f"train: {data_folder}/conll2000/train.txt, test: {tmp_path}/test.txt, label_column: 2, limit: 40"
    sentences = (data_folder / "conll2000" / "test.txt").read_text().split("\n\n")[:40]
    (tmp_path / "test.txt").write_text("\n\n".join(sentences) + "\n")
    for setting in (*less, "evaluation.words={chunking: {" + chunking + "}}"):
        command += ["--set", setting]
    environment = {**os.environ, "UNMASK_DATA": str(data_folder)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "## two-way" in done.stdout
    assert "| chunking F1 |" in done.stdout
    config = json.loads((tmp_path / "out" / "two-way-2-0" / "encoder" / "config.json").read_text())
    assert config["unmask_recurrent"]["mode"] == "two-way"


@pytest.mark.data
def test_a_llama2c_checkpoint_goes_on_as_its_author_printed_it(data_folder, tmp_path):
    stories = data_folder / "stories260K"
    command = [
        sys.executable,
        str(EXAMPLES / "convert_llama2c.py"),
        "--out",
        str(tmp_path / "model"),
        "--tokens",
        "180",
    ]
    command += ["--checkpoint", str(stories / "stories260K.bin"), "--tokenizer", str(stories / "tok512.bin")]
    environment = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",
    }  # DeepSpeed, where installed, else says it chose it, on stdout
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    told = done.stdout.strip()
    assert len(told) > 400
    assert told in (stories / "stories260K.md").read_text()
    assert main(["verify", str(tmp_path / "model")]) == 1
    assert main(["convert", str(tmp_path / "model"), "--out", str(tmp_path / "encoder")]) == 0


@pytest.mark.data
def test_more_tasks_are_made_of_public_data(data_folder, tmp_path):
    command = [sys.executable, str(EXAMPLES / "make_tasks.py"), "--data", str(data_folder), "--out", str(tmp_path)]
    subprocess.run(command, check=True)
    pairs = read_pairs(tmp_path / "nli_pairs.jsonl", score="label")
    assert sum(pairs.scores) * 2 == len(pairs.scores) == 6334
    candidates = read_candidates(tmp_path / "wiki_candidates.jsonl")
    assert len(candidates) == 500
    assert all(len(one.negative) == 9 and one.query not in one.positive[0] for one in candidates)
    develop, train = ColumnFile(tmp_path / "chunking_dev.txt"), ColumnFile(data_folder / "conll2000" / "train.txt")
    assert [one.words for one in develop] == [one.words for one in train][-500:]


def test_baselines_are_scored_once_and_only_those_asked_for(tmp_path):
    pairs = "".join(f"{n % 6}.0,A river runs by {n} mills.,There are {n * n % 7} mills.\n" for n in range(12))
    (tmp_path / "sts.csv").write_text("score,sentence1,sentence2\n" + pairs)
    groups = [{"query": f"mill {n}", "positive": [f"the mill {n}"], "negative": ["a river", "bread"]} for n in range(4)]
    (tmp_path / "leads.jsonl").write_text("".join(json.dumps(group) + "\n" for group in groups))
    recipe = {
        "name": "small",
        "model": {"name": "pocket"},
        "data": {"texts": {"files": [str(tmp_path / "sts.csv")]}},
        "stages": [{"objective": "simcse", "data": "texts", "steps": 1}],
        "evaluation": {
            "sts": {"mills": {"file": str(tmp_path / "sts.csv")}},
            "reranking": {"leads": {"file": str(tmp_path / "leads.jsonl")}},
        },
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    command = [sys.executable, str(EXAMPLES / "baselines.py"), str(tmp_path / "recipe.yaml")]
    command += ["--out", str(tmp_path / "found.json"), "--encoder", "again=pocket", "--only"]
    for asked in (["BM25", "again"], ["BM25", "again", "Echo"]):
        done = subprocess.run([*command, *asked], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found = json.loads((tmp_path / "found.json").read_text())
        assert set(found) == set(asked)
    assert done.stdout.count('"baseline": "Echo"') == 2
    assert '"baseline": "again"' not in done.stdout  # its figures were there
    assert "mills" in found["Echo"]
    assert "mills" not in found["BM25"]
    done = subprocess.run([*command, "input embeddings", "--tasks", "leads"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    own = json.loads((tmp_path / "found.json").read_text())["input embeddings"]
    assert own
    assert all(figure.startswith("leads") for figure in own)
    done = subprocess.run([*command, "BM25", "--tasks", "mills", "bread"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--tasks bread: there are mills, leads" in done.stderr
    done = subprocess.run([*command, "nobody"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--only nobody: there are weighted mean, last token, Echo, input embeddings, again, BM25" in done.stderr


@pytest.mark.slow
@pytest.mark.data
def test_what_changed_inside_is_drawn_for_two_decoders(bidirectional, tmp_path, data_folder):
    bidirectional.save(tmp_path / "encoder")
    shutil.copytree(resolve_model("pocket"), tmp_path / "decoder")
    options = [
        "--decoder",
        str(tmp_path / "decoder"),
        "--paragraphs",
        "120",
        "--encoder",
        f"as saved={tmp_path / 'encoder'}",
    ]
    command = [sys.executable, str(EXAMPLES / "inside.py"), *options, "--out", str(tmp_path / "plots")]
    command += ["--context", str(data_folder / "wiki" / "valid.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    uni, bi, saved, *small = [[cell.strip() for cell in row.split("|")] for row in done.stdout.splitlines()[2:]]
    assert [uni[2], bi[2], saved[2], *(row[2] for row in small)] == ["Uni", "Bi", "as saved", "Uni", "Bi"]
    assert bi[3:] == saved[3:]
    assert float(uni[6]) == 0.5  # a beginning knows nothing of the end
    assert float(bi[5]) > float(uni[5])
    assert {file.name for file in (tmp_path / "plots").iterdir()} == {"inside_layers.svg", "inside_context.svg"}

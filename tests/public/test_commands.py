"""The same through the commands and recipes: what is refused ends with exit code 2 and writes nothing."""

import json

import pyarrow.parquet as pq
import pytest
import transformers

from unmask.backbone.locate import load_tokenizer
from unmask.cli.main import main
from unmask.runs.recipe import load_recipe
from unmask.runs.sources import open_data

TSV = 'text\tlabel\n"Wow, he said.\tpos\nOther\tneg\n"Again\tpos\nLast\tneg\n'
JUDGED = '{"sentence1": "a b", "sentence2": "c d", "label": 0}\n{"sentence1": "e f", "sentence2": "g h", "label": 1}\n'


def test_encode_names_the_line_or_reads_every_row(tmp_path, capsys):
    path, out = tmp_path / "a.tsv", tmp_path / "out.parquet"
    path.write_text(TSV)
    command = ["encode", "pocket", str(path), "--out", str(out)]
    assert main(command) == 2
    assert f"{path}:2: broken CSV" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "--quoting", "none"]) == 0
    assert pq.read_table(out).num_rows == 4


def test_classification_takes_the_same_option(tmp_path, capsys):
    path = tmp_path / "a.tsv"
    path.write_text(TSV)
    command = ["eval", "classification", "pocket", "--train", str(path), "--test", str(path), "--json"]
    assert main(command) == 2
    capsys.readouterr()
    assert main([*command, "--quoting", "none"]) == 0
    assert json.loads(capsys.readouterr().out)["texts"] == 4


def test_words_of_conll_u_are_no_numbers(tmp_path, capsys):
    row = "{}\t{}\t_\t{}\t_\t_\t0\troot\t_\t_\n"
    path = tmp_path / "a.conll"
    sentence = row.format(1, "the", "DET") + row.format(2, "cat", "NOUN") + "\n"
    path.write_text("# sent_id = 1\n" + sentence * 20)
    assert main(["eval", "words", "pocket", "--train", str(path), "--test", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["task"] == "upos"


def recipe(path, **columns):
    source = {"kind": "pairs", "files": [str(path)], "columns": columns}
    stage = {"objective": "supervised", "data": "p", "steps": 1, "batch_size": 2}
    return load_recipe({"name": "t", "model": {"name": "pocket"}, "data": {"p": source}, "stages": [stage]})


@pytest.mark.parametrize("dry_run", [["--dry-run"], []])
def test_lengths_beyond_learned_positions_are_named_before_anything_is_trained(tmp_path, capsys, dry_run):
    sizes = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
    tokenizer = load_tokenizer("pocket")
    config = transformers.GPT2Config(vocab_size=len(tokenizer), **sizes)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "t.txt").write_text("some words\n" * 20)
    stage = {"objective": "simcse", "data": "t", "steps": 1, "batch_size": 2, "max_length": 65}
    whole = {"name": "t", "model": {"name": str(tmp_path / "model"), "max_length": 64}, "stages": [stage]}
    (tmp_path / "r.yaml").write_text(json.dumps({**whole, "data": {"t": {"files": [str(tmp_path / "t.txt")]}}}))
    assert main(["train", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run"), *dry_run]) == 2
    assert "stages.simcse.max_length=65 is more than the 64 positions" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_recipes_choose_pairs_by_their_label(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(JUDGED)
    with pytest.raises(ValueError, match="column 'label' seems to say"):
        open_data(recipe(path)).pairs("p")
    (kept,) = open_data(recipe(path, where={"label": 1})).pairs("p")
    assert [pair.query for pair in kept.take(range(len(kept)))] == ["e f"]
    (every,) = open_data(recipe(path, query="sentence1", positive="sentence2")).pairs("p")
    assert len(every) == 2


def test_mining_chooses_pairs_by_their_label(tmp_path, capsys):
    path, out = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    path.write_text(JUDGED)
    (tmp_path / "corpus.txt").write_text("one\ntwo\n")
    command = ["mine", "pocket", "--pairs", str(path), "--corpus", str(tmp_path / "corpus.txt"), "--out", str(out)]
    assert main(command) == 2
    assert main([*command, "--where", "label"]) == 2
    capsys.readouterr()
    assert main([*command, "--where", "label=1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 1

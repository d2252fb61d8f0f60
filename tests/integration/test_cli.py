"""The commands, through main(argv): what they print, what they write, and what they say when input is wrong."""

import gzip
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from unmask import TextEncoder
from unmask.cli.main import main


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "pocket-bi"
    assert main(["convert", "pocket", "--out", str(folder)]) == 0
    return folder


def test_convert_writes_an_encoder_that_verifies(encoder_folder, capsys):
    assert main(["verify", str(encoder_folder)]) == 0
    assert "bidirectional" in capsys.readouterr().out
    assert main(["verify", str(encoder_folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["bidirectional"] is True
    assert len(report["layers"]) == 2 * 6


def test_verify_of_a_causal_model_ends_with_1(capsys):
    assert main(["verify", "pocket"]) == 1
    assert "reads left to right" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "options", "ids"),
    [
        ("a.txt", "one\ntwo\n", [], ["{path}:1", "{path}:2"]),
        ("a.csv", "id,body\nx,one\ny,two\n", ["--field", "body", "--id-field", "id"], ["x", "y"]),
        ("a.jsonl", '{"text": "one", "id": 1}\n{"text": "two", "id": 2}\n', ["--id-field", "id"], ["1", "2"]),
    ],
)
def test_encode_writes_ids_and_vectors(encoder_folder, tmp_path, name, content, options, ids):
    (tmp_path / name).write_text(content)
    out = tmp_path / "out.parquet"
    assert main(["encode", str(encoder_folder), str(tmp_path / name), "--out", str(out), *options]) == 0
    table = pq.read_table(out)
    assert table["id"].to_pylist() == [i.format(path=tmp_path / name) for i in ids]
    expected = TextEncoder.load(encoder_folder).encode(["one", "two"])
    np.testing.assert_allclose(np.stack(table["vector"].to_numpy()), expected, atol=1e-5)


def test_eval_sts_and_words_print_one_json_object(encoder_folder, tmp_path, capsys):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("A cat sleeps.,A cat is asleep.,5\nA cat sleeps.,Stocks fell.,0\nRain fell.,It rained.,4.5\n")
    assert main(["eval", "sts", str(encoder_folder), "--data", str(pairs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["task"] == "sts"
    assert -100 <= found["spearman"] <= 100
    assert found["pairs"] == 3
    words = tmp_path / "words.txt"
    words.write_text("The B-NP\ncat I-NP\nsat B-VP\n. O\n\nA B-NP\ndog I-NP\nran B-VP\n. O\n")
    arguments = ["eval", "words", str(encoder_folder), "--train", str(words), "--test", str(words), "--json"]
    assert main(arguments) == 0
    (found,) = json.loads(capsys.readouterr().out)["results"]
    assert found["accuracy"] == 100.0
    assert found["f1"] == 100.0


@pytest.mark.data
@pytest.mark.slow
def test_a_probe_finds_chunks_in_real_text(encoder_folder, data_folder, capsys):
    files = [str(data_folder / "conll2000" / name) for name in ("train.txt", "test.txt")]
    arguments = [
        "eval",
        "words",
        str(encoder_folder),
        "--train",
        files[0],
        "--test",
        files[1],
        "--limit",
        "600",
    ]
    assert main([*arguments, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["results"]
    assert found["words"] == 47377
    assert 80 < found["accuracy"] < 95
    assert 65 < found["f1"] < found["accuracy"]


@pytest.mark.data
def test_the_pocket_decoder_keeps_its_sts_figures(data_folder, capsys):
    file = str(data_folder / "stsb" / "stsb-en-dev.csv")
    for attention, expected in [("causal", 49.6), ("bidirectional", 56.7)]:
        assert main(["eval", "sts", "pocket", "--attention", attention, "--data", file, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["spearman"] == pytest.approx(expected, abs=0.3)


def evaluation_inputs(folder):
    (folder / "unequal.txt").write_text("The DT B-NP\ncat NN\n")
    (folder / "pos.txt").write_text("Anna NN\nsaw VB\n")
    (folder / "plan.json").write_text('{"task": "mteb", "plan": []}')
    (folder / "scheme.txt").write_text("Anna B-PER\nsaw O\nRome Q-LOC\n")
    (folder / "few.csv").write_text("text,label\none,x\ntwo,y\n")
    (folder / "more.csv").write_text("text,label\none,x\ntwo,z\n")
    (folder / "pairs.csv").write_text("a,b,1\nc,d,1\n")
    (folder / "triples.jsonl").write_text('{"prefix": "He", "query": "She", "positive": "He", "negative": "He"}\n')
    words = ["eval", "words", "pocket", "--test", str(folder / "scheme.txt"), "--train"]
    texts = ["eval", "classification", "pocket", "--train", str(folder / "few.csv"), "--test"]
    return [
        ([*words, str(folder / "unequal.txt")], "unequal.txt:2: 2 columns, the lines before it have 3"),
        ([*words, str(folder / "scheme.txt")], "Unknown label scheme: 'Q-LOC'"),
        ([*words, str(folder / "scheme.txt"), "--scheme", "none", "--layers", "top"], "expected last, all, or numbers"),
        ([*words, str(folder / "scheme.txt"), "--scheme", "none", "--layers", "9"], "No layer 9; this model has 0"),
        (["eval", "words", "pocket", "--train", str(folder / "scheme.txt")], "Give either --data NAME, or"),
        ([*texts, str(folder / "more.csv")], "1 of the test's classes have no training text: 'z'"),
        (["eval", "pairs", "pocket", "--data", str(folder / "pairs.csv")], "No pair has the label 0"),
        (["eval", "retrieval", "pocket", "--data", str(folder / "none")], "is no folder with corpus.jsonl"),
        (["eval", "mteb", "pocket"], "--out DIR is needed"),
        (["eval", "mteb", "pocket", "--dry-run", "--instructions", "papper"], "choose paper, none, or a JSON file"),
        (["tag", str(folder), str(folder / "good.txt")], "is no tagger"),
        ([*words, str(folder / "pos.txt"), "--save-tagger", str(folder)], "is not an empty folder"),
        ([*words, str(folder / "pos.txt"), "--plot", str(folder / "none" / "x.svg")], "no such folder"),
        (["eval", "mteb", "pocket", "--tasks", "STS17", "--out", str(folder / "few.csv")], "cannot be a folder"),
        (["analyze", "pocket", "--out", str(folder / "few.csv")], "is a file; --out takes a folder"),
        (["analyze", "pocket", "--out", str(folder / "x"), "--text", str(folder / "none.txt")], "no such file"),
        (["eval", "clustering", "pocket", "--data", "people"], "no such file"),
        (["eval", "words", "pocket", "--train", "conll2003", "--test", "conll2003"], "say which split"),
        (["report", str(folder / "plan.json")], "is not what this version writes"),
        (
            ["analyze", "pocket", "--out", str(folder / "x"), "--triples", str(folder / "triples.jsonl")],
            "does not begin",
        ),
        (["analyze", "pocket", "--out", str(folder / "x"), "--checkpoints", "sts"], "needs a run folder"),
        (["report"], "Nothing to compare"),
        (["report", str(folder)], "holds no results"),
        (["report", "--paper", "table3"], "No published table 'table3'"),
    ]


def test_a_vector_that_is_not_finite_is_named(tiny, tokenizer, tmp_path, capsys):
    import torch

    model = tiny("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer("cat", add_special_tokens=False)["input_ids"][0]] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    tokenizer.save_pretrained(tmp_path / "broken")
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("dogs bark,cat,5\nsun,moon,0\n")
    words = tmp_path / "words.txt"
    words.write_text("dogs NN\nbark VB\n\ncat NN\n")
    assert main(["eval", "sts", str(tmp_path / "broken"), "--data", str(pairs)]) == 2
    assert "1 of 4 vectors are not finite (texts 2; 'cat')" in capsys.readouterr().err
    files = ["--train", str(words), "--test", str(words)]
    assert main(["eval", "words", str(tmp_path / "broken"), *files]) == 2
    assert "Text 1 (cat ...) has word vectors that are not finite" in capsys.readouterr().err


def test_a_tagger_is_trained_saved_and_applied(encoder_folder, tmp_path, capsys):
    words = tmp_path / "words.txt"
    words.write_text("Anna B-PER\nSmith I-PER\nlives O\nin O\nRome B-LOC\n. O\n\nRome B-LOC\nis O\nold O\n. O\n" * 3)
    tagger = str(tmp_path / "tagger")
    files = ["--train", str(words), "--test", str(words)]
    assert main(["eval", "words", str(encoder_folder), *files, "--save-tagger", tagger, "--layers", "all"]) == 0
    capsys.readouterr()
    (tmp_path / "news.txt").write_text("Anna Smith lives in Rome.\n")
    assert main(["tag", tagger, str(tmp_path / "news.txt"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["words"] == ["Anna", "Smith", "lives", "in", "Rome", "."]
    assert found["spans"] == [
        {"label": "PER", "start": 0, "end": 2, "text": "Anna Smith"},
        {"label": "LOC", "start": 4, "end": 5, "text": "Rome"},
    ]
    packed = tmp_path / "packed.txt.gz"
    packed.write_bytes(gzip.compress((tmp_path / "news.txt").read_bytes()))
    assert main(["tag", tagger, str(packed), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    out = tmp_path / "news.conll"
    assert main(["tag", tagger, str(tmp_path / "words.txt"), str(tmp_path / "news.txt"), "--out", str(out)]) == 0
    assert main(["tag", tagger, str(words.rename(tmp_path / "words.conll")), "--out", str(out)]) == 0
    assert out.read_text().startswith("Anna\tB-PER\nSmith\tI-PER\n")
    line = "{}\t{}\t_\tX\t_\t_\t_\t_\t_\t_\n"
    (tmp_path / "news.conllu").write_text(line.format(1, "Anna") + line.format(2, "lives"))
    assert main(["tag", tagger, str(tmp_path / "news.conllu"), "--out", str(out)]) == 0
    assert out.read_text().startswith("Anna\tB-PER\nlives\t")
    assert main(["tag", tagger, str(tmp_path / "news.txt"), "--encoder", "pocket"]) == 2
    assert "another encoder" in capsys.readouterr().err


def test_layers_are_plotted_and_runs_compared(encoder_folder, tmp_path, capsys):
    words = tmp_path / "words.txt"
    words.write_text("The DT B-NP\ncat NN I-NP\nsat VBD B-VP\n\nA DT B-NP\ndog NN I-NP\nran VBD B-VP\n")
    files = ["--train", str(words), "--test", str(words), "--label-column", "pos=1", "--label-column", "chunking=2"]
    options = [
        "--layers",
        "0,3,6",
        "--plot",
        str(tmp_path / "layers.svg"),
        "--json",
        "--probe",
        "paper",
        "--seeds",
        "2",
    ]
    assert main(["eval", "words", str(encoder_folder), *files, *options, "--steps", "10"]) == 0
    saved = tmp_path / "words.json"
    saved.write_text(capsys.readouterr().out)
    assert (tmp_path / "layers.svg").read_text().count("<svg") == 1
    assert main(["report", str(saved), "--paper", "table4", "--model", "Mistral-7B", "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)["tables"]
    assert [table["measure"] for table in tables] == ["token accuracy, %", "F1 of whole spans, %"]
    assert main(["report", str(saved), "--paper", "table4", "--markdown"]) == 0
    assert "| Mistral-7B Bi+MNTP | " in capsys.readouterr().out


def bad_inputs(folder):
    (folder / "empty.txt").write_text("")
    (folder / "binary.txt").write_bytes(b"\x00\x01\x02")
    (folder / "broken.jsonl").write_text('{"text": "ok"}\n{"text": "ok"}\n{"text" "no"}\n')
    (folder / "good.txt").write_text("fine\n")
    (folder / "wrong.yaml").write_text("name: x\nmodel: {name: pocket}\ndata: {}\nstages: three\n")
    out = str(folder / "out")
    return [
        (["encode", "pocket", str(folder / "none.txt"), "--out", out], "no such file"),
        (["encode", "pocket", str(folder / "empty.txt"), "--out", out], "is empty"),
        (["encode", "pocket", str(folder / "binary.txt"), "--out", out], "binary file"),
        (["encode", "pocket", str(folder / "broken.jsonl"), "--out", out], "broken.jsonl:3: broken JSON"),
        (["encode", "./nowhere", str(folder / "good.txt"), "--out", out], "No folder './nowhere'"),
        (["encode", "pocket", str(folder / "good.txt"), "--out", out + "/x/y.parquet"], "is not a folder"),
        (
            ["encode", "pocket", str(folder / "good.txt"), "--out", out, "--prompt-name", "q"],
            "no prompt named 'q'",
        ),
        (["convert", str(folder), "--out", out], "no config.json"),
        (["convert", str(folder / "good.txt"), "--out", out], "is a file"),
        (["verify", str(folder / "good.txt")], "is a file"),
        (["train", str(folder / "wrong.yaml"), "--out", out], "stages: "),
        (["train", str(folder / "none.yaml"), "--out", out], "No recipe file"),
        (["train", str(folder / "good.txt"), "--out", out], "holds str"),
        (["eval", "sts", "pocket", "--data", str(folder / "good.txt")], "has no columns"),
        *evaluation_inputs(folder),
        (
            [
                "eval",
                "words",
                "pocket",
                "--train",
                str(folder / "empty.txt"),
                "--test",
                str(folder / "good.txt"),
            ],
            "is empty",
        ),
        (["demo", "--out", str(folder)], "something else than an earlier demo"),
    ]


def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path, capsys):
    cases = bad_inputs(tmp_path)
    (tmp_path / "texts").mkdir()  # a user's own folder may be called as one of the demo's
    before = sorted(p.name for p in tmp_path.iterdir())
    for arguments, message in cases:
        code = main(arguments)
        errors = capsys.readouterr().err
        assert code == 2, arguments
        assert message in errors, (arguments, errors)
        assert "Traceback" not in errors
        assert sorted(p.name for p in tmp_path.iterdir()) == before, arguments


def test_a_model_without_tokenizer_and_an_encoder_are_refused(tiny, tokenizer, tmp_path, capsys):
    tiny("llama").save_pretrained(tmp_path / "bare")
    assert main(["convert", str(tmp_path / "bare"), "--out", str(tmp_path / "out")]) == 2
    assert "no tokenizer" in capsys.readouterr().err
    tiny("bert", head=False).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    assert main(["convert", str(tmp_path / "bert"), "--out", str(tmp_path / "out")]) == 2
    assert "bert is an encoder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_wrong_usage_ends_with_2(capsys):
    for arguments in ([], ["conver"], ["eval", "sts"], ["eval", "words", "pocket", "--seeds", "0"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path, capsys):
    (tmp_path / "docs.txt").write_text("Some text about nothing in particular.\n" * 50)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"name: r\nmodel: {{name: pocket}}\ndata: {{docs: {{files: [{tmp_path}/docs.txt]}}}}\n"
        "stages:\n- {objective: mntp, data: docs, steps: 3, tuning: full}\n"
        "- {objective: simcse, data: docs, steps: 2}\n"
    )
    arguments = [
        "train",
        str(recipe),
        "--out",
        str(tmp_path / "run"),
        "--set",
        "stages.mntp.steps=5",
        "--dry-run",
    ]
    assert main(arguments) == 0
    assert "trainable parameters" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    mntp, simcse = json.loads(capsys.readouterr().out)["stages"]
    assert mntp["tokens"] == 5 * 16384
    assert mntp["memory"]["trainable"] == 6843648 - 8192 * 256  # the tied head is frozen, and with it the embedding
    assert simcse["memory"]["trainable"] == 16 * 6 * (4 * 2 * 256 + 3 * (256 + 688))
    assert not (tmp_path / "run").exists()

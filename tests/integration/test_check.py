"""Each fault is put into a copy that is really served, and `unmask check` names it."""

import copy
import json
from itertools import count

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.faulty_server import Runtime, listed, served
from unmask import EncoderSettings, TextEncoder
from unmask.certificate.golden import read_certificate, write_certificate
from unmask.cli.main import main


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def encoder_of(*, include_special_tokens=False, **settings):
    opened = TextEncoder.load("pocket", attention="bidirectional", dtype="float32")
    return TextEncoder(
        opened.model,
        opened.tokenizer,
        EncoderSettings(max_length=160, include_special_tokens=include_special_tokens, **settings),
    )


@pytest.fixture(scope="module")
def encoder():
    return encoder_of()


@pytest.fixture(scope="module")
def causal():
    return TextEncoder.load("pocket", attention="causal", dtype="float32").model


@pytest.fixture(scope="module")
def golden(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    write_certificate(encoder, folder)
    return folder / "golden.json"


def checked(capsys, *arguments):
    """Exit code and report."""
    code = main(["check", *map(str, arguments), "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else captured.err


def check_served(capsys, encode, golden, *more, **options):
    with served(encode, **options) as url:
        return checked(capsys, url, "--golden", golden, *more)


def names(report):
    return [fault["fault"] for fault in report["faults"]]


def test_a_right_copy_passes(encoder, golden, capsys):
    code, report = check_served(capsys, Runtime(encoder), golden)
    assert (code, names(report), report["right"]) == (0, [], True)
    assert report["smallest"] > 0.99999
    assert report["fingerprint"]["same"]
    tests = {test["name"]: test["result"] for test in report["requests"]}
    assert set(tests.values()) == {"right"}
    assert set(tests) == {
        *("the same text again", "among others", "order turned round", "two of equal length"),
        *("a short one beside a long one", "base64"),
    }


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"pooled": "all"}, ["bos-pooled"]),
        ({"bos": 0}, ["bos-missing"]),
        ({"bos": 2, "pooled": "text"}, ["bos-doubled"]),
        ({"eos": 1}, ["eos-added"]),
        ({"pooling": "last"}, ["pooled-by-last-token"]),
        ({"pooling": "first"}, ["pooled-by-first-token"]),
        ({"pooling": "weighted_mean", "pooled": "all"}, ["pooled-by-weighted-mean"]),
        ({"length": 128}, ["cut-short"]),
        ({"length": 4000}, ["cut-late"]),
        ({"cut": "start"}, ["cut-at-the-start"]),
        ({"strip": True}, ["spaces-stripped"]),
        ({"parse": True}, ["special-tokens-parsed"]),
        ({"masked": False}, ["mask-skipped"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_fault_is_named(encoder, golden, capsys, wrong, expected):
    code, report = check_served(capsys, Runtime(encoder, **wrong), golden)
    assert (code, names(report)) == (1, expected)
    assert all(fault["remedy"] for fault in report["faults"])


def test_where_bos_is_pooled_leaving_it_out_is_the_fault(tmp_path, capsys):
    plain = encoder_of(include_special_tokens=True)
    write_certificate(plain, tmp_path)
    golden = tmp_path / "golden.json"
    assert check_served(capsys, Runtime(plain, pooled="all"), golden)[0] == 0
    code, report = check_served(capsys, Runtime(plain, pooled="text"), golden)
    assert (code, names(report)) == (1, ["bos-left-out"])


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({}, {"causal"}),
        ({"pooled": "all"}, {"causal", "bos-pooled"}),
        ({"pooling": "last"}, {"causal", "pooled-by-last-token"}),
    ],
)
def test_causal_attention_is_named_with_what_comes_beside_it(encoder, causal, golden, capsys, wrong, expected):
    code, report = check_served(capsys, Runtime(encoder, model=causal, **wrong), golden)
    assert (code, set(names(report))) == (1, expected)
    assert not report["fingerprint"]["same"]


def test_a_pooled_prompt_and_a_missing_eos_are_named(capsys, tmp_path):
    asking = encoder_of(prompts={"query": "Find what answers this:"})
    write_certificate(asking, tmp_path)
    code, report = check_served(capsys, Runtime(asking), tmp_path / "golden.json")
    assert (code, names(report)) == (1, ["prompt-pooled"])
    (tmp_path / "eos").mkdir()
    ending = encoder_of(pooling="eos")
    write_certificate(ending, tmp_path / "eos")
    assert check_served(capsys, Runtime(ending, eos=1, pooling="last"), tmp_path / "eos" / "golden.json")[0] == 0
    code, report = check_served(capsys, Runtime(ending, pooling="last"), tmp_path / "eos" / "golden.json")
    assert (code, names(report)) == (1, ["eos-missing"])


def test_lengths_widths_and_numbers_that_are_none(capsys, tmp_path, encoder, golden):
    scaled = encoder_of(normalize=True)
    write_certificate(scaled, tmp_path)
    code, report = check_served(capsys, Runtime(scaled), tmp_path / "golden.json")
    assert (code, names(report)) == (1, ["not-normalised"])
    code, report = check_served(capsys, Runtime(encoder, normalize=True), golden)
    assert (code, len(report["notes"])) == (0, 1)
    right = Runtime(encoder)
    code, report = check_served(capsys, lambda texts: right(texts)[:, :64], golden)
    assert (code, names(report)) == (1, ["other-width"])
    assert "the first numbers" in report["faults"][0]["says"]

    def overflowing(texts):
        return np.where([[len(text) > 300] for text in texts], np.nan, right(texts))

    code, report = check_served(capsys, overflowing, golden)
    assert (code, names(report)) == (1, ["not-finite"])


def test_other_weights_and_rounding(capsys, encoder, golden):
    model = copy.deepcopy(encoder.model)
    code, report = check_served(capsys, Runtime(encoder, model=model.to(torch.bfloat16)), golden)
    assert (code, names(report)) == (0, [])
    assert report["smallest"] < 0.99999
    assert report["fingerprint"]["same"]
    other = copy.deepcopy(encoder.model)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in other.layers[2].parameters():
            weight += 0.5 * weight.std() * torch.randn_like(weight)
    code, report = check_served(capsys, Runtime(encoder, model=other), golden)
    assert (code, names(report)) == (1, ["another-encoder"])
    assert not report["fingerprint"]["same"]


def test_ways_of_asking(capsys, encoder, golden):
    right, calls = Runtime(encoder), count()

    def cached(texts):
        seen = [text in known for text in texts]
        known.update(texts)
        vectors = right(texts)
        vectors[seen] += vectors.std()
        return vectors

    known = set()
    code, report = check_served(capsys, cached, golden)
    assert code == 1
    assert "unsteady" in names(report)
    code, report = check_served(capsys, lambda texts: right(texts)[np.argsort(texts)], golden)
    assert (code, names(report)) == (1, ["order-lost"])

    def base64_of_doubles(handler, body):
        vectors = right(body["input"])
        if body["encoding_format"] == "base64":
            vectors = np.roll(vectors, 1, axis=1)
        next(calls)
        handler.reply({"data": listed(vectors.tolist())})

    code, report = check_served(capsys, right, golden, answer=base64_of_doubles)
    assert (code, names(report)) == (1, ["base64-differs"])
    assert next(calls) > len(read_certificate(golden).cases)


def test_texts_that_are_refused_are_told_and_no_fault(capsys, encoder, golden):
    right = Runtime(encoder)

    def picky(handler, body):
        if not all(0 < len(text) < 400 for text in body["input"]):
            return handler.reply({"error": {"message": "too short or too long"}}, 400)
        return handler.reply({"data": listed(right(body["input"]).tolist())})

    code, report = check_served(capsys, right, golden, answer=picky)
    assert code == 0
    assert len(report["refused"]) == 2
    assert "too short or too long" in report["refused"][""]


def test_a_key_is_sent_where_its_variable_says(capsys, encoder, golden, monkeypatch):
    code, said = check_served(capsys, Runtime(encoder), golden, key="secret")
    assert code == 2
    assert "wants a key" in said
    monkeypatch.setenv("MY_KEY", "secret")
    assert check_served(capsys, Runtime(encoder), golden, "--key-env", "MY_KEY", key="secret")[0] == 0


def dripping(handler, _):
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" ")
            handler.wfile.flush()
    except OSError:
        pass


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"seconds": 5}, "has not answered within 1 seconds"),
        ({"answer": dripping}, "has not answered within 1 seconds"),
        ({"answer": lambda handler, _: handler.reply(b'{"data": [{"emb', length=900)}, "half"),
        ({"answer": lambda handler, _: handler.reply({"data": []})}, "answers half"),
        ({"answer": lambda handler, _: handler.reply({"choices": ["Hello!"]})}, "something else than embeddings"),
        ({"answer": lambda handler, _: handler.reply({"error": "no such page"}, 404)}, "is not there"),
        ({"answer": lambda handler, _: handler.reply({"error": "full"}, 503)}, "too busy"),
        ({"answer": lambda handler, _: handler.reply({"error": "bad"}, 400)}, "refuses every text"),
    ],
    ids=["slow", "drips", "half", "no-vectors", "chat", "missing", "busy", "refuses"],
)
def test_what_is_no_embeddings_server_ends_with_2_and_a_sentence(capsys, encoder, golden, options, expected):
    seconds = 1 if "within 1" in expected else 60
    code, said = check_served(capsys, Runtime(encoder), golden, "--timeout", seconds, **options)
    assert code == 2
    assert expected in said
    assert len(said.strip().splitlines()) == 1


def test_bad_input_ends_with_2_and_a_sentence(capsys, golden, tmp_path):
    (tmp_path / "notes.txt").write_text("no table")
    pq.write_table(pa.table({"id": ["a"], "vector": [[1.0, 2.0]]}), tmp_path / "ids.parquet")
    pq.write_table(pa.table({"text": ["a"], "vector": [[1.0, 2.0]]}), tmp_path / "other.parquet")
    (tmp_path / "golden.json").write_text('{"format": 9}')
    for arguments, expected in [
        (["http://127.0.0.1:9", "--golden", golden], "does not answer"),
        (["http://127.0.0.1:9"], "give one"),
        (["pocket"], "golden.json"),
        ([tmp_path / "notes.txt", "--golden", golden], "not a readable Parquet file"),
        ([tmp_path / "missing.parquet", "--golden", golden], "not a readable Parquet file"),
        ([tmp_path / "ids.parquet", "--golden", golden], "no column 'text'"),
        ([tmp_path / "other.parquet", "--golden", golden], "none of the certificate's"),
        ([tmp_path / "other.parquet"], "--encoder"),
        (["pocket", "--golden", tmp_path / "golden.json"], "not a certificate that this version reads"),
    ]:
        code, said = checked(capsys, *arguments)
        assert code == 2, said
        assert expected in said
        assert len(said.strip().splitlines()) == 1


def test_a_file_of_vectors(capsys, encoder, golden, tmp_path, articles):
    encoder.save(tmp_path / "encoder")
    texts = [case.text for case in read_certificate(golden).cases]
    for name, encode, listed_texts, against, expected in [
        ("right", encoder.encode, texts, ["--golden", golden], []),
        ("bos", Runtime(encoder, pooled="all"), texts, ["--golden", golden], ["bos-pooled"]),
        ("own", encoder.encode, articles[:12], ["--encoder", tmp_path / "encoder"], []),
        ("short", Runtime(encoder, length=128), articles[:12], ["--encoder", tmp_path / "encoder"], ["cut-short"]),
    ]:
        vectors = list(np.asarray(encode(list(listed_texts))))
        pq.write_table(pa.table({"text": list(listed_texts), "embedding": vectors}), tmp_path / f"{name}.parquet")
        code, report = checked(capsys, tmp_path / f"{name}.parquet", *against)
        assert (code, sorted(set(names(report)))) == (bool(expected), expected), name


def test_a_folder_passes_and_swapped_weights_are_seen(capsys, encoder, causal, tmp_path):
    encoder.save(tmp_path / "encoder")
    write_certificate(encoder, tmp_path / "encoder")
    assert (tmp_path / "encoder" / "golden.json").stat().st_size < 400_000
    code, report = checked(capsys, tmp_path / "encoder")
    assert (code, report["right"]) == (0, True)
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    config |= {"is_causal": True, "use_bidirectional_attention": False}
    (tmp_path / "encoder" / "config.json").write_text(json.dumps(config))
    code, report = checked(capsys, tmp_path / "encoder")
    assert (code, names(report)) == (1, ["causal", "changed-since-saved"])


@pytest.mark.slow
def test_a_folder_in_sentence_transformers(capsys, encoder, tmp_path):
    plain = encoder_of(include_special_tokens=True, prompts={"query": "Find what answers this:"})
    plain.save(tmp_path / "encoder")
    write_certificate(plain, tmp_path / "encoder")
    code, report = checked(capsys, tmp_path / "encoder", "--runtime", "sentence-transformers")
    assert (code, names(report)) == (0, [])
    pooling = json.loads((tmp_path / "encoder" / "1_Pooling" / "config.json").read_text())
    pooling["include_prompt"] = True
    (tmp_path / "encoder" / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    code, report = checked(capsys, tmp_path / "encoder", "--runtime", "sentence-transformers")
    assert (code, names(report)) == (1, ["prompt-pooled"])

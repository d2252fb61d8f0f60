"""Corpora: every kind of input, what is written, what is refused, and going on where a command stopped."""

import datetime
import gzip
import io
import json
import os
import shutil
import sys

import datasets
import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.corpus_files import PACKINGS, TEXTS, content, shards, table, vectors, write, zstd

from unmask import DataError, EncoderSettings, TextEncoder
from unmask.corpus.ids import SeenIds
from unmask.corpus.origin import check_encoder
from unmask.corpus.table import Layout, packed_vectors, parquet_writer
from unmask.corpus.vectors import open_vectors
from unmask.data.records import read_records
from unmask.errors import CorpusError, EncodingError

# --- inputs


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_packed_file_is_read_as_what_is_in_it(tmp_path, suffix, packing):
    path = write(tmp_path, f"a{suffix}{packing}", PACKINGS[packing](content(suffix)))
    columns = {} if suffix == ".txt" else {"id_field": "id"}
    found = list(read_records(path, **columns))
    assert [record.text for record in found] == TEXTS
    assert found[1].id == (f"{path}:2" if suffix == ".txt" else "1")


def test_other_columns_of_parquet_files_are_not_read(tmp_path):
    table = pa.table({"text": ["one"], "when": pa.array([2**62], pa.timestamp("us"))})  # no date of Python's
    pq.write_table(table, tmp_path / "a.parquet")
    assert [record.text for record in read_records(tmp_path / "a.parquet")] == ["one"]
    with pytest.raises(DataError, match="not a readable Parquet file"):
        list(read_records(tmp_path / "a.parquet", id_field="when"))


def test_frames_behind_each_other_are_one_file(tmp_path):
    for pack, name in ((zstd, "a.txt.zst"), (gzip.compress, "a.txt.gz")):
        path = write(tmp_path, name, pack(b"one\n") + pack(b"two\n"))
        assert [record.text for record in read_records(path)] == ["one", "two"]


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_a_packed_file_that_is_cut_short_is_refused(tmp_path, packing):
    whole = PACKINGS[packing](os.urandom(100_000).hex().encode())
    path = write(tmp_path, f"a.txt{packing}", whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"a.txt{packing} cannot be read"):
        list(read_records(path))


def test_folders_patterns_and_several_inputs_are_read_in_order(encode, tmp_path):
    (tmp_path / "texts" / "deep").mkdir(parents=True)
    write(tmp_path / "texts", "b.txt", "three\n")
    write(tmp_path / "texts", "a.jsonl.gz", gzip.compress(b'{"text": "one"}\n{"text": "two"}\n'))
    write(tmp_path / "texts" / "deep", "c.csv", "text\nfour\n")
    write(tmp_path / "texts", "notes.md", "not read\n")
    folder = tmp_path / "texts"
    assert encode(folder, folder / "*.txt", out="v.parquet").texts == 4  # the last is one of the first
    ids = table(tmp_path / "v.parquet")["id"].to_pylist()
    names = ["a.jsonl.gz:1", "a.jsonl.gz:2", "b.txt:1", "deep/c.csv:2"]
    assert ids == [f"{folder}/{name}" for name in names]
    (folder / "link.txt").symlink_to(folder / "b.txt")  # another name, other ids
    assert encode(folder, out="x.parquet").texts == 5
    with pytest.raises(DataError, match=r"\*\.tsv: no file has such a name"):
        encode(folder / "*.tsv", out="w.parquet")


def test_a_data_set_is_read_by_its_split(encode, tmp_path):
    (tmp_path / "set").mkdir()
    write(tmp_path / "set", "train.csv", content(".csv"))
    encode(f"{tmp_path}/set@train", out="v.parquet", id_field="id", keep=("length",))
    found = table(tmp_path / "v.parquet")
    assert found["id"].to_pylist() == [str(n) for n in range(40)]
    assert found["length"].to_pylist() == [len(text) for text in TEXTS]


@pytest.mark.parametrize(("given", "data"), [("-", content(".jsonl")), ("-.tsv.gz", gzip.compress(content(".tsv")))])
def test_standard_input(encode, tmp_path, monkeypatch, given, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert encode(given, out="v.parquet").texts == 40
    assert table(tmp_path / "v.parquet")["id"][0].as_py() == ("stdin:1" if given == "-" else "stdin:2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v.parquet"]


# --- what is written


def test_vectors_are_those_of_encode_in_one_file_and_in_shards(encode, bidirectional, tmp_path):
    path = write(tmp_path, "a.jsonl", content(".jsonl"))
    expected = bidirectional.encode(TEXTS)
    done = encode(path, out="v.parquet", id_field="id")
    assert (done.texts, done.new, done.cut, done.shards) == (40, 40, 0, 1)
    assert done.tokens == sum(len(text) for text in bidirectional.tokenize(TEXTS))
    np.testing.assert_allclose(vectors(table(tmp_path / "v.parquet")), expected, atol=1e-5)
    assert encode(path, out="v", id_field="id", shard_rows=16).shards == 3
    assert [pq.read_metadata(tmp_path / "v" / f"part-0000{n}.parquet").num_rows for n in range(3)] == [16, 16, 8]
    np.testing.assert_allclose(vectors(table(tmp_path / "v")), expected, atol=1e-5)
    encode(path, out="v.npy", id_field="id", shard_rows=None)
    np.testing.assert_allclose(np.load(tmp_path / "v.npy", mmap_mode="r"), expected, atol=1e-5)
    assert not list(tmp_path.glob("*.partial"))


def test_dimensions_are_the_first_numbers_scaled(encode, bidirectional, tmp_path):
    path = write(tmp_path, "a.txt", content(".txt"))
    encode(path, out="v.parquet", dimensions=24)
    first = bidirectional.encode(TEXTS)[:, :24]
    expected = first / np.linalg.norm(first, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors(table(tmp_path / "v.parquet")), expected, atol=1e-5)
    with pytest.raises(DataError, match="--dimensions 9999: the vectors of this encoder have 256"):
        encode(path, out="w.parquet", dimensions=9999)
    assert not (tmp_path / "w.parquet.partial").exists()


# Parquet has no integer below 32 bits: int8 took as much as float32.
@pytest.mark.parametrize(("precision", "bits"), [("float32", 32), ("float16", 16), ("int8", 8), ("binary", 1)])
def test_a_number_takes_what_its_precision_says(tmp_path, precision, bits):
    layout, rows, path = Layout(precision, 256, {}), 8192, tmp_path / "v.parquet"
    drawn = np.random.default_rng(0).normal(size=(rows, 256)).astype(np.float32)
    with parquet_writer(path, layout) as writer:
        writer.write_batch(layout.batch(["a"] * rows, [()] * rows, drawn))
    assert path.stat().st_size < 1.2 * rows * 256 * bits / 8


@pytest.mark.parametrize("precision", ["float16", "int8", "binary"])
def test_precisions_are_read_by_anybody(encode, bidirectional, tmp_path, precision):
    """By pyarrow, polars, DuckDB and datasets, and by arithmetic that the guide states."""
    path = write(tmp_path, "a.jsonl", content(".jsonl"))
    encode(path, id_field="id", keep=("length",), precision=precision, shard_rows=16)
    expected, width = bidirectional.encode(TEXTS), 32 if precision == "binary" else 256
    found = table(tmp_path / "out")
    assert found["vector"].type.list_size == width
    stored = vectors(found)
    if precision == "int8":
        scale = found["scale"].to_numpy()[:, None]
        assert np.abs(stored * scale - expected).max() <= 0.51 * scale.max()
    elif precision == "binary":
        np.testing.assert_array_equal(np.unpackbits(stored, axis=1), expected > 0)
    else:
        np.testing.assert_allclose(stored, expected, rtol=2e-3, atol=1e-4)
    pattern = str(tmp_path / "out" / "*.parquet")
    by_polars = polars.read_parquet(pattern)
    by_duckdb = duckdb.sql(f"select id, vector, length from '{pattern}' order by id::int").fetchall()
    by_datasets = datasets.load_dataset("parquet", data_files=pattern, cache_dir=tmp_path / "cache", split="train")
    for rows in (
        [(one["id"], one["vector"], one["length"]) for one in by_polars.to_dicts()],
        by_duckdb,
        [(one["id"], one["vector"], one["length"]) for one in by_datasets],
    ):
        assert [row[0] for row in rows] == [str(n) for n in range(40)]
        assert [row[2] for row in rows] == [len(text) for text in TEXTS]
        np.testing.assert_allclose(np.array([row[1] for row in rows], dtype=np.float32), stored.astype(np.float32))


def test_a_row_of_zeros_has_a_scale():
    stored, scale = packed_vectors(np.zeros((1, 8), dtype=np.float32), "int8")
    assert not stored.any()
    assert scale.tolist() == [0.0]


def test_kept_columns_have_one_kind(encode, tmp_path):
    rows = [
        {"text": "a", "n": 1, "x": None, "tags": ["a", 1], "flag": True},
        {"text": "b", "n": 1.5, "x": "word", "tags": {"k": None}, "flag": None},
    ]
    path = write(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    encode(path, out="v.parquet", keep=("n", "x", "tags", "flag"))
    found = table(tmp_path / "v.parquet")
    assert [str(found[name].type) for name in ("n", "x", "tags", "flag")] == ["double", "string", "string", "bool"]
    assert found["tags"].to_pylist() == ['["a", 1]', '{"k": null}']
    assert found["n"].to_pylist() == [1.0, 1.5]
    assert found["flag"].to_pylist() == [True, None]
    path = write(tmp_path, "b.jsonl", '{"text": "a", "n": 1}\n{"text": "b", "n": "two"}\n')
    with pytest.raises(DataError, match=r"b.jsonl:2: 'n' is a string here and a int64 in rows before it"):
        encode(path, out="w.parquet", keep=("n",))
    with pytest.raises(DataError, match="--keep vector: the output has a column of that name"):
        encode(path, out="w.parquet", keep=("vector",))


def test_texts_that_are_cut_are_counted(encode, tmp_path, bidirectional):
    limit = bidirectional.settings.max_length
    path = write(tmp_path, "a.txt", "short\n" + "word " * 10 * limit + "\n" + "word " * 100 * limit + "\n")
    done = encode(path, out="v.parquet")
    assert done.cut == 2
    assert done.tokens < 2 * limit + 10
    assert "2 texts were longer than the model reads and were cut" in str(done)


def test_documents_get_their_saved_prompt(encode, tmp_path, bidirectional):
    settings = EncoderSettings(prompts={"query": "Find: ", "document": "Text: "})
    encoder = TextEncoder(bidirectional.model, bidirectional.tokenizer, settings)
    path = write(tmp_path, "a.txt", content(".txt"))
    encode(path, out="v.parquet", encoder=encoder)
    np.testing.assert_allclose(
        vectors(table(tmp_path / "v.parquet")), bidirectional.encode(TEXTS, prompt="Text: "), atol=1e-5
    )
    encode(path, out="w.parquet", encoder=encoder, prompt="")
    np.testing.assert_allclose(vectors(table(tmp_path / "w.parquet")), bidirectional.encode(TEXTS), atol=1e-5)


# --- going on


def test_missing_shards_are_encoded_and_the_bytes_are_the_same(encode, tmp_path):
    path = write(tmp_path, "a.jsonl.zst", zstd(content(".jsonl")))
    options = {"id_field": "id", "shard_rows": 7, "keep": ("length",)}
    encode(path, **options)
    whole = shards(tmp_path / "out")
    manifest = (tmp_path / "out" / "manifest.json").read_bytes()
    for lost in ([1, 4], [0], [3, 4, 5]):
        for number in lost:
            (tmp_path / "out" / f"part-0000{number}.parquet").unlink()
        write(tmp_path / "out", f"part-0000{lost[0]}.parquet.host-1.partial", b"half")
        done = encode(path, **options)
        assert done.new == sum(5 if number == 5 else 7 for number in lost)
        assert shards(tmp_path / "out") == whole
        assert not list((tmp_path / "out").glob("*.partial"))
    assert encode(path, **options).new == 0
    (tmp_path / "out" / "part-00002.parquet").write_bytes(whole["part-00001.parquet"][:-9])
    with pytest.raises(DataError, match=r"part-00002.parquet is not the shard that the manifest tells of; remove it"):
        encode(path, **options)
    (tmp_path / "out" / "part-00002.parquet").unlink()
    assert encode(path, **options).new == 7
    assert (tmp_path / "out" / "manifest.json").read_bytes() == manifest
    found = json.loads(manifest)
    assert [one["name"] for one in found["additions"][0]["inputs"]] == [str(path)]
    said = json.loads(pq.read_metadata(tmp_path / "out" / "part-00002.parquet").metadata[b"unmask"])
    assert said["fingerprint"] == found["fingerprint"]


def test_another_encoder_setting_or_input_is_refused_and_told(encode, bidirectional, tmp_path, tiny, tokenizer):
    path = write(tmp_path, "a.txt", content(".txt"))
    for out in ("out", "v.parquet", "v.npy"):
        first = encode(path, out=out)
        again = encode(path, out=out)  # the same is no error
        assert (again.texts, again.tokens, again.new) == (40, first.tokens, 0)
        assert str(again).endswith("tokens, all of them before")
        before = {name: name.read_bytes() for name in tmp_path.rglob("*") if name.is_file()}
        other = TextEncoder(tiny("llama").model, tokenizer)
        cases = [
            ({"encoder": other}, "encoder: it was"),
            ({"precision": "int8"}, "precision: it was 'float32', and is 'int8'"),
            ({"prompt": "Read: "}, "prompt: it was '', and is 'Read: '"),
            ({"normalize": True}, "normalize: it was False, and is True"),
            ({"dimensions": 24}, "dimensions: it was None, and is 24"),
        ]
        for options, message in cases:
            with pytest.raises(DataError, match=message):
                encode(path, out=out, **options)
        write(tmp_path, "a.txt", content(".txt") + b"one more\n")
        with pytest.raises(DataError, match=r"inputs: .*a.txt had .* bytes, SHA-256 .*, and has"):
            encode(path, out=out)
        write(tmp_path, "a.txt", content(".txt"))
        assert {name: name.read_bytes() for name in tmp_path.rglob("*") if name.is_file()} == before


def test_an_array_goes_on_wherever_its_command_was_killed(encode, tmp_path):
    path = write(tmp_path, "a.txt", content(".txt"))
    companion, partial = tmp_path / "v.npy.json", tmp_path / "v.npy.partial"
    companion.mkdir()  # in its way, so that the command ends when all shards are there
    with pytest.raises(CorpusError, match=r"v.npy cannot be written"):
        encode(path, out="v.npy")
    companion.rmdir()
    shutil.copytree(partial, tmp_path / "kept")
    assert encode(path, out="v.npy").new == 0
    whole = {name: (tmp_path / name).read_bytes() for name in ("v.npy", "v.npy.json")}
    for there in ([], ["v.npy.json"], ["v.npy.json", "v.npy"]):
        for name in whole.keys() - set(there):
            (tmp_path / name).unlink()
        shutil.copytree(tmp_path / "kept", partial)
        assert encode(path, out="v.npy").new == 0
        assert {name: (tmp_path / name).read_bytes() for name in whole} == whole
        assert not partial.exists()


def test_a_renamed_encoder_is_the_same(encode, bidirectional, tmp_path):
    path = write(tmp_path, "a.txt", content(".txt"))
    encode(path)
    bidirectional.save(tmp_path / "saved")
    assert encode(path, encoder=TextEncoder.load(tmp_path / "saved", dtype="float32")).new == 0


def test_what_is_not_ours_is_left_alone(encode, tmp_path):
    path = write(tmp_path, "a.txt", "text\n")
    (tmp_path / "own").mkdir()
    write(tmp_path / "own", "thesis.tex", "x")
    write(tmp_path, "v.parquet", content(".parquet"))
    write(tmp_path, "v.npy", b"x")
    for out, message in (("own", "holds something else"), ("v.parquet", "exists already"), ("v.npy", "exists already")):
        with pytest.raises(DataError, match=message):
            encode(path, out=out)


def test_parts_of_an_array_of_jobs_are_the_whole(encode, tmp_path):
    path = write(tmp_path, "a.txt", content(".txt"))
    encode(path, out="whole", shard_rows=6)
    for part in (3, 1, 2):
        encode(path, out="parts", shard_rows=6, part=(part, 3))
    assert shards(tmp_path / "parts") == shards(tmp_path / "whole")
    with pytest.raises(DataError, match="counted from 1"):
        encode(path, out="parts", shard_rows=6, part=(0, 3))
    with pytest.raises(DataError, match="--shard is for folders of shards"):
        encode(path, out="v.parquet", part=(1, 3))


def test_only_rows_with_new_ids_are_added(encode, bidirectional, tmp_path):
    first = write(tmp_path, "a.jsonl", content(".jsonl", TEXTS[:25]))
    later = write(tmp_path, "b.jsonl", content(".jsonl"))
    options = {"id_field": "id", "shard_rows": 10, "keep": ("length",)}
    encode(first, **options)
    before = shards(tmp_path / "out")
    with pytest.raises(DataError, match="New rows are added by --append"):
        encode(later, **options)
    done = encode(later, **options, append=True)
    assert (done.new, done.known, done.texts) == (15, 25, 15)
    after = shards(tmp_path / "out")
    assert before.items() <= after.items()
    found = table(tmp_path / "out")
    assert found["id"].to_pylist() == [str(n) for n in range(40)]
    np.testing.assert_allclose(vectors(found), bidirectional.encode(TEXTS), atol=1e-5)
    (tmp_path / "out" / "part-00003.parquet").unlink()  # as if it had been killed
    third = write(tmp_path, "c.jsonl", content(".jsonl", [*TEXTS, "newer"]))
    with pytest.raises(DataError, match="not whole yet"):
        encode(third, **options, append=True)
    marks = (tmp_path / "out" / ".passed-over-1.npy").rename(tmp_path / "marks")  # as by `cp -r out/* elsewhere`
    with pytest.raises(DataError, match=r"passed-over-1.npy is missing"):
        encode(later, **options, append=True)
    marks.rename(tmp_path / "out" / ".passed-over-1.npy")
    assert encode(later, **options, append=True).new == 5
    assert shards(tmp_path / "out") == after
    assert encode(later, **options, append=True).new == 0
    assert encode(third, **options, append=True).new == 1
    assert encode(third, **options, append=True).new == 0
    assert encode(first, **options).new == 0


def test_ids_are_compared_in_bounded_memory(monkeypatch):
    monkeypatch.setattr("unmask.corpus.ids._AT_ONCE", 50)
    generator = np.random.default_rng(0)
    ids = [str(n) for n in generator.integers(0, 400, 1000)]
    seen = SeenIds()
    for identity in ids:
        seen.add(identity)
    known, first = set(ids[:300]), set()
    expected = []
    for identity in ids[300:]:
        expected.append(1 if identity in known else 2 if identity in first else 0)
        first.add(identity)
    assert seen.repeated(300).tolist() == expected


def test_times_are_kept_as_times_whatever_their_unit_and_zone(encode, tmp_path):
    when = [datetime.datetime(2020, 1, 1, 12), datetime.datetime(2021, 6, 1, 0, 0, 1)]
    columns = {"nano": pa.timestamp("ns"), "micro": pa.timestamp("us"), "berlin": pa.timestamp("ns", "Europe/Berlin")}
    arrays = {name: pa.array(when, pa.timestamp("us")).cast(kind) for name, kind in columns.items()}
    pq.write_table(pa.table({"text": ["one", "two"], **arrays}), tmp_path / "a.parquet")
    encode(tmp_path / "a.parquet", out="v.parquet", keep=list(columns))
    found = table(tmp_path / "v.parquet")
    assert found["nano"].to_pylist() == found["micro"].to_pylist() == when
    assert found.schema.field("berlin").type == pa.timestamp("us", "UTC")
    assert [one.replace(tzinfo=None) for one in found["berlin"].to_pylist()] == when  # the same moments


@pytest.mark.parametrize("precision", ["float32", "binary"])
def test_an_array_of_ours_says_whose_vectors_it_holds(encode, bidirectional, tmp_path, precision):
    path = write(tmp_path, "a.txt", "one\ntwo\n")
    encode(path, out="v.npy", dimensions=60, precision=precision)
    found = open_vectors(tmp_path / "v.npy")
    assert found.origin.fingerprint == bidirectional.fingerprint()
    assert (found.origin.dimension, found.dimension) == (60, 60)
    check_encoder(bidirectional, "pocket", found.path, found.origin, found.dimension)
    np.save(tmp_path / "v.npy", np.zeros((2, 3), np.float32))  # somebody else's
    assert open_vectors(tmp_path / "v.npy").origin.fingerprint is None


def test_a_number_too_large_for_float16_is_refused():
    with pytest.raises(EncodingError, match=r"the number 70,000, more than float16 holds"):
        packed_vectors(np.full((1, 4), -7e4, dtype=np.float32), "float16")

"""Corpora that cannot be encoded: told before anything is written, or passed over where that was asked for."""

import fcntl
import gzip
import io
import json
import os
import resource
import shutil
import socket
import subprocess
import sys

import datasets
import pytest
from tests.corpus_files import TEXTS, content, shards, table, write

from unmask import CorpusOptions, DataError
from unmask.cli.main import build_parser
from unmask.corpus.encode import carry_out
from unmask.corpus.plan import make_plan
from unmask.corpus.ray_engine import RayEngine, cpus_each
from unmask.errors import CorpusError


def bad(folder):
    rows = "".join(f'{{"text": "row {n}", "id": {n}}}\n' for n in range(5))
    return [
        (write(folder, "a.jsonl", rows + '{"txt": "x"}\n'), r"a.jsonl:6: no 'text' here; found 'txt'"),
        (write(folder, "b.jsonl", rows + '{"text": 5}\n'), r"b.jsonl:6: 'text' is a int, expected a string"),
        (write(folder, "c.txt", b"one\ntw\0o\n"), r"c.txt is a binary file"),
        (write(folder, "d.txt", b"one\n" * 3000 + b"tw\0o\n"), r"d.txt:3001: a zero byte"),
        (write(folder, "e.txt", b"one\ncaf\xe9\n"), r"e.txt:2: not UTF-8"),
        (write(folder, "f.txt", b"one\n" + b"x" * 100_000_000 + b"\ntwo\n"), r"f.txt:2: a line of 67,108,864 char"),
        (write(folder, "g.txt", b""), r"g.txt is empty"),
        (write(folder, "h.csv", "id,text\n1,one\n2,two,three\n"), r"h.csv:3: 3 columns, the header has 2"),
        (write(folder, "i.jsonl", rows + "{broken\n"), r"i.jsonl:6: broken JSON"),
        (write(folder, "j.csv", "id,other\n1,one\n"), r"j.csv:2: no 'text' here; found 'id', 'other'"),
        (folder / "none.txt", "none.txt: no such file"),
        (write(folder, "k.txt", "\n\n"), "k.txt: no text found"),
    ]


def test_bad_input_is_told_before_anything_is_written(encode, tmp_path):
    good = write(tmp_path, "0.txt", "fine\n")
    cases = bad(tmp_path)
    before = sorted(tmp_path.iterdir())
    for path, message in cases:
        with pytest.raises(DataError, match=message):
            encode(good, path)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["-", "v.csv", "v.jsonl"])
def test_an_output_that_would_be_no_folder_is_refused(encode, tmp_path, name):
    with pytest.raises(DataError, match=r"vectors are written as \.parquet, \.npy or a folder of shards"):
        encode(write(tmp_path, "a.txt", "one\n"), out=name)
    assert not (tmp_path / name).exists()


def test_columns_between_semicolons_are_called_that(encode, tmp_path):
    with pytest.raises(DataError, match="Semicolons do not part columns here"):
        encode(write(tmp_path, "a.csv", "id;text\n1;one, two\n"))


@pytest.mark.parametrize("arguments", [["pocket", "-.csv", "--out", "v"], ["--out", "v", "pocket", "-.jsonl.gz", "x"]])
def test_the_kind_of_standard_input_is_no_option(arguments):
    assert build_parser().parse_args(["encode", *arguments]).inputs[0].startswith("-.")


def test_broken_rows_go_to_a_file_of_rejects(encode, tmp_path):
    cases = [case for case in bad(tmp_path) if case[0].name not in ("none.txt", "k.txt", "j.csv")]
    done = encode(*(path for path, _ in cases), on_error="skip", shard_rows=100)
    assert done.rejected == len(cases)
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert [os.path.basename(one["file"]) for one in rejects] == [path.name for path, _ in cases]
    assert [one["line"] for one in rejects] == [6, 6, 0, 3001, 2, 2, 0, 3, 6]
    whole = shards(tmp_path / "out")
    ids = table(tmp_path / "out")["id"].to_pylist()
    assert len(ids) == done.texts == 5 + 5 + 3000 + 1 + 2 + 1 + 5
    for number in (1, 30):  # the second begins behind most that was rejected
        (tmp_path / "out" / f"part-{number:05d}.parquet").unlink()
    encode(*(path for path, _ in cases), on_error="skip", shard_rows=100)
    assert shards(tmp_path / "out") == whole


def test_a_broken_line_inside_a_csv_cell_takes_its_row_along(encode, tmp_path):
    lines = [b"id,text", b'1,"one', b"caf\xe9", b'end"', b"2,two", b"caf\xe9,x", b"3,three"]
    path = write(tmp_path, "a.csv", b"\n".join(lines))
    encode(path, out="v.parquet", id_field="id", on_error="skip")
    assert table(tmp_path / "v.parquet")["id"].to_pylist() == ["2", "3"]
    rejects = [json.loads(line) for line in (tmp_path / "v.parquet.rejects.jsonl").read_text().splitlines()]
    assert [one["line"] for one in rejects] == [3, 6]


def test_repeated_ids_are_told(encode, tmp_path):
    path = write(tmp_path, "a.csv", "id,text\n1,a\n2,b\n1,c\n3,d\n2,e\n")
    with pytest.raises(DataError, match=r"a.csv:4: the id '1' is that of a row before it"):
        encode(path, out="v.parquet", id_field="id")
    done = encode(path, out="v.parquet", id_field="id", on_error="skip")
    assert (done.texts, done.rejected) == (3, 2)
    assert table(tmp_path / "v.parquet")["id"].to_pylist() == ["1", "2", "3"]


def test_a_full_disk_is_told_and_the_command_goes_on(bidirectional, tmp_path):
    """A limit on the size of files stands for the disk: the same error on the same way."""
    path = write(tmp_path, "a.txt", "".join(f"{text}\n" for text in TEXTS * 4))
    bidirectional.save(tmp_path / "encoder")
    code = (
        "import resource, sys; from unmask.cli.main import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, -1)); first = main(sys.argv[1:]); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1)); print(first, main(sys.argv[1:]))"
    )
    command = ["encode", str(tmp_path / "encoder"), str(path), "--out", str(tmp_path / "out"), "--shard-rows", "80"]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    assert done.stdout.strip() == "1 0", done.stderr
    refused, written = done.stderr.splitlines()
    assert "part-00000.parquet cannot be written (File too large)" in refused
    assert written.startswith("160 vectors written")
    assert table(tmp_path / "out").num_rows == 160


def test_no_room_for_temporary_files_is_told(encode, tmp_path):
    path = write(tmp_path, "a.jsonl", '{"text": "one"}\n{"text": 2}\n')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(CorpusError, match=r"cannot be written \(File too large\)"):
            encode(path, on_error="skip")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert encode(path, on_error="skip").rejected == 1


def test_inputs_that_change_while_they_are_read_are_told(bidirectional, tmp_path):
    path = write(tmp_path, "a.txt", "one\ntwo\n")
    plan = make_plan([str(path)], tmp_path / "out", CorpusOptions())
    write(tmp_path, "a.txt", "zero\none\ntwo\n")
    with pytest.raises(DataError, match=r"a.txt changed while it was read"):
        carry_out(plan, bidirectional)


def test_an_address_without_a_cluster_is_told(encode, bidirectional, tmp_path):
    plan = make_plan([str(write(tmp_path, "a.txt", "one\n"))], tmp_path / "out", CorpusOptions())
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = f"127.0.0.1:{server.getsockname()[1]}"
    for address, message in (
        (free, "No Ray cluster answers at 127.0.0.1"),
        ("nonsense", "is no address of a Ray clus"),
    ):
        with pytest.raises(DataError, match=message):
            carry_out(plan, bidirectional, engine=RayEngine(address=address))


def test_a_data_set_that_is_fetched_first_is_the_same_later(encode, tmp_path, monkeypatch):
    """The cache knows no revision of it before the first command has fetched it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    rows = datasets.Dataset.from_dict({"text": TEXTS})

    def fetch(*_, **__):
        (tmp_path / "cache" / "datasets--owner--name" / "snapshots" / "a1").mkdir(parents=True, exist_ok=True)
        return rows

    monkeypatch.setattr("datasets.load_dataset", fetch)
    assert encode("owner/name@train").new == 40
    assert encode("owner/name@train").new == 0


def test_two_commands_do_not_write_at_once(encode, tmp_path, monkeypatch):
    path = write(tmp_path, "a.txt", content(".txt"))
    encode(path, shard_rows=8)
    (tmp_path / "out" / "part-00001.parquet").unlink()
    with (tmp_path / "out" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="is being written by another process"):
            encode(path, shard_rows=8)
    assert encode(path, shard_rows=8).new == 8
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\n")))
    with (tmp_path / "v.parquet.stdin").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b"another's")
        file.flush()
        with pytest.raises(DataError, match=r"v.parquet is being written by another process"):
            encode("-", out="v.parquet")
    assert (tmp_path / "v.parquet.stdin").read_bytes() == b"another's"
    assert encode("-", out="v.parquet").texts == 1
    assert not (tmp_path / "v.parquet.stdin").exists()


def test_the_output_is_none_of_its_inputs(encode, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    write(folder, "a.jsonl", content(".jsonl"))
    write(folder, "v.parquet.gz", gzip.compress(content(".parquet")))  # named nearly as it, and an input
    for out in ("texts/out", "texts/v.parquet"):
        done = encode(folder, out=out, id_field="id", on_error="skip")
        assert (done.texts, done.rejected) == (40, 40)
        assert encode(folder, out=out, id_field="id", on_error="skip").new == 0
        shutil.rmtree(folder / "out", ignore_errors=True)


def test_workers_of_ray_find_room_on_its_machines():
    assert cpus_each([(8, 0)], 2) == 4
    assert cpus_each([(8, 0), (8, 0)], 1) == 8  # never more than one machine has
    assert cpus_each([(8, 0), (2, 0)], 3) == 2
    assert cpus_each([(64, 0), (8, 1), (16, 2)], 3) == 8
    assert 0 < 3 * cpus_each([(2, 0)], 3) <= 2

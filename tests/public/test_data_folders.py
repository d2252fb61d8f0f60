"""Folders in the layout of a data set: read as strictly as files, and known by what they hold."""

import json
import os

import pytest

from unmask.data.pairs import read_pairs
from unmask.data.sources import open_rows, read_texts
from unmask.errors import DataError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n"


# The library keeps what it once read under the time of change: a corrected folder was scored as it had been.
def test_a_changed_file_of_the_same_time_and_size_is_read_again(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "aaa"}\n')
    assert read_texts([f"{tmp_path}@train"]) == ["aaa"]
    before = path.stat()
    path.write_text('{"text": "bbb"}\n')
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read_texts([f"{tmp_path}@train"]) == ["bbb"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.tsv", 'text\tlabel\n"Wow, he.\tpos\nOther\tneg\n"Again\tpos\n', r"train.tsv:2: broken CSV"),
        ("train.csv", "text,text\na,b\n", r"train.csv:1: two columns are called 'text'"),
        ("train.csv", "text,label\na\n", r"train.csv:2: 1 columns"),
        ("train.txt", POINTER, r"train.txt is a Git LFS pointer"),
        ("train.parquet", POINTER, r"train.parquet is a Git LFS pointer"),
        ("train.jsonl", '{"text": "a \\ud83d"}\n', r"@train cannot be read: .*surrogate"),
    ],
)
def test_what_a_file_alone_is_refused_for(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_texts([f"{tmp_path}@train"])


def test_a_judgement_in_a_later_row_is_heard(tmp_path):
    rows = [{"sentence1": "a", "sentence2": "b", "x": None}, {"sentence1": "a", "sentence2": "c", "x": False}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="row 1: column 'x' seems to say"):
        list(read_pairs([f"{tmp_path}@train"]))


def test_quoting_none_is_for_files(tmp_path):
    (tmp_path / "train.csv").write_text("text\na\n")
    with pytest.raises(DataError, match="quoting none is for csv and tsv files"):
        list(open_rows(f"{tmp_path}@train", ["text"], quoting="none"))

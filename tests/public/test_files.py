"""Files that people brought and that were silently read as something else: every row is right, or the line is named."""

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unmask.corpus.plan import CorpusOptions, make_plan
from unmask.data.pairs import Pair, PairColumns, read_pairs
from unmask.data.ranking import read_beir
from unmask.data.records import read_records, read_rows
from unmask.data.sources import read_labelled_texts
from unmask.data.words import ColumnFile
from unmask.errors import DataError


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def texts(path, **options):
    return [record.text for record in read_records(path, **options)]


# Data sets of tweets and of product titles (5" screens) come as tsv without any quoting; rows vanished.
@pytest.mark.parametrize(
    ("name", "content", "line", "rows"),
    [
        ("a.tsv", 'text\tlabel\n"Wow, he said.\tpos\nOther\tneg\n"Again\tpos\nLast\tneg\n', 2, 4),
        ("a.tsv", 'id\ttext\n1\tplain\n2\t"To be, or not\n3\tmiddle\n4\tlast\n', 3, 4),
        ("a.csv", 'text\n"Oh no\nsecond\nthird\n', 2, 3),
        ("a.tsv", 'text\tlabel\n"He left.\tpos\nShe said "yes"\tneg\n', 2, 2),
        ("a.tsv", 'text\tlabel\n"He left.\tpos\nand came"\tneg\n', 2, 2),
    ],
)
def test_unpaired_quotation_marks(tmp_path, name, content, line, rows):
    path = write(tmp_path, name, content)
    with pytest.raises(DataError, match=rf"{name}:{line}: broken CSV.*quoting none"):
        list(read_rows(path))
    assert len(list(read_rows(path, "none"))) == rows
    assert list(read_rows(path, "none"))[line - 2][1]["text"].startswith('"')


def test_quoted_cells_may_run_over_lines_and_keep_their_first_line(tmp_path):
    path = write(tmp_path, "a.csv", 'id,text\n1,"two\nlines, one ""cell"""\n2,5" nails\n')
    assert list(read_rows(path)) == [
        (2, {"id": "1", "text": 'two\nlines, one "cell"'}),
        (4, {"id": "2", "text": '5" nails'}),
    ]


def test_two_columns_of_one_name_are_not_merged(tmp_path):
    with pytest.raises(DataError, match=r"a.csv:1: two columns are called 'text'"):
        list(read_rows(write(tmp_path, "a.csv", "text,text\na,b\n")))


# `datasets` writes JSON lines as .json, many tools as .ndjson; they were encoded with brackets and quotes.
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.ndjson", "A.JSON", "a.data", "a"])
def test_json_lines_under_any_name(tmp_path, name):
    assert texts(write(tmp_path, name, '\n{"text": "a cat"}\r\n\n{"text": "stocks"}')) == ["a cat", "stocks"]


@pytest.mark.parametrize("name", ["a.json", "A.JSON", "a.jsonl", "a.data", "a"])
def test_an_array_of_objects(tmp_path, name):
    path = write(tmp_path, name, b'\xef\xbb\xbf [\n {"text": "a",\n "n": 1},\n {"text": "b ]"}\n]\n')
    assert list(read_rows(path)) == [(2, {"text": "a", "n": 1}), (4, {"text": "b ]"})]
    assert list(read_rows(write(tmp_path, "a.json", "[]"))) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{\n "architectures": ["A"]\n}', r"a.json:1: broken JSON"),
        ('[{"text": "a"}\n{"text": "b"}]', r"a.json:1: broken JSON .neither a comma"),
        ('[{"text": "a"},\n]', r"a.json:2: broken JSON"),
        ('[{"text": "a"}] [{"text": "b"}]', "something follows"),
        ('[\n{"text": "a"},\n3]', r"a.json:3: expected a JSON object, found a int"),
        ('{"text": "a", "text": "b"}', r"a.json:1: broken JSON .one object has two values of one key"),
        ("[" * 100_000, r"a.json:1: broken JSON"),
        ('{"text": ' + "[" * 100_000, r"a.json:1: broken JSON"),
    ],
)
def test_json_that_is_neither_is_named(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        list(read_rows(write(tmp_path, "a.json", content)))


def test_json_in_a_text_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"holds JSON; give it a name that ends in .jsonl"):
        texts(write(tmp_path, "a.txt", '{"text": "a"}\n{"text": "b"}\n'))
    for content in ('[{"text": "a"},\n{"text": "b"}]', '{\n "text": "a"\n}', '{"text": "a"}\r{"text": "b"}\r'):
        with pytest.raises(DataError, match="holds JSON"):
            texts(write(tmp_path, "a.txt", content))
    with pytest.raises(DataError, match=r"a.txt holds JSON"):
        texts(write(tmp_path, "a.txt", '[{"text": "' + "long " * 4000 + '"}]'))
    for line in ("{curly} brackets", "[1] Introduction", '{"a": 1} is JSON', "[{x}]", "id,text"):
        assert texts(write(tmp_path, "b.txt", f"{line}\nnext\n")) == [line, "next"]


def test_text_has_no_ids(tmp_path):
    with pytest.raises(DataError, match=r"a.txt is text, a record a line; it has no 'id'"):
        texts(write(tmp_path, "a.txt", "id,text\n1,a\n"), id_field="id")


def test_parquet_under_any_name(tmp_path):
    table = pa.table({"text": ["a", "b"]})
    for name in ("a.PARQUET", "a.pq", "a.txt"):
        pq.write_table(table, tmp_path / name)
        assert texts(tmp_path / name) == ["a", "b"]
    pq.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), tmp_path / "twice.parquet")
    with pytest.raises(DataError, match="two columns are called 'text'"):
        texts(tmp_path / "twice.parquet")


# Exports of old spreadsheets end lines by \r alone: one text, or one row.
def test_every_line_end_ends_a_line(tmp_path):
    for end in ("\n", "\r\n", "\r"):
        assert texts(write(tmp_path, "a.txt", f"one{end}two{end}")) == ["one", "two"]
        assert texts(write(tmp_path, "a.csv", f"id,text{end}1,one{end}2,two{end}")) == ["one", "two"]
        assert texts(write(tmp_path, "a.jsonl", f'{{"text": "one"}}{end}{{"text": "two"}}')) == ["one", "two"]
        (sentence,) = ColumnFile(write(tmp_path, "a.conll", f"the DT{end}cat NN{end}"))
        assert sentence.words == ("the", "cat")
    assert texts(write(tmp_path, "a.txt", "a\u2028b\x0bc\x85d\n")) == ["a\u2028b\x0bc\x85d"]  # these end none


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x1f\x8b\x08\x00abc", "cannot be read"),
        (gzip.compress(gzip.compress(b"text", mtime=0), mtime=0), "packed twice"),
        (b"PK\x03\x04abc", "a zip archive"),
        ("text".encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "Git LFS pointer.*git lfs pull"),
        (b"ab\x00c", "binary file"),
        (b"caf\xe9\n", r"a.jsonl:1: not UTF-8"),
        (b'{"text": "' + b"x" * 9000 + b'"}\n\x00\n', r"a.jsonl:2: a zero byte"),
    ],
)
def test_what_is_no_text_is_named(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        texts(write(tmp_path, "a.jsonl", content))


# Crawled text has halves of emoji; tokenizers raise deep inside.
def test_half_a_surrogate_pair_is_named_with_its_line(tmp_path):
    whole = '{"text": "emoji \\ud83d\\ude00"}\n'
    assert texts(write(tmp_path, "a.jsonl", whole)) == ["emoji \U0001f600"]
    with pytest.raises(DataError, match=r"a.jsonl:2: half of a surrogate pair"):
        texts(write(tmp_path, "a.jsonl", whole + '{"text": "cut \\ud83d here"}\n'))
    with pytest.raises(DataError, match=r"a.json:2: half of a surrogate pair"):
        texts(write(tmp_path, "a.json", '[\n{"text": "cut \\uDE00 here"}]\n'))


# `sentence1, sentence2, label`: pairs of label 0 were trained as positives.
@pytest.mark.parametrize("name", ["label", "score", "is_duplicate", "similarity_score", "gold_label", "flag"])
def test_a_column_that_judges_pairs_is_not_passed_over(tmp_path, name):
    value = "true" if name == "flag" else "0"
    rows = f'{{"sentence1": "a", "sentence2": "b", "{name}": {value}}}\n'
    rows += f'{{"sentence1": "c", "sentence2": "d", "{name}": 1}}\n'
    path = str(write(tmp_path, "a.jsonl", rows))
    with pytest.raises(DataError, match=rf"a.jsonl:1: column '{name}' seems to say.*where {name}=1"):
        list(read_pairs([path]))
    assert len(list(read_pairs([path], PairColumns("sentence1", "sentence2")))) == 2
    if name != "flag":
        assert list(read_pairs([path], PairColumns(where={name: 1}))) == [Pair("c", "d")]
        assert list(read_pairs([path], PairColumns(where={name: "1.0"}))) == [Pair("c", "d")]
    with pytest.raises(DataError, match="no 'lable' here, which `where` asks for"):
        list(read_pairs([path], PairColumns("sentence1", "sentence2", where={"lable": 1})))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("isDuplicate", 0),
        ("y", 1),
        ("correct", "no"),
        ("upvotes", 3.5),
        ("relation", "neutral"),
        ("z", "contradiction"),
    ],
)
def test_a_judgement_is_known_by_other_names_and_by_what_it_holds(tmp_path, name, value):
    path = str(write(tmp_path, "a.jsonl", json.dumps({"question": "a", "answer": "b", name: value})))
    with pytest.raises(DataError, match=rf"a.jsonl:1: column '{name}' seems to say"):
        list(read_pairs([path]))
    assert list(read_pairs([path], PairColumns(where={name: value}))) == [Pair("a", "b")]
    plain = {
        "id": 3,
        "qid1": "4",
        "answer_start": 5,
        "year": 1999,
        "title": "t",
        "split": "train",
        "positive_cosine": 0.5,
    }
    path = str(write(tmp_path, "a.jsonl", json.dumps({"question": "a", "answer": "b", **plain})))
    assert list(read_pairs([path])) == [Pair("a", "b")]


def beir(folder, corpus, queries, judgements):
    (folder / "qrels").mkdir()
    write(folder, "corpus.jsonl", "".join(f'{{"_id": "{one}", "text": "t"}}\n' for one in corpus))
    write(folder, "queries.jsonl", "".join(f'{{"_id": "{one}", "text": "t"}}\n' for one in queries))
    write(folder / "qrels", "test.tsv", "query-id\tcorpus-id\tscore\n" + judgements)
    return str(folder)


@pytest.mark.parametrize(
    ("corpus", "queries", "judgements", "message"),
    [
        ("aba", "q", "q\ta\t1\n", r"corpus.jsonl:3: two documents have the id 'a'"),
        ("ab", "qrq", "q\ta\t1\n", r"queries.jsonl:3: two queries have the id 'q'"),
        ("ab", "q", "q\ta\t1\nq\ta\t0\n", r"test.tsv:3: document 'a' is judged a second time for query 'q'"),
        ("ab", "q", "q\ta\t1\nq\tb\t99999999999\n", r"test.tsv:3: expected .* a whole number, found '99999999999'"),
    ],
)
def test_repeated_ids_are_named(tmp_path, corpus, queries, judgements, message):
    with pytest.raises(DataError, match=message):
        read_beir(beir(tmp_path, corpus, queries, judgements))


def test_a_first_judgement_with_a_broken_grade_is_no_header(tmp_path):
    folder = beir(tmp_path, "ab", "q", "q\tb\t1.0\n")
    assert read_beir(folder).judgements == {"q": {"b": 1}}
    write(tmp_path / "qrels", "test.tsv", "q\ta\thigh\nq\tb\t1\n")
    with pytest.raises(DataError, match=r"test.tsv:1: expected .* found 'high'"):
        read_beir(folder)
    write(tmp_path / "qrels", "test.tsv", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n")
    with pytest.raises(DataError, match=r"test.tsv is a Git LFS pointer"):
        read_beir(folder)


def test_two_splits_are_one_too_many():
    with pytest.raises(DataError, match="names the split 'test', and 'dev' was asked for"):
        read_beir("owner/name@test", "dev")


def test_an_id_is_the_same_as_number_and_as_word(tmp_path):
    folder = beir(tmp_path, "12", "7", "7\t1\t1\n")
    write(tmp_path, "queries.jsonl", '{"_id": 7, "text": "t"}\n')
    assert read_beir(folder).queries == {"7": "t"}
    write(tmp_path, "corpus.jsonl", '{"_id": "1", "title": null, "text": "t"}\n{"_id": 1, "text": "t"}\n')
    with pytest.raises(DataError, match=r"corpus.jsonl:2: two documents have the id '1'"):
        read_beir(folder)
    path = write(tmp_path, "a.jsonl", '{"id": 1, "text": "a"}\n{"id": 1.0, "text": "b"}\n')
    with pytest.raises(DataError, match=r"a.jsonl:2: the id '1' is that of a row before it"):
        make_plan([str(path)], tmp_path / "out.parquet", CorpusOptions(id_field="id"))


@pytest.mark.parametrize("value", ["[1]", '{"a": 1}', "1.5", "null", '" "', "NaN"])
def test_what_is_no_id_is_named(tmp_path, value):
    path = write(tmp_path, "a.jsonl", '{"text": "a", "id": ' + value + "}\n")
    with pytest.raises(DataError, match=r"a.jsonl:1: 'id' is .*, which is no id"):
        texts(path, id_field="id")


def test_repeated_ids_of_texts_are_named_before_a_model_is_loaded(tmp_path):
    path = write(tmp_path, "a.csv", "id,text\n1,a\n2,b\n1,c\n")
    with pytest.raises(DataError, match=r"a.csv:4: the id '1' is that of a row before it"):
        make_plan([str(path)], tmp_path / "out.parquet", CorpusOptions(id_field="id"))
    make_plan([str(path)], tmp_path / "out.parquet", CorpusOptions())


@pytest.mark.parametrize("label", ["-100", '{"a": 1}', "[1]", "0.5", "null", '" "'])
def test_what_is_no_label_is_named(tmp_path, label):
    path = write(tmp_path, "a.jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "label": ' + label + "}\n")
    with pytest.raises(DataError, match=r"a.jsonl:2: (label is|empty label)"):
        read_labelled_texts(str(path))
    assert read_labelled_texts(
        str(write(tmp_path, "b.jsonl", '{"text": "a", "label": -1}\n{"text": "b", "label": true}\n'))
    ).labels == ["-1", "True"]
    path = write(
        tmp_path, "c.jsonl", "".join(f'{{"text": "a", "label": {one}}}\n' for one in ("1", "1.0", '" 1"', "2"))
    )
    assert read_labelled_texts(str(path)).labels == ["1", "1", "1", "2"]


def test_a_pipe_is_refused_before_its_beginning_is_lost(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is a pipe or a device, which cannot be read twice; write it to a file first"):
        list(read_records(tmp_path / "pipe"))

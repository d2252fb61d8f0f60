"""Files that people brought and that were silently read as something else: every row is right, or the line is named."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unmask.corpus.encode import check_inputs
from unmask.data.pairs import Pair, PairColumns, read_pairs
from unmask.data.ranking import read_beir
from unmask.data.records import read_records, read_rows
from unmask.data.sources import read_labelled_texts
from unmask.data.words import ColumnFile, split_words
from unmask.errors import DataError
from unmask.evaluation.spans import span_scheme, spans


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


@pytest.mark.parametrize("name", ["a.json", "A.JSON", "a.jsonl"])
def test_an_array_of_objects(tmp_path, name):
    path = write(tmp_path, name, b'\xef\xbb\xbf [\n {"text": "a",\n "n": 1},\n {"text": "b ]"}\n]\n')
    assert list(read_rows(path)) == [(2, {"text": "a", "n": 1}), (4, {"text": "b ]"})]
    assert list(read_rows(write(tmp_path, name, "[]"))) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{\n "architectures": ["A"]\n}', r"a.json:1: broken JSON"),
        ('[{"text": "a"}\n{"text": "b"}]', r"a.json:1: broken JSON .neither a comma"),
        ('[{"text": "a"},\n]', r"a.json:2: broken JSON"),
        ('[{"text": "a"}] [{"text": "b"}]', "something follows"),
        ('[\n{"text": "a"},\n3]', r"a.json:3: expected a JSON object, found a int"),
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
    assert texts(write(tmp_path, "b.txt", "{curly} brackets\n")) == ["{curly} brackets"]


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
        (b"\x1f\x8b\x08\x00abc", "compressed by gzip"),
        (b"PK\x03\x04abc", "a zip archive"),
        ("text".encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "Git LFS pointer.*git lfs pull"),
        (b"ab\x00c", "binary file"),
        (b"caf\xe9\n", r"a.jsonl:1: not UTF-8"),
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


UNIVERSAL = "1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_\n1\tde\tde\tADP\t_\t_\t3\tcase\t_\t_\n2\tle\tle\tDET\t_\t_\t3\tdet\t_\t_\n"
UNIVERSAL += "3.1\tx\tx\tVERB\t_\t_\t_\t_\t_\t_\n\n1\t#\t#\tSYM\t_\t_\t0\troot\t_\t_\n"


# CoNLL-U is often called .conll, and read as plain columns its words are 1, 2, 3: accuracy 21.5 instead of 87.9.
@pytest.mark.parametrize("name", ["a.conllu", "A.CONLLU", "a.conll", "a.txt", "a"])
@pytest.mark.parametrize("comments", ["", "# sent_id = 1\n# text = du\n"])
def test_conll_u_under_any_name(tmp_path, name, comments):
    first, second = ColumnFile(write(tmp_path, name, comments + UNIVERSAL))
    assert first.words == ("de", "le")
    assert first.labels == {"upos": ("ADP", "DET")}
    assert second.words == ("#",)


def test_comments_and_headers_of_column_files_are_no_words(tmp_path):
    path = write(tmp_path, "a.conll", "# id 7f domain=train\nTOKEN\tPOS\nthe\tDET\n# SYM\n\n# id 8\n#\tSYM\n")
    with pytest.raises(DataError, match="columns"):
        list(ColumnFile(path))  # a comment inside a sentence is not one
    path = write(tmp_path, "a.conll", "# id 7f domain=train\nTOKEN\tPOS\nthe\tDET\n\n# id 8\n#\tSYM\n")
    assert [s.words for s in ColumnFile(path)] == [("the",), ("#",)]
    path = write(tmp_path, "b.conll", "#begin document (a); part 0\nThe DT\ncat NN\n\n#end of document\n")
    assert [s.words for s in ColumnFile(path)] == [("The", "cat")]


def test_a_word_column_that_only_counts_is_named(tmp_path):
    rows = "1 the DT\n2 cat NN\n\n1 a DT\n\n"
    path = write(tmp_path, "a.conll", rows)
    with pytest.raises(DataError, match=r"the words in column 0 only count"):
        list(ColumnFile(path))
    assert [s.words for s in ColumnFile(path, word_column=1)] == [("the", "cat"), ("a",)]
    with pytest.raises(DataError, match="only count"):
        next(iter(x for x in ColumnFile(write(tmp_path, "b.conll", rows * 40)) if x.words == ("never",)), None)
    assert next(iter(ColumnFile(write(tmp_path, "c.conll", "1 CD\n2 CD\n\nthe DT\n")))).words == ("1", "2")


# Hindi sentences of five words were tagged as seventeen.
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\u0926\u093f\u0932\u094d\u0932\u0940 \u092e\u0947\u0902 \u0930\u0939\u0924\u0940 \u0939\u0948", 4),
        ("cafe\u0301 in Rome", 3),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f family", 3),
        ("\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", 1),
        ("state-of-the-art O'Neil don\u2019t 3.14", 4),
        ("- a -b c- --", 8),
    ],
)
def test_a_mark_stays_with_its_word(text, words):
    found = split_words(text)
    assert len(found) == words, found
    assert "".join(found) == "".join(text.split())


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
    ],
)
def test_repeated_ids_are_named(tmp_path, corpus, queries, judgements, message):
    with pytest.raises(DataError, match=message):
        read_beir(beir(tmp_path, corpus, queries, judgements))


def test_repeated_ids_of_texts_are_named_before_a_model_is_loaded(tmp_path):
    path = write(tmp_path, "a.csv", "id,text\n1,a\n2,b\n1,c\n")
    with pytest.raises(DataError, match="record 3 has the id '1', as one before it"):
        check_inputs([path], tmp_path / "out.parquet", field="text", id_field="id")
    check_inputs([path], tmp_path / "out.parquet", field="text", id_field=None)


@pytest.mark.parametrize("label", ["-100", '{"a": 1}', "[1]", "0.5", "null", '" "'])
def test_what_is_no_label_is_named(tmp_path, label):
    path = write(tmp_path, "a.jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "label": ' + label + "}\n")
    with pytest.raises(DataError, match=r"a.jsonl:2: (label is|empty label)"):
        read_labelled_texts(str(path))
    assert read_labelled_texts(
        str(write(tmp_path, "b.jsonl", '{"text": "a", "label": -1}\n{"text": "b", "label": true}\n'))
    ).labels == ["-1", "True"]


def test_ignored_tokens_are_no_label_of_words(tmp_path):
    with pytest.raises(DataError, match=r"a.conll:2: label is '-100'"):
        list(ColumnFile(write(tmp_path, "a.conll", "the 3\ncat -100\n")))


# Labels without a kind, or written the other way round: F1 was a dash.
@pytest.mark.parametrize(
    ("labels", "scheme", "found"),
    [
        (["B", "I", "O", "B"], "BIO", [("_", 0, 1), ("_", 3, 3)]),
        (["B_PER", "I_PER", "O"], "BIO", [("PER", 0, 1)]),
        (["PER-B", "PER-I", "O"], "BIO", [("PER", 0, 1)]),
        (["PER_B", "PER_L", "O", "ORG_U"], "BILOU", [("PER", 0, 1), ("ORG", 3, 3)]),
        (["S-x", "O", "B-x", "E-x"], "IOBES", [("x", 0, 0), ("x", 2, 3)]),
    ],
)
def test_marks_of_spans_in_other_forms(labels, scheme, found):
    assert span_scheme(labels) == scheme
    assert spans(labels, labels) == found


def test_marks_that_follow_no_scheme_are_named():
    for labels in (["B_PER", "I_PER", "Other"], ["B-PER", "X-PER"], ["B", "L", "E", "O"]):
        with pytest.raises(DataError, match="Unknown label scheme"):
            span_scheme(labels)
    for labels in (["NN", "VB", "I"], ["WP-B", "NN"], ["DT", "IN", "O"]):
        assert span_scheme(labels) is None

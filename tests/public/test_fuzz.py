"""Every reader on bytes of any kind: what comes out is right, or one of our errors names the file."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unmask.data.pairs import Pair, read_pairs
from unmask.data.ranking import read_beir, read_candidates
from unmask.data.records import read_records, read_rows
from unmask.data.sources import read_labelled_texts
from unmask.data.words import ColumnFile
from unmask.errors import UnmaskError
from unmask.evaluation.tasks.similarity import read_pairs as read_scored

pytestmark = pytest.mark.slow
EXAMPLES = settings(
    max_examples=2000,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# Bytes that mean something to one reader or another, in any order.
MARKS = [b"\n", b"\r", b"\r\n", b"\t", b",", b'"', b"'", b"{", b"}", b"[", b"]", b":", b"#", b" ", b"\\", b"\x00", b"-"]
PARTS = [
    *(b'{"text": "a"}', b'{"text": "b", "label": 1}', b'"\\ud83d"', b"\\u0041", b"text", b"label", b"\xef\xbb\xbf"),
    *(
        b"sentence1,sentence2,score\n",
        b"text\tlabel\n",
        b"1\tthe\tthe\tDET\t_\t_\t0\troot\t_\t_\n",
        b"cat NN\n",
        b"# c\n",
    ),
    *(
        b'{"query": "q", "positive": "p", "negative": ["n"]}',
        b"q\td\t1\n",
        b"PAR1",
        b"NaN",
        b"1e999",
        b"\xff",
        b"\x1f\x8b",
    ),
]
PIECES = st.sampled_from([*MARKS, *PARTS])
CONTENT = st.one_of(st.binary(max_size=200), st.lists(PIECES | st.binary(max_size=3), max_size=24).map(b"".join))
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r"), max_size=20)
CELL = TEXT.filter(lambda text: text.strip())

READERS = {
    "text": ("a.txt", lambda path: read_records(path)),
    "csv": ("a.csv", lambda path: read_records(path)),
    "tsv": ("a.tsv", lambda path: read_records(path)),
    "unquoted": ("a.tsv", lambda path: read_records(path, quoting="none")),
    "jsonl": ("a.jsonl", lambda path: read_records(path)),
    "json": ("a.json", lambda path: read_records(path)),
    "parquet": ("a.parquet", lambda path: read_records(path)),
    "unknown": ("a.data", lambda path: read_records(path)),
    "conll": ("a.conll", lambda path: ColumnFile(path)),
    "conllu": ("a.conllu", lambda path: ColumnFile(path)),
    "labels": ("a.csv", lambda path: [read_labelled_texts(str(path))]),
    "pairs": ("a.jsonl", lambda path: read_pairs([str(path)])),
    "scores": ("a.csv", lambda path: [read_scored(path)]),
    "candidates": ("a.jsonl", lambda path: read_candidates(path)),
}


def refusal(read, default):
    """What one of our errors says; the default where there is none."""
    try:
        read()
    except UnmaskError as error:
        return str(error)
    return default


@pytest.mark.parametrize("name", READERS)
def test_any_bytes(tmp_path, name):
    file, read = READERS[name]
    path = tmp_path / file
    start = b""
    if name == "parquet":
        whole = io.BytesIO()
        pq.write_table(pa.table({"text": ["a", "bc"], "label": [1, 2]}), whole)
        start = whole.getvalue()

    @EXAMPLES
    @given(CONTENT, st.integers(0, max(0, len(start))), st.integers(0, 20))
    def check(content, at, dropped):
        path.write_bytes(start[:at] + content + start[at + dropped :] if start else content)
        assert str(path) in refusal(lambda: list(read(path)), default=str(path))

    check()


def test_any_judgements(tmp_path):
    folder = tmp_path
    (folder / "qrels").mkdir()
    (folder / "corpus.jsonl").write_text('{"_id": "d", "text": "t"}\n')
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "t"}\n')

    @EXAMPLES
    @given(CONTENT)
    def check(content):
        (folder / "qrels" / "test.tsv").write_bytes(content)
        assert str(folder) in refusal(lambda: read_beir(folder), default=str(folder))

    check()


def lines_of(texts):
    return [text for text in texts if text.strip() and "\n" not in text]


@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "jsonl", "json", "parquet"])
def test_what_is_written_is_read(tmp_path, kind):
    """Texts written by a library's own writer come back as they were, whatever they hold."""
    path = tmp_path / f"a.{kind}"

    @EXAMPLES
    @given(st.lists(CELL, min_size=1, max_size=6))
    def check(texts):
        if kind == "txt":
            texts = lines_of(texts)
            path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
            if not texts or texts[0].lstrip("\ufeff").lstrip().startswith("{") or texts[0].startswith("\ufeff"):
                return
        elif kind in ("csv", "tsv"):
            texts = [text for text in texts if kind == "csv" or not ("\n" in text and "\t" in text)]
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, delimiter="," if kind == "csv" else "\t")
                writer.writerows([["text", "n"], *([text, "1"] for text in texts)])
        elif kind == "jsonl":
            path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        elif kind == "json":
            path.write_text(json.dumps([{"text": text} for text in texts], ensure_ascii=False, indent=1), "utf-8")
        else:
            pq.write_table(pa.table({"text": texts}), path)
        assert [record.text for record in read_records(path)] == texts

    check()


def test_pairs_that_are_written_are_read(tmp_path):
    path = tmp_path / "a.jsonl"

    @EXAMPLES
    @given(st.lists(st.tuples(CELL, CELL, st.lists(CELL, max_size=2)), min_size=1, max_size=4))
    def check(rows):
        written = [{"query": q, "positive": p, "negatives": n} for q, p, n in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in written))
        assert list(read_pairs([str(path)])) == [Pair(q, p, tuple(n)) for q, p, n in rows]

    check()


def test_words_that_are_written_are_read(tmp_path):
    path = tmp_path / "a.conll"
    word = st.text(st.characters(categories=["L", "N", "P", "M"]), min_size=1, max_size=8).filter(
        lambda text: not text.startswith(("#", "-DOCSTART-")) and text.strip() and text[-1] not in "0123456789"
    )

    @EXAMPLES
    @given(st.lists(st.lists(word, min_size=1, max_size=5), min_size=1, max_size=4))
    def check(sentences):
        path.write_text("\n".join("".join(f"{one} X\n" for one in words) for words in sentences), encoding="utf-8")
        assert [sentence.words for sentence in ColumnFile(path)] == [tuple(words) for words in sentences]

    check()


def test_rows_of_any_file_are_counted(tmp_path):
    """Line numbers are those of the file, in every format of lines."""
    path = tmp_path / "a.txt"

    @EXAMPLES
    @given(st.lists(CELL, min_size=1, max_size=6))
    def check(texts):
        texts = lines_of(texts)
        path.write_text("x\n" + "\n\n".join(texts), encoding="utf-8")
        found = [(number, text) for number, text in read_rows(path) if text.strip()]
        assert found == [(1, "x"), *((2 * i + 2, text) for i, text in enumerate(texts))]

    check()

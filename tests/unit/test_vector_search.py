"""Exact search over files of vectors, beside numpy over the whole array."""

import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unmask.corpus import search as searching
from unmask.corpus.search import nearest, search_vectors
from unmask.corpus.vectors import open_vectors
from unmask.errors import DataError

A, B = "80" * 16, "c0" * 16  # fingerprints


def write(path, numbers, *, first=0, origin=None, group=None, **kept):
    ids = pa.array([f"row-{first + i}" for i in range(len(numbers))])
    column = pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), numbers.shape[1])
    table = pa.table({"id": ids, **kept, "vector": column})
    if origin:
        table = table.replace_schema_metadata({"unmask": json.dumps(origin)})
    pq.write_table(table, path, row_group_size=group or len(numbers))
    return path


def reference(numbers, queries, count):
    """Rows and cosines by numpy alone; of equal ones the earlier first."""
    rows, asked = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (numbers.astype(np.float32), queries))
    cosines = asked @ rows.T
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(cosines, order, axis=1), order


@pytest.fixture
def random():
    return np.random.default_rng(0)


def stored(floats, precision):
    if precision == "int8":
        scale = np.abs(floats).max(axis=1, keepdims=True) / 127
        return np.round(floats / scale).astype(np.int8)
    return floats.astype(precision)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("block", [1, 7, 64, 10**6])
@pytest.mark.parametrize("form", ["file", "shards", "npy"])
def test_the_same_rows_as_numpy_finds(random, tmp_path, monkeypatch, precision, block, form):
    floats, queries = random.normal(size=(200, 24)), random.normal(size=(5, 24)).astype(np.float32)
    numbers = stored(floats, precision)
    path = tmp_path / ("v.npy" if form == "npy" else "v.parquet")
    if form == "npy":
        np.save(path, numbers)
    elif form == "file":
        write(path, numbers, group=30)
    else:
        path = tmp_path / "shards"
        path.mkdir()
        for number, at in enumerate(range(0, 200, 90)):
            write(path / f"{number:05}.parquet", numbers[at : at + 90], first=at, group=40)
    monkeypatch.setattr(searching, "_BLOCK_BYTES", 4 * 24 * block)
    cosines, rows = reference(numbers, queries, 10)
    found = search_vectors(open_vectors(path), queries, 10)
    ids = [[hit.columns["id"].removeprefix("row-") for hit in own] for own in found]
    assert ids == rows.astype(str).tolist()
    np.testing.assert_allclose([[hit.cosine for hit in own] for own in found], cosines, atol=1e-6)


@pytest.mark.parametrize("width", [64, 24])
@pytest.mark.parametrize("block", [3, 10**6])
def test_bits_are_looked_up_by_their_number_and_rescored_by_their_signs(random, tmp_path, monkeypatch, width, block):
    signs, queries = random.normal(size=(300, width)) > 0, random.normal(size=(4, width)).astype(np.float32)
    write(tmp_path / "v.parquet", np.packbits(signs, axis=1), group=50)
    monkeypatch.setattr(searching, "_BLOCK_BYTES", 4 * width * block)
    equal = ((queries > 0)[:, None] == signs[None]).sum(axis=2)
    near = np.sort(np.argsort(-equal, axis=1, kind="stable")[:, :50], axis=1)
    _, rows = nearest(open_vectors(tmp_path / "v.parquet"), queries, 5)
    for query, candidates, own in zip(queries, near, rows, strict=True):
        _, best = reference(np.where(signs[candidates], 1.0, -1.0), query[None], 5)
        assert own.tolist() == candidates[best[0]].tolist()


def test_more_queries_than_are_compared_at_once(random, tmp_path, monkeypatch):
    numbers, queries = (random.normal(size=(n, 8)).astype(np.float32) for n in (50, 23))
    np.save(tmp_path / "v.npy", numbers)
    monkeypatch.setattr(searching, "_QUERIES_AT_ONCE", 10)
    _, rows = nearest(open_vectors(tmp_path / "v.npy"), queries, 3)
    assert rows.tolist() == reference(numbers, queries, 3)[1].tolist()


@pytest.mark.parametrize("block", [1, 2, 5, 100])
def test_of_equal_rows_the_earlier_comes_first(tmp_path, monkeypatch, block):
    kinds = np.array([[1, 0], [0, 1], [3, 4], [1, 0], [4, 3], [0, 2], [2, 0]], dtype=np.float32)
    np.save(tmp_path / "v.npy", np.tile(kinds, (3, 1)))
    monkeypatch.setattr(searching, "_BLOCK_BYTES", 4 * 2 * block)
    cosines, rows = nearest(open_vectors(tmp_path / "v.npy"), np.array([[2.0, 0.0]], dtype=np.float32), 11)
    assert rows[0].tolist() == [0, 3, 6, 7, 10, 13, 14, 17, 20, 4, 11]
    assert cosines[0].tolist() == pytest.approx([1.0] * 9 + [0.8] * 2)


def test_more_rows_wanted_than_there_are_gives_them_all(random, tmp_path):
    numbers = random.normal(size=(4, 8)).astype(np.float32)
    np.save(tmp_path / "v.npy", numbers)
    _, rows = nearest(open_vectors(tmp_path / "v.npy"), numbers[:1], 100)
    assert sorted(rows[0].tolist()) == [0, 1, 2, 3]


def test_a_row_of_zeros_is_like_nothing(tmp_path):
    np.save(tmp_path / "v.npy", np.array([[-1, 0], [0, 0], [1, 0]], dtype=np.float32))
    cosines, rows = nearest(open_vectors(tmp_path / "v.npy"), np.array([[1, 0]], dtype=np.float32), 3)
    assert rows.tolist() == [[2, 1, 0]]
    assert cosines.tolist() == [[1, 0, -1]]


def test_what_is_kept_of_a_row_comes_with_it(random, tmp_path):
    numbers = random.normal(size=(60, 8)).astype(np.float32)
    words, dates = [f"text {i}" for i in range(60)], pa.array(range(60), pa.date32())
    path = write(tmp_path / "v.parquet", numbers, group=7, text=pa.array(words), day=dates)
    ((hit,),) = search_vectors(open_vectors(path), numbers[41:42], 1)
    assert list(hit.columns) == ["id", "text", "day"]
    assert hit.columns["text"] == "text 41"


def test_vectors_of_two_encoders_are_refused_by_name(random, tmp_path):
    numbers = random.normal(size=(5, 8)).astype(np.float32)
    write(tmp_path / "a.parquet", numbers, origin={"encoder": "one", "fingerprint": A})
    write(tmp_path / "b.parquet", numbers, origin={"encoder": "other", "fingerprint": B})
    with pytest.raises(DataError, match=r"a\.parquet holds vectors of one .*b\.parquet of other"):
        open_vectors(tmp_path)


def test_a_renamed_encoder_is_no_other(random, tmp_path):
    numbers = random.normal(size=(5, 8)).astype(np.float32)
    write(tmp_path / "a.parquet", numbers, origin={"encoder": "one", "fingerprint": A})
    write(tmp_path / "b.parquet", numbers, origin={"encoder": "renamed", "fingerprint": A[:-2] + "82"})
    assert open_vectors(tmp_path).rows == 10


def test_a_file_that_does_not_name_its_encoder_is_taken_with_a_warning(random, tmp_path, caplog):
    write(tmp_path / "a.parquet", random.normal(size=(5, 8)).astype(np.float32))
    write(tmp_path / "b.parquet", np.ones((2, 8), dtype=np.float32), origin={"encoder": "one", "fingerprint": A})
    with caplog.at_level(logging.WARNING, logger="unmask"):
        vectors = open_vectors(tmp_path)
    assert vectors.origin.encoder == "one"
    assert "a.parquet does not say which encoder" in caplog.text


def empty(path):
    return write(path / "v.parquet", np.zeros((0, 4), dtype=np.float32), group=1)


def without_column(path):
    pq.write_table(pa.table({"id": ["a"], "text": ["b"]}), path / "v.parquet")
    return path / "v.parquet"


def of_strings(path):
    pq.write_table(pa.table({"id": ["a"], "vector": ["b"]}), path / "v.parquet")
    return path / "v.parquet"


def with_a_hole(path):
    column = pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"id": ["a", "b"], "vector": column}), path / "v.parquet")
    return path / "v.parquet"


def not_finite(path):
    np.save(path / "v.npy", np.array([[1, 0, 0], [1, np.nan, 0], [np.inf, 0, 0]], dtype=np.float32))
    return path / "v.npy"


def of_two_widths(path):
    write(path / "a.parquet", np.ones((3, 4), dtype=np.float32))
    write(path / "b.parquet", np.ones((3, 5), dtype=np.float32))
    return path


def cut_short(path):
    write(path / "v.parquet", np.ones((300, 40), dtype=np.float32))
    (path / "v.parquet").write_bytes((path / "v.parquet").read_bytes()[:-100])
    return path / "v.parquet"


def pickled(path):
    np.save(path / "v.npy", np.array([{"a": 1}], dtype=object))
    return path / "v.npy"


def flat(path):
    np.save(path / "v.npy", np.ones(3, dtype=np.float32))
    return path / "v.npy"


def search_all(path):
    vectors = open_vectors(path)
    return nearest(vectors, np.ones((1, vectors.dimension), dtype=np.float32), vectors.rows)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (empty, "holds no vectors"),
        (without_column, "no column 'vector'; found 'id', 'text'"),
        (of_strings, "holds string; expected lists of one size"),
        (with_a_hole, "rows without a vector"),
        (not_finite, "row 2 holds a number that is not finite"),
        (of_two_widths, "4 numbers in float32.*5 numbers in float32"),
        (cut_short, "cannot be read as Parquet"),
        (pickled, "cannot be read as an array"),
        (flat, r"holds float32 \[3\]"),
        (lambda path: path, "holds no Parquet files"),
        (lambda path: path / "nowhere.parquet", "no such file"),
        (lambda path: path / "nowhere.npy", "no such file"),
    ],
)
def test_what_cannot_be_searched_is_said_in_one_sentence(tmp_path, make, said):
    path = make(tmp_path)
    with pytest.raises(DataError, match=said) as caught:
        search_all(path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)

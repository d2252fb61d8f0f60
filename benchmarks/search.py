"""Search over vectors, exact in files and by an index, beside FAISS flat and LanceDB.

    python benchmarks/search.py --rows 1000000 --width 256

Vectors are drawn around a thousand centres, as those of texts lie in heaps; queries are rows that were moved a little.
Each way is a process of its own: seconds to open the vectors, to answer one query and all queries of a call (the median
of the rounds), its peak memory, in which memory-mapped pages count, and the recall@10 against exact search in float32.
Queries are vectors; what an encoder takes for them is in benchmarks/encode.py.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import numpy as np
from peers.timing import peak_mb
from report import Report, add_json

from unmask.corpus.index import Index, build_index
from unmask.corpus.search import nearest
from unmask.corpus.table import Layout, Precision, parquet_writer
from unmask.corpus.vectors import open_vectors

Found = Any  # numbers of rows, [queries, 10]
Search = Callable[[Any], Found]
CENTRES, COUNT, AT_ONCE = 1000, 10, 4096


def exact(file: Path) -> Search:
    """This package over a file."""
    vectors = open_vectors(file)
    return lambda queries: nearest(vectors, queries, COUNT)[1]


def lance_index(file: Path) -> Search:
    """This package over an index."""
    index = Index(file)
    return lambda queries: _ids([[hit.columns for hit in own] for own in index.search(queries, COUNT)])


def lance_flat(file: Path) -> Search:
    """LanceDB over the same table, every row compared."""
    import lancedb

    table = lancedb.connect(file).open_table("vectors")

    def search(queries: Any) -> Found:
        looks = (table.search(query).distance_type("cosine").bypass_vector_index() for query in queries)
        return _ids([look.select(["id", "_distance"]).limit(COUNT).to_arrow().to_pylist() for look in looks])

    return search


def faiss_flat(file: Path) -> Search:
    """FAISS, all vectors in memory, which takes inner products of vectors of length 1."""
    import faiss

    numbers = np.load(file)
    index = faiss.IndexFlatIP(numbers.shape[1])
    index.add(numbers)
    return lambda queries: index.search(queries, COUNT)[1]


def _ids(found: list[list[dict[str, Any]]]) -> Found:
    return np.array([[int(row["id"]) for row in own] for own in found])


WAYS: dict[str, tuple[str, Callable[[Path], Search]]] = {
    "unmask, float32 .npy": ("float32.npy", exact),
    "unmask, float32 Parquet": ("float32.parquet", exact),
    "unmask, float16 Parquet": ("float16.parquet", exact),
    "unmask, int8 Parquet": ("int8.parquet", exact),
    "unmask, bits in Parquet": ("binary.parquet", exact),
    "unmask, LanceDB index": ("index", lance_index),
    "LanceDB, every row": ("index", lance_flat),
    "FAISS flat": ("float32.npy", faiss_flat),
}


def make_files(folder: Path, rows: int, width: int, queries: int) -> None:
    """Vectors of length 1 in every form, as `unmask encode` writes them, and queries."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(CENTRES, width)).astype(np.float32)
    numbers = np.lib.format.open_memmap(folder / "float32.npy", "w+", np.float32, (rows, width))
    with ExitStack() as stack:
        layouts = [Layout(kind, width, {}, b"{}") for kind in get_args(Precision)]
        files = [folder / f"{layout.precision}.parquet" for layout in layouts]
        writers = [stack.enter_context(parquet_writer(*pair)) for pair in zip(files, layouts, strict=True)]
        for at in range(0, rows, AT_ONCE):
            size = min(AT_ONCE, rows - at)
            block = centres[random.integers(CENTRES, size=size)] + random.normal(size=(size, width)).astype(np.float32)
            block /= np.linalg.norm(block, axis=1, keepdims=True)
            numbers[at : at + size] = block
            ids = np.arange(at, at + size).astype(str).tolist()
            for writer, layout in zip(writers, layouts, strict=True):
                writer.write_batch(layout.batch(ids, [()] * size, block))
    numbers.flush()
    drawn = numbers[np.sort(random.choice(rows, queries, replace=False))]
    np.save(folder / "queries.npy", drawn + random.normal(scale=0.5 / width**0.5, size=drawn.shape).astype(np.float32))


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """One way, in this process."""
    file, opened = WAYS[job["way"]]
    folder = Path(job["folder"])
    queries = np.load(folder / "queries.npy")
    started = time.perf_counter()
    search = opened(folder / file)
    times: dict[str, list[float]] = {"open": [time.perf_counter() - started], "one": [], "all": []}
    for number in range(job["rounds"]):
        for name, asked in (("one", queries[number : number + 1]), ("all", queries)):
            started = time.perf_counter()
            rows = search(asked)
            times[name].append(time.perf_counter() - started)
    np.save(folder / "found.npy", rows)
    return {name: statistics.median(own) for name, own in times.items()} | {"peak": peak_mb()}


def main() -> None:
    """One row a way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--queries", type=int, default=100, help="of a call")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument(
        "--scratch", type=Path, metavar="DIR", help="for the files (default: where temporary files are)"
    )
    parser.add_argument("--job", help=argparse.SUPPRESS)
    add_json(parser)
    arguments = parser.parse_args()
    if arguments.job:
        sys.stdout.write(f"RESULT {json.dumps(measure(json.loads(arguments.job)))}\n")
        return
    report = Report(arguments.json)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        _compare(report, arguments, Path(scratch))


def _compare(report: Report, arguments: argparse.Namespace, folder: Path) -> None:
    make_files(folder, arguments.rows, arguments.width, arguments.queries)
    built = ""
    if any(WAYS[way][0] == "index" for way in arguments.ways):
        started = time.perf_counter()
        facts = build_index(open_vectors(folder / "float32.parquet"), folder / "index")
        built = (
            f"; index built in {time.perf_counter() - started:.0f} s, {facts.probes} of {facts.partitions} partitions"
        )
    truth = exact(folder / "float32.npy")(np.load(folder / "queries.npy"))
    title = f"{arguments.rows:,} x {arguments.width}, {arguments.queries} queries a call, {COUNT} rows each{built}"
    report.table(title, "", "disk MB", "open s", "one query ms", "each of all ms", "peak MB", "recall@10")
    for way in arguments.ways:
        job = json.dumps({"way": way, "folder": str(folder), "rounds": arguments.rounds})
        done = subprocess.run([sys.executable, __file__, "--job", job], capture_output=True, text=True, check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        if not lines:
            sys.exit(done.stderr[-2000:])
        found = json.loads(lines[0].removeprefix("RESULT "))
        rows = np.load(folder / "found.npy")
        recall = np.mean([len(set(a) & set(b)) / COUNT for a, b in zip(rows.tolist(), truth.tolist(), strict=True)])
        report.row(
            way,
            f"{_size(folder / WAYS[way][0]) / 1e6:,.0f}",
            f"{found['open']:.2f}",
            f"{1e3 * found['one']:,.1f}",
            f"{1e3 * found['all'] / arguments.queries:,.1f}",
            f"{found['peak']:,.0f}",
            f"{recall:.3f}",
        )


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


if __name__ == "__main__":
    main()

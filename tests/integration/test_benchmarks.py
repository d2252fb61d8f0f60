"""The smallest benchmark, its JSON file, and the page that is made of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.small import write_small_encoder

pytestmark = pytest.mark.slow
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(name, *arguments):
    command = [sys.executable, str(BENCHMARKS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_every_figure_is_on_the_page_with_its_command_and_its_machine(tmp_path):
    file, page = tmp_path / "found" / "encode.json", tmp_path / "benchmarks.md"
    smallest = ("--shape", "tiny", "--texts", 4, "--rounds", 1, "--peers", "unmask fp32", "transformers fp32")
    done = run("encode.py", *smallest, "--json", file)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(file.read_text())
    (table,) = found["tables"]
    assert table["heads"][3] == "unmask fp32 is"
    assert [row[0] for row in table["rows"]] == ["unmask fp32", "transformers fp32"]
    assert [row[-1] for row in table["rows"]] == ["1.00000", "1.00000"]
    assert found["machine"]["products"]["float32"] > 0

    assert run("report.py", tmp_path / "found", "--out", page).returncode == 0
    text = page.read_text()
    assert found["command"].startswith("python benchmarks/encode.py --shape tiny")
    assert str(tmp_path) not in text
    assert f"```bash\n{found['command']}\n```" in text
    assert f"{found['date']}. " in text
    assert (", AMX," if found["machine"]["amx"] else ", no AMX,") in text
    for row in table["rows"]:
        assert f"| {' | '.join(row)} |" in text

    assert run("report.py", tmp_path / "found", "--out", page, "--add").returncode == 0
    both = page.read_text()
    assert both.startswith(text)
    assert both.count(found["command"]) == 2
    assert both.count("# Benchmarks\n") == 1


def test_serving_is_measured_as_a_share_of_encode(tmp_path):
    file = tmp_path / "serve.json"
    done = run("serve.py", "--shape", "tiny", "--texts", 8, "--clients", 2, "--rounds", 1, "--json", file)
    assert done.returncode == 0, done.stderr[-2000:]
    (table,) = json.loads(file.read_text())["tables"]
    names = [row[0] for row in table["rows"]]
    assert names == ["unmask, encode", "unmask serve", "sentence-transformers + FastAPI"], done.stderr[-2000:]
    assert table["rows"][0][3] == "100%"
    assert all(float(row[6]) > 0.9999 for row in table["rows"])


def test_a_page_of_nothing_is_refused(tmp_path):
    done = run("report.py", tmp_path, "--out", tmp_path / "page.md")
    assert done.returncode == 1
    assert "make bench" in done.stderr
    assert not (tmp_path / "page.md").exists()


def test_ways_to_search_are_compared_with_exact_search(tmp_path):
    ways = ("unmask, float32 .npy", "unmask, int8 Parquet", "unmask, bits in Parquet", "FAISS flat")
    sizes = ("--rows", 2000, "--width", 32, "--queries", 5, "--rounds", 1)
    done = run("search.py", *sizes, "--ways", *ways, "--json", tmp_path / "search.json")
    assert done.returncode == 0, done.stderr[-2000:]
    (table,) = json.loads((tmp_path / "search.json").read_text())["tables"]
    recall = {row[0]: float(row[-1]) for row in table["rows"]}
    assert list(recall) == list(ways)
    assert recall[ways[0]] == recall[ways[3]] == 1
    assert 0.9 < recall[ways[1]] <= 1
    assert 0.2 < recall[ways[2]] < 1


def test_the_table_of_runtimes_holds_what_they_answered_and_no_figure_of_those_that_did_not(tmp_path):
    page, broken = tmp_path / "page.md", tmp_path / ".venv-infinity" / "bin" / "python"
    marks = "<!-- by `make serving`: -->", "<!-- end of what `make serving` writes -->"
    earlier = "| ONNX Runtime | 9.9 | run | 0.500000 | 0.600000 | **causal**: a \\| b | 2020-01-01 |"
    page.write_text(f"before\n\n{marks[0]}\n\n**decoder, bidirectional**\n\n{earlier}\n\n{marks[1]}\nafter\n")
    broken.parent.mkdir(parents=True)
    broken.write_text("#!/bin/sh\necho it is broken >&2\nexit 3\n")
    broken.chmod(0o755)
    names = ("sentence-transformers", "vLLM on a CPU", "infinity")
    options = ("--runtimes", *names, "--environments", tmp_path, "--write", page)
    done = run("serving.py", write_small_encoder(tmp_path / "decoder"), *options)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = page.read_text().splitlines()
    assert lines[0] == "before"
    assert lines[-1] == "after"
    assert lines.count(earlier) == 1
    rows = {name: cells for line in lines if line.startswith("| ") for name, *cells in [line[2:-2].split(" | ")]}
    assert rows["sentence-transformers"][1:5] == ["run", "1.000000", "1.000000", ""]
    assert rows["vLLM on a CPU"][:5] == ["", "not installed", "", "", ""]
    assert rows["infinity"][:5] == ["", "run", "", "", "failed: it is broken"]

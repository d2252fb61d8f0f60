"""What the commands print besides their results: notes of ours, and nothing of other libraries."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

UNMASK = str(Path(sys.executable).parent / "unmask")


def run(*arguments, **environment):
    done = subprocess.run(
        [UNMASK, *map(str, arguments)], capture_output=True, text=True, env=os.environ | environment, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", ["verify", "convert", "encode"])
def test_nothing_of_other_libraries_is_printed(command, tmp_path):
    """With every optional library installed, as here, some of them have much to say when they are imported."""
    (tmp_path / "texts.txt").write_text("one\ntwo\n")
    arguments = {
        "verify": ["verify", "pocket", "--json"],
        "convert": ["convert", "pocket", "--out", tmp_path / "bi"],
        "encode": ["encode", "pocket", tmp_path / "texts.txt", "--out", tmp_path / "v.parquet"],
    }[command]
    expected = {
        "verify": "",
        "convert": f"encoder written to {tmp_path / 'bi'}\n",
        "encode": f"2 vectors written to {tmp_path / 'v.parquet'}: 5 tokens, ... rows/s, ... tokens/s\n",
    }[command]
    code, _, error = run(*arguments)
    assert re.sub(r"[\d,]+ (rows|tokens)/s", r"... \1/s", error) == expected
    assert code == (1 if command == "verify" else 0)


def test_debug_is_an_option_of_tasks_too():
    code, _, error = run("eval", "sts", "./nothing", "--data", "none.csv", "--debug")
    assert code == 2
    assert "Traceback" in error


@pytest.mark.parametrize("how", ["before", "behind", "environment"])
def test_debug_shows_where_an_error_comes_from(how):
    arguments = {"before": ["--debug", "verify", "./nothing"], "behind": ["verify", "./nothing", "--debug"]}
    code, _, error = run(
        *arguments.get(how, ["verify", "./nothing"]), UNMASK_DEBUG="1" if how == "environment" else "0"
    )
    assert code == 2
    assert "Traceback" in error
    assert "resolve_model" in error
    assert error.rstrip().endswith(
        "unmask: No folder './nothing'. Give a model folder, a GGUF file, a hub id, or `pocket`."
    )
    code, _, error = run("verify", "./nothing", UNMASK_DEBUG="0")
    assert (code, error.count("\n")) == (2, 1)

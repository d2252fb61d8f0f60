"""Every command and every snippet of README and guides runs, in the order a reader would run them."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.forked_commands import forked_commands

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SET_UP = ("git clone", "cd ", "make ", "pip install")  # what the reader did before; the Makefile runs this very test
# Pages whose commands are started as a user starts them: the first, and one that ends a server by its number.
STARTED = ("README.md", "server.md")


def blocks(page):
    """(language, text) of the fenced blocks meant to be run."""
    return [m for m in re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.M | re.S) if m[0] in ("sh", "python")]


def stop(file):
    """End a process that a page began and, because a block failed, did not end."""
    with suppress(ProcessLookupError):
        os.kill(int(file.read_text()), signal.SIGTERM)


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """Where the `unmask` is that does not import everything for each command of a page."""
    with forked_commands(tmp_path_factory.mktemp("commands")) as folder:
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if p.is_file() and blocks(p)], ids=lambda p: p.name)
def test_what_the_page_says_works(page, tmp_path, request, commands):
    first = [] if page.name in STARTED else [commands]
    environment = os.environ | {"PATH": ":".join(map(str, [*first, Path(sys.executable).parent, os.environ["PATH"]]))}
    request.addfinalizer(lambda: [stop(file) for file in tmp_path.glob("*.pid")])
    for number, (language, text) in enumerate(blocks(page)):
        if language == "sh":
            lines = [line for line in text.splitlines() if not line.startswith(SET_UP)]
            command = ["bash", "-euo", "pipefail", "-c", "\n".join(lines)]
        else:
            command = [sys.executable, "-c", text]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{page.name}, block {number}:\n{text}\n{done.stderr}"


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 200
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / target).exists(), target

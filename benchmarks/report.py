"""What a benchmark found: on the screen as it goes, in a JSON file when asked, on one Markdown page with all others.

make bench-report
python benchmarks/report.py bench-results --out docs/benchmarks.md --add    (behind what the page has)
"""

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_OWN_FILES = {"--json", "--scratch"}


class Report:
    """Tables of one command, each row printed and kept as it comes, so that a run that is stopped leaves what it found.

    Attributes:
        machine: what the figures are measured on, the products' rates by dtype among it.
    """

    def __init__(self, path: Path | None) -> None:
        """Measure the machine, say it; `path` is that of the JSON file, if there is to be one."""
        self.machine = machine()
        self._path = path
        self._found = {
            "command": _command(Path(sys.argv[0]).name, sys.argv[1:]),
            "date": time.strftime("%Y-%m-%d"),
            "machine": self.machine,
        }
        self._tables: list[dict[str, Any]] = []
        print(machine_line(self.machine))

    def table(self, title: str, *heads: str) -> None:
        """Begin a table; the first column holds names."""
        self._tables.append({"title": title, "heads": list(heads), "rows": []})
        print(f"\n{title}")
        self._print(heads)

    def row(self, *cells: str) -> None:
        """A row of the table begun last."""
        self._tables[-1]["rows"].append(list(cells))
        self._print(cells)
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self._found | {"tables": self._tables}, indent=1) + "\n", encoding="utf-8")

    def _print(self, cells: Sequence[str]) -> None:
        widths = [max(len(head), 9) for head in self._tables[-1]["heads"][1:]]
        rest = " ".join(f"{cell:>{width}}" for cell, width in zip(cells[1:], widths, strict=True))
        print(f"{cells[0]:<32} {rest}", flush=True)


def _command(script: str, arguments: Sequence[str]) -> str:
    """What anybody would type, without the folders where this machine keeps its data and its files."""
    pairs = zip(["", *arguments], arguments, strict=False)
    shown = [argument for before, argument in pairs if not _OWN_FILES & {before, argument.partition("=")[0]}]
    command = shlex.join(["python", f"benchmarks/{script}", *shown])
    data = os.environ.get("UNMASK_DATA", "").rstrip("/")
    return command.replace(data, "$UNMASK_DATA") if data else command


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option that all benchmarks have."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine, date, command and tables there, too")


def machine() -> dict[str, Any]:
    """Processor, what it has for matrix products, and what they reach."""
    import torch

    from unmask.training.rate import matrix_rate

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", "").split()
    return {
        "cpu": f"{platform.machine()} {facts.get('model name', '')}".strip(),
        "amx": "amx_tile" in flags,
        "avx512_bf16": "avx512_bf16" in flags,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "products": {name: matrix_rate(getattr(torch, name)) for name in ("bfloat16", "float32")},
    }


def machine_line(found: Mapping[str, Any]) -> str:
    """The machine in one sentence."""
    rates = ", ".join(f"{name} {rate / 1e9:,.0f}" for name, rate in found["products"].items())
    return (
        f"{found['cpu']}, {'AMX' if found['amx'] else 'no AMX'}, {'' if found['avx512_bf16'] else 'no '}AVX512-BF16, "
        f"{found['threads']} threads, torch {found['torch']}; matrix products reach {rates} GFLOP/s"
    )


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, names: int = 1, notes: int = 0) -> list[str]:
    """Lines of a Markdown table: columns of names, then of figures, then of notes."""
    rule = ["---"] * names + ["--:"] * (len(heads) - names - notes) + ["---"] * notes
    return [f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows)]


HEAD = """# Benchmarks

Made by `make bench-report` from what `make bench` wrote; nothing is left out or edited.
"""


def page(reports: Sequence[Mapping[str, Any]], earlier: str = HEAD) -> str:
    """All reports, a section each, as they were written, behind the sections of an `earlier` page."""
    lines = [earlier.removesuffix("\n")]
    for found in reports:
        lines += ["", f"## {Path(shlex.split(found['command'])[1]).stem}", "", "```bash", found["command"], "```", ""]
        lines += [f"{found['date']}. {machine_line(found['machine'])}."]
        for table in found["tables"]:
            lines += ["", f"**{table['title']}**", "", *markdown_table(table["heads"], table["rows"])]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read a folder of JSON files, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the files that --json wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--add", action="store_true", help="keep what the page has, of other machines for example")
    arguments = parser.parse_args()
    files = sorted(arguments.folder.glob("*.json"))
    if not files:
        sys.exit(f"{arguments.folder} holds no JSON files; make bench writes them.")
    earlier = arguments.out.read_text(encoding="utf-8") if arguments.add and arguments.out.exists() else HEAD
    text = page([json.loads(file.read_text(encoding="utf-8")) for file in files], earlier)
    arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

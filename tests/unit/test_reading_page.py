"""The page that says what is read how has the tables that the code reads by."""

from pathlib import Path

from unmask.encoder.layout_keys import TABLES

PAGE = Path(__file__).parents[2] / "docs" / "reading.md"


def test_every_key_of_a_foreign_folder_has_its_row():
    page = PAGE.read_text(encoding="utf-8")
    for file, table in TABLES.items():
        rows = "\n".join(f"| `{key}` | {entry.reading} | {entry.why} |" for key, entry in table.items())
        assert f"**{file}**\n\n| key | | |\n| --- | --- | --- |\n{rows}\n" in page, file

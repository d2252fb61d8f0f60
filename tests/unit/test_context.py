"""What states know of their neighbours: a causal model of the left ones, a bidirectional model of both sides."""

import json

import pytest

from unmask import DataError, TextEncoder
from unmask.analysis.context import OFFSETS, context
from unmask.cli.main import main


@pytest.fixture(scope="module")
def found(articles, bidirectional):
    causal = TextEncoder.load("pocket", attention="causal", dtype="float32")
    one = {name: context(encoder, articles) for name, encoder in (("Uni", causal), ("Bi", bidirectional))}
    return {name: dict(zip(value.offsets, value.known, strict=True)) for name, value in one.items()}


def test_a_state_knows_its_own_token_best(found):
    for known in found.values():
        assert known[0] > 90
        assert max(known, key=known.get) == 0


def test_the_right_context_comes_in_with_bidirectional_attention(found):
    for offset in (4, 8):  # of the very next token a decoder knows as much, since it predicts it
        assert found["Bi"][offset] > found["Uni"][offset] + 2


def test_the_left_context_pays_for_it_without_training(found):
    for offset in (-1, -2, -3, -4):
        assert found["Bi"][offset] < found["Uni"][offset] - 2


def test_too_little_text_is_refused(bidirectional):
    with pytest.raises(DataError, match="too few to look"):
        context(bidirectional, ["a short text", "and another one"])


def test_the_command_draws_it(articles, tmp_path, capsys):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(articles))
    assert main(["analyze", "pocket", "--out", str(tmp_path / "in"), "--context", str(texts), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["context"]
    assert shown["Bi"]["offsets"] == list(OFFSETS)
    assert "What a state knows of its neighbours" in (tmp_path / "in" / "report.html").read_text()

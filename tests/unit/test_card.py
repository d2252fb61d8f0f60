"""The card of an encoder folder: what hubs read, where the weights came from, its fingerprint."""

import yaml

from unmask import TextEncoder
from unmask.encoder.card import card, with_scores

LINEAGE = {
    "recipe": "mine",
    "seed": 3,
    "base": "someone/decoder-1b",
    "base_revision": "abc123",
    "stages": [
        {
            "name": "mntp",
            "settings": {"objective": "mntp", "tuning": "full", "steps": 24, "lr": 2e-4},
            "data": {"articles": [{"file": "train.jsonl"}], "held_out": [{"file": "valid.jsonl"}]},
        },
        {"name": "soup", "settings": {"objective": "merge"}, "data": {}},
    ],
}


def head(text):
    """The block that hubs read."""
    return yaml.safe_load(text.split("---\n")[1])


def test_a_saved_folder_says_its_base_and_fingerprint(tmp_path):
    encoder = TextEncoder.load("pocket", attention="bidirectional", dtype="float32")
    encoder.save(tmp_path / "encoder")
    text = (tmp_path / "encoder" / "README.md").read_text()
    assert encoder.fingerprint() in text
    assert "base: pocket" in text
    assert "nothing was trained" in text
    assert "base_model" not in head(text)  # a name that hubs do not know
    assert head(text)["library_name"] == "sentence-transformers"


def test_stages_and_their_data_are_listed(bidirectional):
    text = card(bidirectional.settings, LINEAGE, width=256, gaps=["one thing differs."], splits=False)
    assert head(text)["base_model"] == "someone/decoder-1b"
    assert "someone/decoder-1b at abc123" in text
    assert "1. mntp: full tuning, 24 steps, learning rate 0.0002; read `train.jsonl`, `valid.jsonl`" in text
    assert "2. soup: weights alone" in text
    assert "recipe mine, seed 3" in text
    assert "## What other runtimes do differently\n\n- one thing differs." in text


def test_scores_stand_behind_and_take_the_place_of_earlier_ones(bidirectional):
    plain = card(bidirectional.settings, LINEAGE, width=256, gaps=["one thing differs."], splits=False)
    scores = {"found_by": "`unmask train`", "figures": {"Uni": {"STS-B": 30.5}, "Bi": {"STS-B": 38.502, "NER": 1.0}}}
    once = card(bidirectional.settings, LINEAGE, width=256, gaps=["one thing differs."], splits=False, scores=scores)
    assert once.startswith(plain.rstrip())
    assert "|  | Uni | Bi |\n| --- | --: | --: |\n| STS-B | 30.50 | 38.50 |\n| NER |  | 1.00 |" in once
    more = once + "\n## More\n\nkept\n"
    again = with_scores(more, {"found_by": "`unmask train`", "figures": {"Uni": {"STS-B": 31.0}}})
    assert again.count("## Scores") == 1
    assert "30.50" not in again
    assert "kept" in again

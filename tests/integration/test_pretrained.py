"""The encoders that come along: opened by name, small, with what they are made of; better than their decoder."""

import csv
import re

import pytest
from scipy.stats import spearmanr

from unmask import ArtifactError, TextEncoder
from unmask.backbone import pretrained
from unmask.backbone.locate import find_adapters, resolve_model
from unmask.encoder.fingerprint import same
from unmask.errors import MissingExtraError
from unmask.files import read_json

pytestmark = pytest.mark.slow
STAGES = {
    "smollm2-mntp": ["mntp"],
    "smollm2-unsupervised": ["mntp", "simcse"],
    "smollm2-supervised": ["mntp", "simcse", "supervised"],
}


def test_every_name_has_a_small_folder_with_lineage_and_card():
    assert set(pretrained.PRETRAINED) == set(STAGES)
    for name, stages in STAGES.items():
        base, [folder] = find_adapters(name, ())
        assert base == "smollm2"
        assert sum(file.stat().st_size for file in folder.iterdir()) < 10e6
        said = read_json(folder / "unmask.json")
        assert [stage["name"] for stage in said["lineage"]["stages"]] == stages
        assert said["attention"] == "bidirectional"
        card = (folder / "README.md").read_text()
        assert "- base: smollm2" in card
        last = list(read_json(folder / "scores.json")["figures"].values())[-1]
        assert re.search(rf"\| STS-B test \|.* {last['STS-B test']:.2f} \|\n", card)
        with pytest.raises(ArtifactError, match="is a LoRA adapter"):
            resolve_model(name)


def test_without_their_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(pretrained, "_PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(MissingExtraError, match=r"pip install \./pretrained"):
        TextEncoder.load("smollm2-mntp")


@pytest.mark.data
def test_each_is_better_at_similarity_than_the_one_before(data_folder):
    with (data_folder / "stsb" / "stsb-en-dev.csv").open(newline="") as file:
        rows = list(csv.reader(file))[::12]
    scores = [float(score) for *_, score in rows]
    found = []
    for name in ("smollm2", "smollm2-unsupervised", "smollm2-supervised"):
        encoder = TextEncoder.load(name, dtype="float32")
        if name in STAGES:
            assert same(encoder.scores["fingerprint"], encoder.fingerprint())
        first, second = (encoder.encode([row[side] for row in rows], normalize=True) for side in (0, 1))
        found.append(spearmanr((first * second).sum(1), scores).statistic)
    assert found[0] + 0.05 < found[1] < found[2]

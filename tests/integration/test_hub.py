"""A hub id, from a real hub cache on disk, offline: model, tokenizer and the encoder's own settings."""

import os
import subprocess
import sys

import numpy as np

from unmask import TextEncoder
from unmask.settings import EncoderSettings

SCRIPT = """
import sys
import numpy as np
from unmask import ArtifactError, TextEncoder
encoder = TextEncoder.load("someone/encoder")
assert encoder.settings.pooling == "last" and encoder.settings.max_length == 33, encoder.settings
np.save(sys.argv[1], encoder.encode(["one", "two texts"]))
try:
    TextEncoder.load("someone/else")
except ArtifactError as error:
    print(error)
"""


def test_an_encoder_from_the_hub_keeps_its_settings(bidirectional, tmp_path):
    settings = EncoderSettings(pooling="last", max_length=33)
    encoder = TextEncoder(bidirectional.model, bidirectional.tokenizer, settings)
    repository = tmp_path / "hub" / "models--someone--encoder"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    encoder.save(repository / "snapshots" / ("0" * 40))
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "v.npy")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "someone/else" in done.stdout
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), encoder.encode(["one", "two texts"]), atol=1e-6)

"""Written tokenizers have the same ids in the last transformers before 5, in an environment of its own."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from unmask.backbone.pieces import SAMPLES
from unmask.backbone.written_tokenizer import hold_to_itself
from unmask.text.control import read_spellings_as_text

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("UNMASK_TRANSFORMERS_4", ROOT / ".venv-transformers-4" / "bin" / "python"))
TEXTS = [*SAMPLES, "", "<s> spelled </s>", "<|endoftext|>x", "<|im_start|>user\n", "<extra>"]
SCRIPT = """
import json, sys
import transformers
assert transformers.__version__.startswith("4."), transformers.__version__
texts, folders = json.loads(sys.argv[1])
print(json.dumps([transformers.AutoTokenizer.from_pretrained(folder)(texts)["input_ids"] for folder in folders]))
"""


@pytest.mark.data
@pytest.mark.skipif(not PYTHON.exists(), reason=f"no environment with transformers 4 at {PYTHON} (make transformers-4)")
def test_the_same_ids_in_transformers_4(tokenizer, data_folder, tmp_path):
    real = data_folder / "tokenizers"
    pieces = real / "mistral_v1_sp" / "tokenizer.model"
    gpt2 = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    mistral = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    for name, files, config in (
        ("gpt2", [real / "gpt2_bpe" / "vocab.json", real / "gpt2_bpe" / "merges.txt"], gpt2),
        ("mistral", [pieces], mistral),
    ):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
        (tmp_path / name / "tokenizer_config.json").write_text(json.dumps(config))
    places = (real / "qwen2.5_bpe", tmp_path / "gpt2", tmp_path / "mistral", tokenizer.name_or_path)
    opened = [AutoTokenizer.from_pretrained(place) for place in places]
    opened[-1].add_special_tokens({"extra_special_tokens": ["<extra>"]})
    ours, folders = [], []
    for number, one in enumerate(opened):
        if number != 3:
            read_spellings_as_text(one)
        folder = tmp_path / f"saved-{number}"
        one.save_pretrained(folder)
        hold_to_itself(folder, one)
        ours.append(one(TEXTS)["input_ids"])
        folders.append(str(folder))
    command = [str(PYTHON), "-c", SCRIPT, json.dumps([TEXTS, folders])]
    run = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert run.returncode == 0, run.stderr[-2000:]
    theirs = json.loads(run.stdout.strip().splitlines()[-1])
    for folder, one, other in zip(folders, ours, theirs, strict=True):
        assert one == other, folder

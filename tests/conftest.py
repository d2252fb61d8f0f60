"""Tiny real models and tokenizers, built in memory; the pocket decoder; the development data where it is."""

import os
import shutil
from pathlib import Path

import pytest

import unmask  # noqa: F401  before torch, as users are told: it says how torch's threads wait

os.environ.setdefault("HF_HUB_OFFLINE", "1")
DATA = Path(os.environ.get("UNMASK_DATA", Path(__file__).parents[2] / "shared" / "data"))


def pytest_collection_modifyitems(items):
    """Tests that need the development data are skipped, with the reason, where it is missing."""
    for item in items:
        if item.get_closest_marker("data") and not DATA.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"no development data at {DATA} (set UNMASK_DATA)"))


@pytest.fixture(scope="session")
def data_folder():
    return DATA


@pytest.fixture(scope="session")
def tokenizer():
    from unmask.backbone.locate import load_tokenizer

    return load_tokenizer("pocket")


@pytest.fixture
def tiny(tokenizer):
    """name -> a two-layer random model of that family over the pocket vocabulary."""

    def build(name, *, head=True, attention_implementation=None, **extra):
        import torch
        import transformers

        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        sizes |= {"num_key_value_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 128}
        sizes |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        if name == "gpt2":
            sizes |= {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
        known = transformers.AutoConfig.for_model(name)
        wanted = {key: value for key, value in {**sizes, **extra}.items() if hasattr(known, key)}
        config = transformers.AutoConfig.for_model(name, **wanted)
        if attention_implementation:
            config._attn_implementation = attention_implementation
        loader = transformers.AutoModelForCausalLM if head else transformers.AutoModel
        torch.manual_seed(0)
        return loader.from_config(config).eval()

    return build


@pytest.fixture(scope="session")
def bidirectional():
    """The pocket decoder, converted, in float32."""
    from unmask import TextEncoder

    return TextEncoder.load("pocket", attention="bidirectional", dtype="float32")


@pytest.fixture
def without_bos():
    """The same, its mean over the text's own tokens."""
    from unmask import TextEncoder

    return TextEncoder.load("pocket", attention="bidirectional", dtype="float32", include_special_tokens=False)


@pytest.fixture(scope="module")  # as long as it is open, an event loop runs in this thread
def browser():
    """A real one, for the pages that commands write."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    chromium = next(filter(None, found), None)
    assert chromium, "no Chromium on this machine: `make test` installs it where it can (apt-get install chromium)"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def articles():
    """A few paragraphs of real prose that ships with Python."""
    from pydoc_data.topics import topics

    texts = [" ".join(topics[name].split())[:1500] for name in sorted(topics)]
    return [text for text in texts if len(text) > 200][:40]


@pytest.fixture
def encode(bidirectional, tmp_path):
    """`encode_files` by the pocket encoder into a folder of the test."""
    from unmask import CorpusOptions, encode_files

    def run(*inputs, out="out", **options):
        encoder = options.pop("encoder", bidirectional)
        return encode_files(encoder, inputs, tmp_path / out, CorpusOptions(**options))

    return run

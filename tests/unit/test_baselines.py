"""BERT-, DeBERTa- and T5-encoder-shaped models go through the same commands as ours."""

import json

import numpy as np
import pytest
import torch
import transformers

from unmask import TextEncoder, UnmaskError
from unmask.cli.main import main

SHAPES = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
    "roberta": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
    "deberta-v2": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
}
# As checkpoints come: with another head than the one needed, and without the pooler that nothing here runs.
CLASSES = {
    "bert": "BertForMaskedLM",
    "roberta": "RobertaForMaskedLM",
    "deberta-v2": "DebertaV2ForMaskedLM",
    "t5": "T5ForConditionalGeneration",
}


@pytest.fixture(params=sorted(SHAPES))
def baseline(request, tokenizer, tmp_path):
    """A folder as such a model is published: a real architecture, random weights."""
    kind = request.param
    extra = {"pad_token_id": 0, "vocab_size": len(tokenizer)}
    config = transformers.AutoConfig.for_model(kind, **SHAPES[kind], **extra)
    torch.manual_seed(0)
    folder = tmp_path / kind
    getattr(transformers, CLASSES[kind])(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_baselines_are_opened_as_encoders(baseline):
    encoder = TextEncoder.load(baseline)
    texts = ["A cat sleeps.", "The river flooded the town, and the bank closed for a week."]
    vectors = encoder.encode(texts)
    assert vectors.shape == (2, 32)
    np.testing.assert_allclose(vectors[0], encoder.encode(texts[0]), atol=1e-5)
    first, second = (encoder.encode_words([["A", "cat", word]])[0] for word in ("sleeps", "runs"))
    assert np.abs(first[0] - second[0]).max() > 1e-4  # they were never causal


def test_baselines_read_what_transformers_reads(baseline):
    """RoBERTa counts positions from behind that of padding; what plain transformers computes is what we compute."""
    encoder = TextEncoder.load(baseline, dtype="float32")
    texts = ["A cat sleeps.", "The river flooded the town, and the bank closed for a week."]
    batch = encoder.tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        plain = encoder.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0]
    for row, (text, own) in enumerate(zip(texts, encoder.encode_tokens(texts), strict=True)):
        kept = torch.from_numpy(encoder.tokenize([text])[0].in_text)
        states = plain[row][batch["attention_mask"][row].bool()][kept]
        np.testing.assert_allclose(own.vectors, states.numpy(), atol=1e-5)


def test_baselines_go_through_the_commands(baseline, tmp_path, capsys):
    words = tmp_path / "words.txt"
    words.write_text("The B-NP\ncat I-NP\nsat B-VP\n\nA B-NP\ndog I-NP\nran B-VP\n")
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("A cat.,Cats.,5\nA cat.,Stocks.,0\nRain.,It rains.,4.5\n")
    labelled = tmp_path / "labelled.csv"
    labelled.write_text("text,label\nA cat.,x\nA dog.,x\nStocks.,y\nBonds.,y\n")
    name = str(baseline)
    options = ["--train", str(words), "--test", str(words), "--layers", "all"]
    assert main(["eval", "words", name, *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["results"]
    assert [result["layer"] for result in found] == [0, 1, 2]
    assert main(["eval", "sts", name, "--data", str(pairs), "--json"]) == 0
    assert main(["eval", "classification", name, "--train", str(labelled), "--test", str(labelled), "--json"]) == 0
    assert main(["eval", "clustering", name, "--data", str(labelled), "--json"]) == 0
    capsys.readouterr()
    assert main(["analyze", name, "--out", str(tmp_path / "report"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["geometry"]) == [baseline.name]  # nothing to compare layers with
    assert (tmp_path / "report" / "report.html").is_file()


def test_a_tagger_of_a_baseline_is_applied(baseline, tmp_path, capsys):
    """Also where the checkpoint has no pooler, whose random weights are others at every load."""
    rows = "the DET\ncat NOUN\n\na DET\ndog NOUN\n\n" * 4
    (tmp_path / "w.txt").write_text(rows)
    corpus = ["--train", str(tmp_path / "w.txt"), "--test", str(tmp_path / "w.txt"), "--scheme", "none"]
    assert main(["eval", "words", str(baseline), *corpus, "--save-tagger", str(tmp_path / "tagger")]) == 0
    capsys.readouterr()
    (tmp_path / "new.txt").write_text("the dog\n")
    assert main(["tag", str(tmp_path / "tagger"), str(tmp_path / "new.txt")]) == 0
    assert "dog" in capsys.readouterr().out


def test_an_encoder_cannot_be_made_causal(baseline, capsys):
    assert main(["eval", "sts", str(baseline), "--data", "none.csv", "--attention", "causal"]) == 2
    with pytest.raises(UnmaskError, match="cannot be made causal"):
        TextEncoder.load(baseline, attention="causal")


def test_an_encoder_half_saved_alone_opens_again(tokenizer, tmp_path):
    torch.manual_seed(0)
    config = transformers.T5Config(**SHAPES["t5"], pad_token_id=0, vocab_size=len(tokenizer))
    transformers.T5EncoderModel(config).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    encoder = TextEncoder.load(tmp_path / "t5")
    encoder.save(tmp_path / "again")
    texts = ["one text", "another"]
    np.testing.assert_allclose(TextEncoder.load(tmp_path / "again").encode(texts), encoder.encode(texts), atol=1e-6)

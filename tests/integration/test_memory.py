"""Evaluation memory does not grow with the corpus: ten times the text, the same peak within 10 percent."""

import json
import subprocess
import sys

import pytest

# The peak of the process's own memory; what a file map holds in the system's cache is not it. `ru_maxrss` would be no
# less than the peak of the process that runs the tests.
CHILD = """
import json, sys
from unmask.cli.main import main
code = main(sys.argv[1:])
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"code": code, "peak": peak}), file=sys.stderr)
"""


def peak(arguments):
    done = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=True)
    found = json.loads(done.stderr.strip().splitlines()[-1])
    assert found["code"] == 0
    return found["peak"]


@pytest.fixture(scope="module")
def small_encoder(tmp_path_factory):
    """A small random decoder: what is measured is what the evaluation adds to it."""
    import torch
    import transformers

    from unmask.backbone.locate import load_tokenizer

    tokenizer = load_tokenizer("pocket")
    sizes = {"hidden_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 256}
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **sizes)
    folder = tmp_path_factory.mktemp("memory") / "model"
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
@pytest.mark.data
def test_words(small_encoder, data_folder, tmp_path):
    """20,000 and 200,000 words: 20 MB and 205 MB of vectors."""
    lines = (data_folder / "conll2000" / "test.txt").read_text().split("\n\n")[:860]
    peaks = []
    for times in (1, 10):
        path = tmp_path / f"{times}.txt"
        path.write_text("\n\n".join(lines * times) + "\n")
        options = ["--train", str(path), "--test", str(path), "--label-column", "2", "--json"]
        peaks.append(peak(["eval", "words", small_encoder, *options]))
    assert peaks[1] < 1.1 * peaks[0], peaks  # KiB


@pytest.mark.slow
@pytest.mark.data
def test_retrieval(small_encoder, data_folder, tmp_path):
    """20,000 and 200,000 documents: both more than the stream reads ahead, which is three windows of 4,096."""
    corpus = (data_folder / "scifact" / "corpus.jsonl").read_text().splitlines()[:5000]
    short = [{"_id": row["_id"], "text": row["text"][:20]} for row in map(json.loads, corpus)]
    peaks = []
    for times in (4, 40):
        folder = tmp_path / str(times)
        (folder / "qrels").mkdir(parents=True)
        rows = ({**row, "_id": f"{n}-{row['_id']}"} for n in range(times) for row in short)
        (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "queries.jsonl").write_text('{"_id": "q", "text": "What do cells do?"}\n')
        (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\nq\t0-{short[0]['_id']}\t1\n")
        peaks.append(peak(["eval", "retrieval", small_encoder, "--data", str(folder), "--json"]))
    assert peaks[1] < 1.1 * peaks[0], peaks  # KiB


@pytest.mark.slow
def test_corpus(small_encoder, tmp_path):
    """20,000 and 200,000 texts with ids: 20 MB and 205 MB of vectors."""
    peaks = []
    for times in (2, 20):
        path = tmp_path / f"{times}.jsonl"
        path.write_text("".join(json.dumps({"id": n, "text": f"text {n}"}) + "\n" for n in range(times * 10_000)))
        out = str(tmp_path / str(times))
        peaks.append(peak(["encode", small_encoder, str(path), "--id-field", "id", "--out", out, "--json"]))
    assert peaks[1] < 1.1 * peaks[0], peaks  # KiB

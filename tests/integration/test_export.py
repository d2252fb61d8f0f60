"""`unmask export` as people call it, and graphs in ONNX Runtime and OpenVINO."""

import json
import re
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from unmask import TextEncoder
from unmask.cli.main import main
from unmask.export.samples import cosines

pytestmark = pytest.mark.slow
TEXTS = ["Hello world.", "a", "A long text about trains. " * 200, "", "naïve 日本語"]


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    """Two layers of the pocket decoder, two-sided, BOS left out of the mean."""
    folder = tmp_path_factory.mktemp("export") / "encoder"
    encoder = TextEncoder.load("pocket", attention="bidirectional", dtype="float32", include_special_tokens=False)
    encoder.model.layers = encoder.model.layers[:2]
    encoder.model.config.num_hidden_layers = 2
    encoder.save(folder)
    return folder


@pytest.fixture(scope="module")
def onnx_folder(encoder_folder):
    folder = encoder_folder.with_name("onnx")
    assert main(["export", str(encoder_folder), "--for", "onnx", "--out", str(folder)]) == 0
    return folder


def rows_of(folder, texts):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)(texts, truncation=True)["input_ids"]  # cut by its own length


def batch_of(rows, side="right"):
    batch = np.zeros((2, len(rows), max(map(len, rows))), dtype=np.int64)
    for row, ids in enumerate(rows):
        place = slice(0, len(ids)) if side == "right" else slice(batch.shape[2] - len(ids), None)
        batch[0, row, place], batch[1, row, place] = ids, 1
    return {"input_ids": batch[0], "attention_mask": batch[1]}


def test_onnx_runtime_gives_the_vectors_padded_and_not(encoder_folder, onnx_folder):
    from onnxruntime import InferenceSession

    session = InferenceSession(onnx_folder / "onnx" / "model.onnx")
    assert [one.name for one in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert [one.name for one in session.get_outputs()] == ["last_hidden_state", "sentence_embedding"]
    rows = rows_of(onnx_folder, TEXTS)
    expected = TextEncoder.load(encoder_folder, dtype="float32").encode(TEXTS)
    for side in ("left", "right"):
        states, vectors = session.run(None, batch_of(rows, side))
        assert states.shape == (len(rows), max(map(len, rows)), vectors.shape[1])
        assert cosines(vectors, expected).min() > 0.999999
    for ids, one in zip(rows, expected, strict=True):
        alone = session.run(["sentence_embedding"], batch_of([ids]))[0]
        np.testing.assert_allclose(alone[0], one, atol=1e-4)


def test_a_folder_of_a_graph_has_no_weights_that_are_read_as_causal(onnx_folder, capsys):
    assert not list(onnx_folder.glob("*.safetensors"))
    assert (
        onnx_folder / "WordWeights" / "model.safetensors"
    ).is_file()  # sentence-transformers pools the states itself
    assert main(["verify", str(onnx_folder)]) == 2
    assert "is an export for ONNX Runtime" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("optimum") is None, reason="sentence-transformers opens graphs through optimum")
def test_sentence_transformers_opens_the_graph(encoder_folder, onnx_folder):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(onnx_folder), backend="onnx", device="cpu")
    expected = TextEncoder.load(encoder_folder, dtype="float32").encode(TEXTS)
    assert cosines(model.encode(TEXTS), expected).min() > 0.9999


def test_openvino_gives_the_vectors(encoder_folder, tmp_path, capsys):
    out = tmp_path / "openvino"
    assert main(["export", str(encoder_folder), "--for", "openvino", "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["cosine"] > 0.9999
    assert report["read_with"].startswith("openvino ")
    assert sorted(file.name for file in (out / "openvino").iterdir()) == ["openvino_model.bin", "openvino_model.xml"]
    assert not (out / "model.safetensors").exists()
    assert not (out / "onnx").exists()
    assert main(["check", str(out)]) == 0
    assert "in OpenVINO" in capsys.readouterr().out


def test_a_graph_is_checked_by_its_folder(onnx_folder, tmp_path, capsys):
    assert main(["check", str(onnx_folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["target"] == f"{onnx_folder} in ONNX Runtime"
    assert report["smallest"] > 0.9999
    assert report["fingerprint"]["same"]
    assert {test["result"] for test in report["requests"]} == {"right"}
    short = shutil.copytree(onnx_folder, tmp_path / "short")
    (short / "sentence_bert_config.json").write_text('{"max_seq_length": 128}')
    assert main(["check", str(short), "--json"]) == 1
    assert [fault["fault"] for fault in json.loads(capsys.readouterr().out)["faults"]] == ["cut-short"]
    assert main(["check", str(short), "--runtime", "sentence-transformers"]) == 2
    assert "its own runtime opens here" in capsys.readouterr().err
    (short / "onnx" / "model.onnx").write_bytes(b"no graph")
    assert main(["check", str(short)]) == 2
    assert "is no graph that this version of its runtime opens" in capsys.readouterr().err


def test_in_eight_bits_a_vector_does_not_depend_on_the_texts_beside_it(encoder_folder, tmp_path, capsys):
    from onnxruntime import InferenceSession

    out = tmp_path / "int8"
    arguments = ["export", str(encoder_folder), "--for", "onnx", "--precision", "int8", "--out", str(out), "--json"]
    assert main(arguments) == 0
    assert 0.99 < json.loads(capsys.readouterr().out)["cosine"] < 0.99999
    session = InferenceSession(out / "onnx" / "model.onnx")
    rows = rows_of(out, TEXTS)
    together = session.run(["sentence_embedding"], batch_of(rows))[0]
    alone = [session.run(["sentence_embedding"], batch_of([ids]))[0][0] for ids in rows]
    assert cosines(np.stack(alone), together).min() > 0.9999
    assert sorted(file.name for file in (out / "onnx").iterdir()) == ["model.onnx"]
    encoder = TextEncoder.load(encoder_folder, dtype="float32")
    assert (out / "onnx" / "model.onnx").stat().st_size < sum(p.numel() for p in encoder.model.parameters()) * 3


# As in real decoders: float32 does not mind, one scale a token alone does (0.2).
def test_in_eight_bits_channels_that_are_much_larger_than_others_cost_little(encoder_folder, tmp_path, capsys):
    encoder = TextEncoder.load(encoder_folder, dtype="float32")
    with torch.no_grad():
        for layer in encoder.model.layers:
            own, mlp = layer.self_attn, layer.mlp
            for norm, readers in (
                (layer.input_layernorm, (own.q_proj, own.k_proj, own.v_proj)),
                (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
            ):
                norm.weight[::8] *= 1000  # more channels than are kept unrounded
                for reader in readers:
                    reader.weight[:, ::8] /= 1000
    encoder.save(tmp_path / "encoder")
    arguments = ["export", str(tmp_path / "encoder"), "--for", "onnx", "--precision", "int8", "--json"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert json.loads(capsys.readouterr().out)["cosine"] > 0.99


def test_eight_bits_that_cost_too_much_are_not_written(encoder_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("unmask.export.exporting._LEAST_IN_EIGHT_BITS", 0.99999)
    arguments = ["export", str(encoder_folder), "--for", "onnx", "--precision", "int8"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 1
    assert re.search(r"In eight bits .* is at cosine .*too different in size", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_sentence_transformers_and_what_differs_there(encoder_folder, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["export", str(encoder_folder), "--for", "sentence-transformers", "--out", str(out)]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["cosine"] > 0.9999
    assert report["read_with"].startswith("sentence-transformers ")
    assert (out / "WordWeights").is_dir()
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_prompt_that_ends_inside_a_token_fails_there(encoder_folder, tmp_path, capsys):
    opened = TextEncoder.load(encoder_folder, dtype="float32")
    settings = opened.settings.changed(prompts={"query": "Find this: "})
    TextEncoder(opened.model, opened.tokenizer, settings).save(tmp_path / "prompted")
    arguments = ["export", str(tmp_path / "prompted"), "--for", "sentence-transformers", "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert "behind the prompt 'Find this: '" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_pocket_for_tei_is_refused_and_for_vllm_told_what_leaving_bos_out_costs(encoder_folder, tmp_path, capsys):
    arguments = ["export", "pocket", "--attention", "bidirectional", "--out", str(tmp_path / "out"), "--for"]
    assert main([*arguments, "tei"]) == 2
    assert "TEI on a CPU serves Qwen3 and Gemma3 only; this is a Llama." in capsys.readouterr().err
    without = ["export", str(encoder_folder), "--out", str(tmp_path / "without"), "--for", "vllm"]
    assert main(without) == 2
    assert "--pool-special-tokens" in capsys.readouterr().err
    for served in ([*arguments, "vllm"], [*without, "--pool-special-tokens"]):
        assert main(served) == 0
        said = capsys.readouterr()
        assert "in the place of vLLM" in said.out
        assert "vllm serve" in said.out
        assert "written to" in said.err

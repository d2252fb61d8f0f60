"""ONNX Runtime and OpenVINO, on the graph that `unmask export` writes: exporters at hand make a causal model of it."""

from pathlib import Path

import numpy as np

from .answering import answer
from .timing import reader, timed_encoding


def write(job):
    """`float32/model.onnx` and `int8/model.onnx`: ids and mask in, states and vectors out."""
    from unmask import TextEncoder
    from unmask.encoder.fingerprint import TEXTS
    from unmask.export.eight_bits import write_int8
    from unmask.export.graph import write_onnx

    whole, small = (Path(job["scratch"], name, "model.onnx") for name in ("float32", "int8"))
    encoder = TextEncoder.load(job["model"], dtype="float32", device="cpu", fast=False)
    write_onnx(encoder, whole)
    write_int8(whole, small, [text.ids for text in encoder.tokenize(TEXTS)])
    return {}


def onnxruntime(job):
    """ONNX Runtime, in float32 or eight bits."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = job["threads"]
    session = InferenceSession(f"{job['scratch']}/{job['dtype']}/model.onnx", options)
    return _timed(job, lambda batch: session.run(["sentence_embedding"], batch)[0])


def openvino(job):
    """OpenVINO, in float32 or bfloat16."""
    import openvino as ov

    hint = {"bfloat16": "bf16", "float32": "f32"}[job["dtype"]]
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": job["threads"]}
    model = ov.compile_model(f"{job['scratch']}/float32/model.onnx", "CPU", options)
    if model.get_property("INFERENCE_PRECISION_HINT").to_string() != hint:
        raise SystemExit(f"OpenVINO has no {job['dtype']} on this CPU")
    return _timed(job, lambda batch: model(batch)["sentence_embedding"])


def onnxruntime_answers(job):
    """ONNX Runtime on a folder that was exported for it, with the tokenizer of transformers."""
    from onnxruntime import InferenceSession, __version__

    session = InferenceSession(f"{job['model']}/onnx/model.onnx", providers=["CPUExecutionProvider"])
    return answer(__version__, _of_texts(job, lambda batch: session.run(["sentence_embedding"], batch)[0]))


def openvino_answers(job):
    """OpenVINO, in float32 or bfloat16."""
    import openvino as ov

    options = {"INFERENCE_PRECISION_HINT": job["hint"], "INFERENCE_NUM_THREADS": 2}
    model = ov.compile_model(f"{job['model']}/openvino/openvino_model.xml", "CPU", options)
    version = ov.__version__.split("-")[0]
    return answer(version, _of_texts(job, lambda batch: model(batch)["sentence_embedding"].copy()))


def _of_texts(job, run):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job["model"])

    def embed(texts, prompt):
        batch = tokenizer([prompt + text for text in texts], padding=True, truncation=True, return_tensors="np")
        return run({name: batch[name].astype(np.int64) for name in ("input_ids", "attention_mask")})

    return embed


def _timed(job, run):
    """Batches of 32, texts of like length together, as sentence-transformers makes them."""
    ids = reader(job)

    def encode(texts):
        rows = ids(texts)
        order = sorted(range(len(rows)), key=lambda at: -len(rows[at]))
        vectors = [None] * len(rows)
        for start in range(0, len(rows), 32):
            some = order[start : start + 32]
            batch = np.zeros((2, len(some), len(rows[some[0]])), dtype=np.int64)
            for row, at in enumerate(some):
                batch[0, row, : len(rows[at])] = rows[at]
                batch[1, row, : len(rows[at])] = 1
            found = run({"input_ids": batch[0], "attention_mask": batch[1]})
            for at, vector in zip(some, found):
                vectors[at] = vector
        return vectors

    return timed_encoding(job, encode)

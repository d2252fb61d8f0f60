"""ONNX Runtime and OpenVINO, on an export of our own: exporters at hand make a causal model of an encoder."""

import numpy as np

from .timing import reader, timed_encoding


def write(job):
    """`model.onnx` and `int8.onnx`: ids and mask in, states and their mean out, any number and length of texts."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from transformers import AutoModel

    class Encoder(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask):
            length = input_ids.shape[1]
            seen = attention_mask[:, None, None, :].float().expand(-1, 1, length, -1)
            positions = torch.arange(length)[None]
            # finite: -inf is not a number in eight bits, and a mask that is given whole keeps the causal one away
            mask = (1 - seen) * -3e4
            states = self.model(input_ids=input_ids, attention_mask=mask, position_ids=positions, use_cache=False)[0]
            kept = attention_mask[..., None].float()
            return states, (states * kept).sum(1) / kept.sum(1)

    model = Encoder(AutoModel.from_pretrained(job["model"], dtype=torch.float32)).eval()
    sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    ids, mask = (torch.ones(2, 7, dtype=torch.long) for _ in range(2))
    with torch.no_grad():
        program = torch.onnx.export(
            model,
            (ids, mask),
            dynamo=True,
            dynamic_shapes=(sizes, sizes),
            input_names=["input_ids", "attention_mask"],
            output_names=["last_hidden_state", "sentence_embedding"],
        )
    whole, small = (f"{job['scratch']}/{name}.onnx" for name in ("model", "int8"))
    program.save(whole, external_data=True)
    quantize_dynamic(whole, small, per_channel=True, weight_type=QuantType.QInt8, use_external_data_format=True)
    return {}


def onnxruntime(job):
    """ONNX Runtime, in float32 or eight bits."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = job["threads"]
    name = {"float32": "model", "int8": "int8"}[job["dtype"]]
    session = InferenceSession(f"{job['scratch']}/{name}.onnx", options)
    return _timed(job, lambda batch: session.run(["sentence_embedding"], batch)[0])


def openvino(job):
    """OpenVINO, in float32 or bfloat16."""
    import openvino as ov

    hint = {"bfloat16": "bf16", "float32": "f32"}[job["dtype"]]
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": job["threads"]}
    model = ov.compile_model(f"{job['scratch']}/model.onnx", "CPU", options)
    if model.get_property("INFERENCE_PRECISION_HINT").to_string() != hint:
        raise SystemExit(f"OpenVINO has no {job['dtype']} on this CPU")
    return _timed(job, lambda batch: model(batch)["sentence_embedding"])


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

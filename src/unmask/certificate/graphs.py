"""Graphs of ONNX Runtime and OpenVINO: opened by their file, and as a target of `unmask check` by their folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unmask.backbone.opened import plain_tokenizer
from unmask.backbone.structure import first_line
from unmask.certificate.cases import Case
from unmask.certificate.targets import Refused
from unmask.encoder import Floats
from unmask.encoder.saved import read_settings
from unmask.errors import DataError, MissingExtraError
from unmask.files import read_json
from unmask.pooling import POOLINGS

# Where an export lies in its folder, and what reads it.
GRAPHS = {"onnx/model.onnx": "onnxruntime", "openvino/openvino_model.xml": "openvino"}
Run = Callable[[NDArray[np.int64], NDArray[np.int64]], Floats]  # ids and mask [texts, tokens] -> vectors


def graph_file(folder: Path) -> Path | None:
    """The graph of a folder that holds one and no weights, as `unmask export` writes it; None of any other."""
    if any(folder.glob("*.safetensors")):
        return None
    return next((folder / place for place in GRAPHS if (folder / place).is_file()), None)


def open_graph(path: Path) -> Run:
    """What a graph computes on the CPU, in float32; its own pooling is inside.

    Raises:
        MissingExtraError: the runtime is not installed.
        DataError: the runtime does not open it.
    """
    is_onnx = path.suffix == ".onnx"
    try:
        return _onnx(path) if is_onnx else _openvino(path)
    except ImportError as error:
        extra = "onnx" if is_onnx else "openvino"
        raise MissingExtraError(f"{path} is read by that runtime: pip install 'unmask[{extra}]'.") from error
    except Exception as error:  # whatever stands in the file, told by a library in C++
        raise DataError(f"{path} is no graph that this version of its runtime opens ({first_line(error)}).") from error


def _onnx(path: Path) -> Run:
    from onnxruntime import InferenceSession

    session = InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(["sentence_embedding"], {"input_ids": ids, "attention_mask": mask})[0]


def _openvino(path: Path) -> Run:
    import openvino

    model = openvino.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda ids, mask: model({"input_ids": ids, "attention_mask": mask})["sentence_embedding"].copy()


class OpenedGraph:
    """An export for ONNX Runtime or OpenVINO, opened by that, with its tokenizer as transformers opens it.

    Args:
        folder: of the export.
        path: of its graph.

    Raises:
        MissingExtraError: the runtime is not installed.
        DataError: the runtime does not open it.
        ArtifactError: the files beside it are not those of an export.
    """

    def __init__(self, folder: Path, path: Path) -> None:
        self.name = f"{folder} in {'ONNX Runtime' if path.suffix == '.onnx' else 'OpenVINO'}"
        self._length = int(read_json(folder / "sentence_bert_config.json")["max_seq_length"])
        self._tokenizer = plain_tokenizer(folder)
        settings = read_settings(folder, self._length)
        self._pools_prompts = settings is None or settings.include_prompt or not POOLINGS[settings.pooling].averages
        self._run = open_graph(path)

    def embed(self, cases: Sequence[Case]) -> Floats:
        """See `Target`."""
        if cases[0].prompt and not self._pools_prompts:
            raise Refused("a graph cannot tell a prompt from the text, and this encoder leaves it out of its mean")
        texts = [case.prompt + case.text for case in cases]
        rows = self._tokenizer(texts, truncation=True, max_length=self._length)["input_ids"]
        if not all(rows):
            raise Refused("a text without tokens is nothing that a graph reads")
        batch = np.zeros((2, len(rows), max(map(len, rows))), dtype=np.int64)
        for row, ids in enumerate(rows):
            batch[0, row, : len(ids)], batch[1, row, : len(ids)] = ids, 1
        return self._run(batch[0], batch[1])

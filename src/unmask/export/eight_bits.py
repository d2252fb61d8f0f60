"""A graph whose linear layers multiply bytes: a scale a token and a column of weights, measured as it runs.

ONNX Runtime's own dynamic quantisation has one scale for a whole batch, so that a text's vector depends on the texts
beside it. Here each token is scaled by its own largest value. Channels of very different sizes are brought to like ones
first, and the largest are not rounded, as in `unmask encode --int8` (backbone/fast/int8.py).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unmask.backbone.fast.int8 import smoothing

_LARGEST = 127.0
_IN_ONE_FILE = 2**30  # bytes of weights that are kept inside the file of the graph, which may have two gigabytes

Matrix = NDArray[np.float32]


def write_int8(source: Path, path: Path, rows: Sequence[NDArray[np.int64]]) -> int:
    """Write a graph in eight bits.

    Args:
        source: a graph in float32, in a folder that can be written to.
        path: of the new file, in a new folder.
        rows: token ids [tokens] of texts like those to come, some dozens; they show how large each channel becomes.

    Returns:
        How many products are in eight bits.
    """
    import onnx

    largest = _largest_inputs(source, rows)
    model = onnx.load(str(source))
    count = _rewrite(model.graph, largest)
    path.parent.mkdir(parents=True)
    large = sum(len(weights.raw_data) for weights in model.graph.initializer) > _IN_ONE_FILE
    onnx.save_model(model, str(path), save_as_external_data=large, location=f"{path.name}.data")
    return count


def _products(graph: Any) -> Iterator[tuple[Any, str, bool]]:
    """Every product of states and a matrix of weights: its node, the weights, and whether these are turned before."""
    weights = {one.name: one for one in graph.initializer}
    turned = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Transpose"}
    for node in graph.node:
        name = node.input[1] if node.op_type == "MatMul" else ""
        held = weights.get(turned.get(name, name))
        if held is not None and len(held.dims) == 2:
            yield node, held.name, name in turned


def _largest_inputs(source: Path, rows: Sequence[NDArray[np.int64]]) -> dict[str, Matrix]:
    """The largest size of each channel of all states that are multiplied by weights, [in], over some texts."""
    import onnx
    from onnx import TensorProto
    from onnx.helper import make_node, make_tensor_value_info
    from onnxruntime import InferenceSession

    model = onnx.load(str(source), load_external_data=False)
    graph = model.graph
    shapes = {one.name: one.dims for one in graph.initializer}
    widths = {node.input[0]: shapes[held][1 if turned else 0] for node, held, turned in _products(graph)}
    _add(graph, "unmask_first", np.array([0], dtype=np.int64))
    for name in widths:
        sizes, tokens = f"{name}.sizes", f"{name}.tokens"
        graph.node.append(make_node("Abs", [name], [sizes]))
        _add(graph, f"{name}.shape", np.array([-1, widths[name]], dtype=np.int64))
        graph.node.append(make_node("Reshape", [sizes, f"{name}.shape"], [tokens]))
        graph.node.append(make_node("ReduceMax", [tokens, "unmask_first"], [f"{name}.seen"], keepdims=0))
        graph.output.append(make_tensor_value_info(f"{name}.seen", TensorProto.FLOAT, None))
    looking = source.with_name("looking.onnx")
    onnx.save_model(model, str(looking))
    session = InferenceSession(str(looking), providers=["CPUExecutionProvider"])
    asked = [f"{name}.seen" for name in widths]
    found: list[list[Matrix]] = []
    for row in rows:
        ids = row[None]
        found.append(session.run(asked, {"input_ids": ids, "attention_mask": np.ones_like(ids)}))
    del session
    looking.unlink()
    return {name: np.max(sizes, axis=0) for name, sizes in zip(widths, zip(*found, strict=True), strict=True)}


def _rewrite(graph: Any, largest: dict[str, Matrix]) -> int:
    """Put every product of states and a matrix of weights into bytes, in place."""
    from onnx import numpy_helper
    from onnx.helper import make_graph

    held = {one.name: one for one in graph.initializer}
    weights: dict[str, tuple[str, bool]] = {}
    readers: dict[str, list[str]] = {}  # queries, keys and values have their states in common
    for node, name, turned in _products(graph):
        weights[node.output[0]] = name, turned
        readers.setdefault(node.input[0], []).append(node.output[0])

    def matrix_of(out: str) -> Matrix:
        name, turned = weights[out]
        matrix: Matrix = numpy_helper.to_array(held[name])
        return matrix.T if turned else matrix

    _add(graph, "unmask_largest", np.float32(_LARGEST))
    _add(graph, "unmask_least", np.float32(1e-12))
    _add(graph, "unmask_last", np.array([-1], dtype=np.int64))
    nodes, scaled = [], dict[str, tuple[Matrix, NDArray[np.int64]]]()
    for node in graph.node:
        if node.output[0] not in weights:
            nodes.append(node)
            continue
        states = node.input[0]
        if states not in scaled:
            together = np.concatenate([matrix_of(out) for out in readers[states]], axis=1)
            grown, exact = smoothing(torch.from_numpy(together.T.copy()), torch.from_numpy(largest[states]))
            scaled[states] = grown.numpy(), exact.numpy()
            nodes += _in_bytes(graph, states, *scaled[states])
        nodes += _product(graph, node, matrix_of(node.output[0]), *scaled[states])
    read = {name for node in nodes for name in node.input} | {one.name for one in graph.output}
    nodes = [node for node in nodes if node.op_type != "Transpose" or node.output[0] in read]
    read = {name for node in nodes for name in node.input}
    kept = [one for one in graph.initializer if one.name in read]
    graph.CopyFrom(make_graph(nodes, graph.name, graph.input, graph.output, kept))
    return len(weights)


def _in_bytes(graph: Any, states: str, grown: Matrix, exact: NDArray[np.int64]) -> list[Any]:
    """Nodes that give `states` in bytes, the scale of each token, and the channels that are not rounded."""
    from onnx import TensorProto
    from onnx.helper import make_node

    smooth = (1 / grown).astype(np.float32)
    smooth[exact] = 0
    _add(graph, f"{states}.smooth", smooth)
    _add(graph, f"{states}.channels", exact)
    like, size, most = (f"{states}.{name}" for name in ("like", "size", "most"))
    part, scale, over, even = (f"{states}.{name}" for name in ("part", "scale", "over", "even"))
    return [
        make_node("Gather", [states, f"{states}.channels"], [f"{states}.exact"], axis=-1),
        make_node("Mul", [states, f"{states}.smooth"], [like]),
        make_node("Abs", [like], [size]),
        make_node("ReduceMax", [size, "unmask_last"], [most], keepdims=1),
        make_node("Div", [most, "unmask_largest"], [part]),
        make_node("Max", [part, "unmask_least"], [scale]),
        make_node("Div", [like, scale], [over]),
        make_node("Round", [over], [even]),
        make_node("Cast", [even], [f"{states}.bytes"], to=TensorProto.INT8),
    ]


def _product(graph: Any, node: Any, matrix: Matrix, grown: Matrix, exact: NDArray[np.int64]) -> list[Any]:
    """Nodes for one product: bytes times bytes, both scales, and the channels that are not rounded."""
    from onnx import TensorProto
    from onnx.helper import make_node

    out, states = node.output[0], node.input[0]
    rounded = matrix * grown[:, None]
    rounded[exact] = 0
    columns = np.maximum(np.abs(rounded).max(axis=0) / _LARGEST, 1e-12).astype(np.float32)
    _add(graph, f"{out}.weights", np.rint(rounded / columns).astype(np.int8))
    _add(graph, f"{out}.scales", columns)
    _add(graph, f"{out}.exact_weights", np.ascontiguousarray(matrix[exact]))
    return [
        make_node("MatMulInteger", [f"{states}.bytes", f"{out}.weights"], [f"{out}.whole"]),
        make_node("Cast", [f"{out}.whole"], [f"{out}.real"], to=TensorProto.FLOAT),
        make_node("Mul", [f"{out}.real", f"{states}.scale"], [f"{out}.rows"]),
        make_node("Mul", [f"{out}.rows", f"{out}.scales"], [f"{out}.rounded"]),
        make_node("MatMul", [f"{states}.exact", f"{out}.exact_weights"], [f"{out}.beside"]),
        make_node("Add", [f"{out}.rounded", f"{out}.beside"], [out]),
    ]


def _add(graph: Any, name: str, value: Any) -> None:
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))

"""A graph whose linear layers multiply bytes: a scale a token and a column of weights, measured as it runs.

ONNX Runtime's own dynamic quantisation has one scale for a whole batch, so that a text's vector depends on the texts
beside it. Here each token is scaled by its own largest value.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGEST = 127.0
_IN_ONE_FILE = 2**30  # bytes of weights that are kept inside the file of the graph, which may have two gigabytes


def write_int8(source: Path, path: Path) -> int:
    """Write a graph in eight bits.

    Args:
        source: a graph in float32.
        path: of the new file, in a new folder.

    Returns:
        How many products are in eight bits.
    """
    import onnx

    model = onnx.load(str(source))
    count = _rewrite(model.graph)
    path.parent.mkdir(parents=True)
    large = sum(len(weights.raw_data) for weights in model.graph.initializer) > _IN_ONE_FILE
    onnx.save_model(model, str(path), save_as_external_data=large, location=f"{path.name}.data")
    return count


def _rewrite(graph: Any) -> int:
    """Put every product of states and a matrix of weights into bytes, in place."""
    from onnx import numpy_helper
    from onnx.helper import make_graph

    weights = {one.name: one for one in graph.initializer}
    turned = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Transpose" and node.input[0] in weights and len(weights[node.input[0]].dims) == 2
    }
    _add(graph, "unmask_largest", np.float32(_LARGEST))
    _add(graph, "unmask_least", np.float32(1e-12))
    _add(graph, "unmask_last", np.array([-1], dtype=np.int64))
    nodes, scaled, count = [], set[str](), 0
    for node in graph.node:
        name = node.input[1] if node.op_type == "MatMul" else ""
        held = weights.get(turned.get(name, name))
        if held is None or len(held.dims) != 2:
            nodes.append(node)
            continue
        matrix = numpy_helper.to_array(held)
        matrix = matrix.T if name in turned else matrix
        states = node.input[0]
        if states not in scaled:  # queries, keys and values have theirs in common
            scaled.add(states)
            nodes += _in_bytes(states)
        nodes += _product(graph, node, matrix, count)
        count += 1
    read = {name for node in nodes for name in node.input} | {one.name for one in graph.output}
    nodes = [node for node in nodes if node.op_type != "Transpose" or node.output[0] in read]
    read = {name for node in nodes for name in node.input}
    kept = [one for one in graph.initializer if one.name in read]
    graph.CopyFrom(make_graph(nodes, graph.name, graph.input, graph.output, kept))
    return count


def _in_bytes(states: str) -> list[Any]:
    """Nodes that give `states` in bytes and the scale of each token."""
    from onnx import TensorProto
    from onnx.helper import make_node

    size, most, part, scale, over, even = (f"{states}.{n}" for n in ("size", "most", "part", "scale", "over", "even"))
    return [
        make_node("Abs", [states], [size]),
        make_node("ReduceMax", [size, "unmask_last"], [most], keepdims=1),
        make_node("Div", [most, "unmask_largest"], [part]),
        make_node("Max", [part, "unmask_least"], [scale]),
        make_node("Div", [states, scale], [over]),
        make_node("Round", [over], [even]),
        make_node("Cast", [even], [f"{states}.bytes"], to=TensorProto.INT8),
    ]


def _product(graph: Any, node: Any, matrix: NDArray[np.float32], number: int) -> list[Any]:
    """Nodes for one product: bytes times bytes, and both scales."""
    from onnx import TensorProto
    from onnx.helper import make_node

    columns = np.maximum(np.abs(matrix).max(axis=0) / _LARGEST, 1e-12).astype(np.float32)
    weights, scales = f"unmask_weights_{number}", f"unmask_scales_{number}"
    _add(graph, weights, np.rint(matrix / columns).astype(np.int8))
    _add(graph, scales, columns)
    out, states = node.output[0], node.input[0]
    return [
        make_node("MatMulInteger", [f"{states}.bytes", weights], [f"{out}.whole"]),
        make_node("Cast", [f"{out}.whole"], [f"{out}.real"], to=TensorProto.FLOAT),
        make_node("Mul", [f"{out}.real", f"{states}.scale"], [f"{out}.rows"]),
        make_node("Mul", [f"{out}.rows", scales], [out]),
    ]


def _add(graph: Any, name: str, value: Any) -> None:
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))

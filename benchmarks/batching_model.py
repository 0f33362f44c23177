"""A model that gains from batches: an MLP whose weights are read from memory once for each run, however many rows it has.

Two layers of 2048 × 2048 FP32 are 33 MB, more than a core's share of the cache, so one row costs nearly what thirty do. The first
column passes through unchanged, which marks each row.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

__all__ = ["COLUMNS", "write_model"]

COLUMNS = 64
WIDTH = 2048
OPSET, IR_VERSION = 16, 8


def write_model(repository: Path) -> None:
    """`mlp`, version 1: x FP32 [-1, 64] → y FP32 [-1, 8]; the same file each time."""
    draw = np.random.default_rng(0)
    sizes = [COLUMNS, WIDTH, WIDTH, WIDTH, 7]
    constants = {"first": np.array([0])}
    nodes, last = [helper.make_node("Gather", ["x", "first"], ["mark"], axis=1)], "x"
    for at, (rows, columns) in enumerate(pairwise(sizes)):
        constants[f"w{at}"] = (draw.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)
        nodes.append(helper.make_node("MatMul", [last, f"w{at}"], [f"h{at}"]))
        nodes.append(helper.make_node("Relu", [f"h{at}"], [f"r{at}"]))
        last = f"r{at}"
    nodes.append(helper.make_node("Concat", ["mark", last], ["y"], axis=1))
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", COLUMNS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 8])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    folder = repository / "mlp" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())

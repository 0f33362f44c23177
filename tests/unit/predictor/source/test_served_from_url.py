"""The predictor over a remote root: what was downloaded is what ONNX Runtime runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from infermesh.call import Call
from infermesh.deadline import Deadline
from services.predictor.source import Source


def with_external_data(folder: Path, number: float) -> None:
    """y = x + number for 1,000 columns; the numbers lie in a file beside the graph."""
    shape = ["rows", 1000]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "n"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.full(1000, number, np.float32), "n")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    onnx.save_model(
        proto, str(folder / "model.onnx"), save_as_external_data=True, location="weights.bin", size_threshold=0
    )


@pytest.mark.parametrize("optimized", [False, True])
async def test_a_model_with_external_data_answers(
    optimized: bool,
    store: Any,
    open_root: Callable[..., Source],
    serve: Any,
    ask: Any,
    tmp_path: Path,
) -> None:
    """Also from the cache alone, and with its optimised graph kept beside it."""
    with_external_data(tmp_path, 0.5)
    for name in ("model.onnx", "weights.bin"):
        store.put(f"m/3/{name}", (tmp_path / name).read_bytes())
    store.put("m/config.yaml", b"labels: {stable: 3}")

    for _ in range(2):
        source = open_root(store)
        predictor = await serve(source=source, optimized_graph_cache=optimized)
        call = Call(Deadline.after(30))
        answer = await predictor.infer(ask("m", version="stable", x=np.ones((2, 1000), np.float32)), call)

        assert answer.model_version == "3"
        assert (np.frombuffer(answer.raw_output_contents[0], np.float32) == 1.5).all()

    assert source.counts.downloads == 0

"""What is refused at load with batching on, and what it is checked with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from services.predictor.load_failed import LoadFailed
from services.predictor.model_config import ModelSettings
from services.predictor.model_version import ModelVersion

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def opened(folder: Path, **settings: Any) -> ModelVersion:
    execution = {"intra_op_threads": 1, "inline_below": "0s", "optimized_graph_cache": False}
    whole = {"batching": {"enabled": True}, "execution": execution, **settings}
    return ModelVersion("m", 1, folder / "model.onnx", ModelSettings.model_validate(whole))


def graph(models: Any, operator: str, inputs: list[str], x: Any, y: Any, kind: int = FLOAT, **rest: Any) -> bytes:
    constants = {key: value for key, value in rest.items() if isinstance(value, np.ndarray)}
    attributes = {key: value for key, value in rest.items() if key not in constants}
    node = helper.make_node(operator, inputs, ["y"], **attributes)
    return bytes(models.model([node], {"x": (kind, x)}, {"y": (kind, y)}, **constants))


@pytest.mark.parametrize(
    ("operator", "inputs", "x", "y", "rest", "words"),
    [
        ("Identity", ["x"], [4], [4], {}, r"batching: input x has shape \[4\]; .* the first dimension .* turn batching off"),
        ("Identity", ["x"], [], [], {}, r"batching: input x has shape \[\]"),
        ("ReduceSum", ["x", "a"], ["n", 2], [1, 2], {"a": np.array([0])}, r"batching: output y has shape \[1, 2\]"),
        ("Softmax", ["x"], ["n", 2], ["n", 2], {"axis": 0}, r"batching: output y of 4 rows run together .* by up to"),
        ("Squeeze", ["x", "a"], ["n", "m"], ["m"], {"a": np.array([0])}, "4 rows fail together, which run singly"),
        ("Transpose", ["x"], ["n", "m"], ["m", "n"], {}, r"shapes \[1, 4\] and \[1, 1\]"),
    ],
    ids=["fixed", "scalar", "output", "rows influence each other", "only one row", "rows become columns"],
)  # fmt: skip
def test_what_cannot_be_batched_is_not_loaded_with_batching(
    put: Any, models: Any, operator: str, inputs: list[str], x: Any, y: Any, rest: Any, words: str
) -> None:
    """The reason names the tensor; without batching the model is loaded."""
    folder = put("m", 1, graph(models, operator, inputs, x, y, **rest))

    with pytest.raises(LoadFailed, match=words):
        opened(folder)

    opened(folder, batching={"enabled": False}).close()


def test_a_model_that_can_not_be_checked_is_loaded_only_when_that_is_said(
    put: Any, models: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Made-up rows fail: whether rows influence each other is not known, and the reason says what can be done."""
    folder = put("m", 1, graph(models, "Reshape", ["x", "s"], ["n", 2], ["n", 5], s=np.array([-1, 5])))

    with pytest.raises(LoadFailed, match=r"could not be checked: .*give data in warm_up .* or set batching\.unchecked"):
        opened(folder)
    with caplog.at_level(logging.WARNING):
        opened(folder, batching={"enabled": True, "unchecked": True}).close()

    assert "batched without a check that its rows do not influence each other" in caplog.text


def test_what_is_seen_to_influence_each_other_is_refused_unchecked_too(put: Any, models: Any) -> None:
    """The setting is for what can't be known, not for what is known to be wrong."""
    folder = put("m", 1, graph(models, "Softmax", ["x"], ["n", 2], ["n", 2], axis=0))

    with pytest.raises(LoadFailed, match="rows influence each other"):
        opened(folder, batching={"enabled": True, "unchecked": True})


def lookup(models: Any) -> bytes:
    """y = table[x - 10]: numbers from 10 to 13 are valid, made-up ones are not."""
    nodes = [helper.make_node("Sub", ["x", "ten"], ["i"]), helper.make_node("Gather", ["table", "i"], ["y"])]
    return bytes(
        models.model(
            nodes,
            {"x": (INT64, ["rows"])},
            {"y": (FLOAT, ["rows"])},
            table=np.arange(4, dtype=np.float32),
            ten=np.array(10),
        )
    )


@pytest.mark.parametrize(("rows", "checked"), [([10, 11, 12, 13], True), ([10, 10], False)])
def test_data_of_the_warm_up_is_what_a_model_is_checked_with(
    put: Any, models: Any, rows: list[int], checked: bool
) -> None:
    """Where made-up data is not valid; rows that are all the same show nothing."""
    folder = put("m", 1, lookup(models))
    np.save(folder.parent / "x.npy", np.array(rows))
    warm_up = [{"inputs": {"x": {"file": "x.npy"}}}]

    if checked:
        opened(folder, warm_up=warm_up).close()
    else:
        with pytest.raises(LoadFailed, match="could not be checked: all rows of the data are the same"):
            opened(folder, warm_up=warm_up)


def gather(models: Any, x: Any, i: Any, y: Any) -> bytes:
    """y = x[i]: the rows of one input choose among those of the other."""
    return bytes(
        models.model(
            [helper.make_node("Gather", ["x", "i"], ["y"])],
            {"x": (FLOAT, [x, 2]), "i": (INT64, [i])},
            {"y": (FLOAT, [y, 2])},
        )
    )


def test_inputs_of_different_rows_are_not_batched(put: Any, models: Any) -> None:
    """Named first dimensions that differ are two numbers of rows; that rows influence each other is found where they are not."""
    zero = [{"inputs": {"i": {"data": "zero"}}}]

    with pytest.raises(LoadFailed, match="first dimensions have different names: a of input x, b of input i"):
        opened(put("named", 1, gather(models, "a", "b", "b")))
    with pytest.raises(LoadFailed, match=r"could not be checked: .*indices element out of data bounds"):
        opened(put("unnamed", 1, gather(models, None, None, None)))
    for name, dimensions in (("zeros", (None, None, None)), ("equal", ("n", "n", "n"))):
        with pytest.raises(LoadFailed, match="output y of 4 rows run together is not that of the rows run singly"):
            opened(put(name, 1, gather(models, *dimensions)), warm_up=zero)


def test_different_names_can_be_said_to_be_the_same_rows(put: Any, models: Any) -> None:
    """Some exporters name the dimensions of each input anew."""
    content = models.model(
        [helper.make_node("Add", ["x", "z"], ["y"])],
        {"x": (FLOAT, ["unk__1"]), "z": (FLOAT, ["unk__2"])},
        {"y": (FLOAT, ["unk__3"])},
    )

    opened(put("m", 1, content), batching={"enabled": True, "unchecked": True}).close()

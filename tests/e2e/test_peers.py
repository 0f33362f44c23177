"""The peers of the benchmarks: each serves our model file in an environment of its own and answers as our predictor does."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.contenders import PEERS, WrongAnswer, answer, check_same, ours, serve
from benchmarks.payloads import PAYLOADS, Payload
from infermesh.protocol.open_inference_pb2 import ModelInferResponse

IRIS = PAYLOADS["iris"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with iris alone."""
    root = tmp_path_factory.mktemp("peers")
    IRIS.write(root)
    return root


@pytest.fixture(scope="module")
def predictor(repository: Path) -> Iterator[dict[str, ModelInferResponse]]:
    """What our predictor answers to one row of iris, and to three."""
    with ours(IRIS, repository) as contender:
        yield {name: answer(contender, payload) for name, payload in _requests().items()}


@pytest.mark.long
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_answers_as_our_predictor_does(
    predictor: dict[str, ModelInferResponse], repository: Path, name: str
) -> None:
    """Names, datatypes, shapes and every bit of iris' outputs, for one row and for three: what is compared does the same work."""
    peer = PEERS[name]
    assert peer.python.is_file(), f"make verify sets up {peer.environment}"

    with serve(peer, IRIS, next(repository.rglob("model.onnx"))) as contender:
        answers = {rows: answer(contender, payload) for rows, payload in _requests().items()}

    for rows, theirs in answers.items():
        check_same(peer.title, theirs, predictor[rows], columns=peer.columns)


@pytest.mark.parametrize(
    "change", ["value", "shape", "datatype", "name", "typed"], ids=lambda change: f"another {change}"
)
def test_a_peer_that_answers_otherwise_is_not_measured(change: str) -> None:
    """Nothing is measured by wrong answers: one bit, a shape, a datatype, a name or typed contents are enough."""
    expected = ModelInferResponse(model_name="m", raw_output_contents=[np.ones(2, np.float32).tobytes()])
    expected.outputs.add(name="y", datatype="FP32", shape=[2])
    theirs = ModelInferResponse()
    theirs.CopyFrom(expected)
    match change:
        case "value":
            theirs.raw_output_contents[0] = np.nextafter(np.ones(2, np.float32), 2, dtype=np.float32).tobytes()
        case "shape":
            theirs.outputs[0].shape[:] = [2, 1]
        case "datatype":
            theirs.outputs[0].datatype = "INT32"
        case "name":
            theirs.outputs[0].name = "z"
        case "typed":
            theirs.ClearField("raw_output_contents")

    check_same("ours", expected, expected)
    with pytest.raises(WrongAnswer, match="theirs: "):
        check_same("theirs", theirs, expected)


def test_a_column_is_a_vector_where_that_is_said() -> None:
    """[n, 1] for [n], of those who can't but say so; no other shape, and not of the others."""
    expected = ModelInferResponse(model_name="m", raw_output_contents=[np.ones(2, np.float32).tobytes()])
    expected.outputs.add(name="y", datatype="FP32", shape=[2])
    column, row = ModelInferResponse(), ModelInferResponse()
    for message, shape in ((column, [2, 1]), (row, [1, 2])):
        message.CopyFrom(expected)
        message.outputs[0].shape[:] = shape

    check_same("a column", column, expected, columns=True)
    with pytest.raises(WrongAnswer, match="a row: "):
        check_same("a row", row, expected, columns=True)
    with pytest.raises(WrongAnswer, match="a column: "):
        check_same("a column", column, expected)


def _requests() -> dict[str, Payload]:
    three = np.array([[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3], [7.7, 3.0, 6.1, 2.3]], np.float32)
    return {"one row": IRIS, "three rows": dataclasses.replace(IRIS, array=three)}

"""Requests from JSON and parameters."""

from __future__ import annotations

import pytest

from infermesh.cli.failure import Failure
from infermesh.cli.request import add_parameters, from_json
from infermesh.cli.values import InputSpec
from infermesh.protocol.open_inference_pb2 import ModelInferRequest
from infermesh.tensors import read_inputs

SPECS = {"x": InputSpec("x", "FP32", (-1, 2)), "s": InputSpec("s", "BYTES", (-1, 1))}


def tensor(**changes):
    return {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2], **changes}


def test_oip_form():
    """Id, parameters, outputs and tensors of OIP's REST form arrive in the message; data may be flat or nested."""
    value = {
        "id": "7",
        "parameters": {"a": True, "b": 3, "c": 1.5, "d": "text", "e": 2**64 - 1},
        "outputs": [{"name": "label"}],
        "inputs": [tensor(data=[[1, 2]]), {"name": "s", "datatype": "BYTES", "shape": [1, 1], "data": ["é"]}],
    }

    request = from_json("m", value, {})

    assert request.id == "7"
    assert [o.name for o in request.outputs] == ["label"]
    assert {k: p.WhichOneof("parameter_choice") for k, p in request.parameters.items()} == {
        "a": "bool_param", "b": "int64_param", "c": "double_param", "d": "string_param", "e": "uint64_param",
    }  # fmt: skip
    arrays = read_inputs(request)
    assert arrays["x"].tolist() == [[1, 2]]
    assert arrays["s"].tolist() == [["é".encode()]]


def test_short_form():
    """{"name": value} takes datatypes from the metadata, and one row without its first dimension."""
    arrays = read_inputs(from_json("m", {"x": [1, 2], "s": [["a"], ["b"]]}, SPECS))

    assert arrays["x"].shape == (1, 2)
    assert arrays["s"].tolist() == [[b"a"], [b"b"]]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], r'expected \{"inputs"'),
        ({"y": 1}, r"input 'y': no such input; the model takes x FP32"),
        ({"x": [[1, 2], [3]]}, r"input x FP32 \[-1, 2\]: expected FP32 values"),
        ({"x": ["a", "b"]}, r"expected FP32 values: got 'a'"),
        ({"s": [3]}, r"expected BYTES values: texts, got 3"),
        ({"inputs": [tensor(shape=[3])]}, r"input 'x': 2 values do not fill the shape \[3\]"),
        ({"inputs": [tensor(datatype="FP31")]}, r"expected a datatype of BOOL"),
        ({"inputs": [{"name": "x"}]}, r"inputs\[0\]: expected name, datatype, shape and data"),
        ({"inputs": [tensor(datatype="INT32", data=[1.5, 2])]}, r"a number with a fraction"),
        ({"inputs": [tensor(datatype="UINT8", data=[1, 256])]}, r"expected UINT8 values"),
        ({"inputs": [], "input": 1}, r"'input' is no part of a request"),
        ({"inputs": [], "parameters": {"a": [1]}}, r"parameter 'a': expected a text, a number"),
    ],
)
def test_mistakes(value, said):
    """What can't be a request is refused in words that name the place."""
    with pytest.raises(Failure, match=said):
        from_json("m", value, SPECS)


def test_parameters_by_their_looks():
    """true and false, whole numbers, numbers, and else text."""
    request = ModelInferRequest()

    add_parameters(request, ["a=true", "b=-3", "c=0.5", "d=x=y"])

    assert request.parameters["a"].bool_param is True
    assert request.parameters["b"].int64_param == -3
    assert request.parameters["c"].double_param == 0.5
    assert request.parameters["d"].string_param == "x=y"

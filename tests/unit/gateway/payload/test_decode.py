"""Tensors as JSON values."""

from __future__ import annotations

import base64
import json
import struct

import numpy as np
import pytest

from infermesh.payloads import Tensor
from infermesh.protocol import open_inference_pb2 as pb
from services.gateway.payload.decode import inputs_of, outputs_of

NUMBERS = {
    "BOOL": np.array([True, False, True]),
    "INT8": np.array([-128, 0, 127], "int8"),
    "INT16": np.array([-32768, 0, 32767], "int16"),
    "INT32": np.array([-(2**31), 0, 2**31 - 1], "int32"),
    "INT64": np.array([-(2**63), 0, 2**63 - 1], "int64"),
    "UINT8": np.array([0, 1, 255], "uint8"),
    "UINT16": np.array([0, 1, 65535], "uint16"),
    "UINT32": np.array([0, 1, 2**32 - 1], "uint32"),
    "UINT64": np.array([0, 1, 2**64 - 1], "uint64"),
    "FP16": np.array([0.1, -65504.0, 6e-8], "float16"),
    "FP32": np.array([0.1, -3.4e38, 1e-45], "float32"),
    "FP64": np.array([0.1, -1.7e308, 5e-324], "float64"),
}
TYPED = {
    "BOOL": "bool_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "INT8": "int_contents",
    "UINT16": "uint_contents",
}


def raw_request(datatype, shape, raw):
    request = pb.ModelInferRequest(raw_input_contents=[raw])
    request.inputs.add(name="x", datatype=datatype, shape=shape)
    return request


def through_json(tensors):
    (tensor,) = json.loads(json.dumps(tensors, allow_nan=False))
    return tensor


@pytest.mark.parametrize("datatype", NUMBERS)
def test_raw_numbers_come_back_exactly(datatype):
    """Written, read as JSON and made an array again: the same bits."""
    array = NUMBERS[datatype]

    tensor = through_json(inputs_of(raw_request(datatype, [3], array.tobytes())))

    assert np.array(tensor["data"], array.dtype).tobytes() == array.tobytes()
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("x", datatype, [3])


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_numbers_are_the_same_values(datatype):
    array = NUMBERS[datatype]
    response = pb.ModelInferResponse()
    output = response.outputs.add(name="x", datatype=datatype, shape=[3])
    getattr(output.contents, TYPED[datatype]).extend(array.tolist())

    tensor = through_json(outputs_of(response))

    assert tensor["data"] == array.tolist()


@pytest.mark.parametrize(("datatype", "letter"), [("FP16", "e"), ("FP32", "f"), ("FP64", "d")])
def test_what_json_has_no_number_for_is_a_text(datatype, letter):
    raw = struct.pack(f"<4{letter}", float("nan"), float("inf"), float("-inf"), -0.0)

    tensor = through_json(inputs_of(raw_request(datatype, [4], raw)))

    assert tensor["data"] == ["NaN", "Infinity", "-Infinity", -0.0]
    values = Tensor("x", datatype, (4,), tensor["data"]).values()
    assert np.array(values).tobytes() == np.array([np.nan, np.inf, -np.inf, -0.0]).tobytes()


def test_bfloat16_is_the_upper_half_of_a_float():
    raw = struct.pack("<4H", 0x3F80, 0xC040, 0x7FC0, 0x7F80)

    assert through_json(inputs_of(raw_request("BF16", [4], raw)))["data"] == [1.0, -3.0, "NaN", "Infinity"]


def test_bytes_are_texts_or_marked():
    """Empty, with a NUL, of several bytes a character, and what is no UTF-8; raw and typed are the same."""
    values = [b"", b"a\0b", "ü€".encode(), b"\xff\xfe"]
    raw = b"".join(struct.pack("<I", len(each)) + each for each in values)
    typed = pb.ModelInferRequest()
    typed.inputs.add(name="x", datatype="BYTES", shape=[4]).contents.bytes_contents.extend(values)

    tensor = through_json(inputs_of(raw_request("BYTES", [4], raw)))

    assert tensor == through_json(inputs_of(typed))
    assert tensor["data"] == ["", "a\0b", "ü€", {"base64": base64.b64encode(b"\xff\xfe").decode()}]
    assert Tensor("x", "BYTES", (4,), tensor["data"]).values() == ["", "a\0b", "ü€", b"\xff\xfe"]


@pytest.mark.parametrize(
    ("datatype", "raw", "fault"),
    [
        ("INT32", b"123", "3 bytes are no whole number of INT32"),
        ("BYTES", b"\1\0", "a length is cut off"),
        ("BYTES", b"\5\0\0\0abc", "an element is cut off"),
        ("BYTES", b"\xff\xff\xff\xffabc", "an element is cut off"),
        ("fp32", b"1234", "unknown datatype"),
    ],
)
def test_bytes_that_are_no_tensor_have_a_fault_and_no_data(datatype, raw, fault):
    """And the tensors beside it are decoded."""
    request = raw_request(datatype, [1], raw)
    request.inputs.add(name="y", datatype="UINT8", shape=[2])
    request.raw_input_contents.append(b"\1\2")

    bad, good = inputs_of(request)

    assert bad["fault"] == fault
    assert "data" not in bad
    assert good["data"] == [1, 2]


def test_a_tensor_without_contents_has_no_values():
    request = pb.ModelInferRequest()
    request.inputs.add(name="x", datatype="FP32", shape=[0])

    assert through_json(inputs_of(request))["data"] == []

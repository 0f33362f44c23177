"""Tensors that break the protocol are the caller's fault, said in words."""

from __future__ import annotations

import re
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infermesh.errors import InvalidRequest
from infermesh.protocol.open_inference_pb2 import InferTensorContents, ModelInferRequest, ModelInferResponse
from infermesh.tensors import DATATYPES, read_inputs, read_outputs


def raw(datatype: str, shape: list[int], *data: bytes) -> ModelInferRequest:
    request = ModelInferRequest(model_name="m", raw_input_contents=data)
    request.inputs.add(name="x", datatype=datatype, shape=shape)
    return request


def typed(datatype: str, shape: list[int], **contents: object) -> ModelInferRequest:
    request = ModelInferRequest(model_name="m")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=shape)
    tensor.contents.CopyFrom(InferTensorContents(**contents))
    return request


def strings(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(e)) + e for e in elements)


def neither() -> ModelInferRequest:
    request = ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype="FP32", shape=[1])
    return request


def both() -> ModelInferRequest:
    request = raw("FP32", [1], bytes(4))
    request.inputs[0].contents.SetInParent()  # an empty one counts
    return request


def twice() -> ModelInferRequest:
    request = raw("FP32", [1], bytes(4), bytes(4))
    request.inputs.add(name="x", datatype="FP32", shape=[1])
    return request


FAULTS = {
    "raw count": (
        raw("FP32", [1], bytes(4), bytes(4)),
        "RAW_COUNT",
        "one raw_input_contents entry for each of 1 inputs, got 2",
    ),
    "raw and typed": (both(), "RAW_AND_TYPED", "either raw contents .* or typed contents, got both"),
    "neither": (neither(), "CONTENTS_MISSING", "got neither"),
    "an input twice": (twice(), "INPUT_DUPLICATE", "expected once, got it twice"),
    "too few bytes": (raw("FP32", [2, 3], bytes(23)), "BYTE_LENGTH", r"24 bytes for FP32 \[2, 3\], got 23"),
    "too many bytes": (raw("INT8", [2], bytes(3)), "BYTE_LENGTH", r"2 bytes for INT8 \[2\], got 3"),
    "bytes for nothing": (raw("FP64", [0], bytes(8)), "BYTE_LENGTH", r"0 bytes for FP64 \[0\], got 8"),
    "lower case": (raw("fp32", [1], bytes(4)), "DATATYPE_UNKNOWN", 'BOOL, INT8, .*got "fp32"'),
    "unknown datatype": (raw("FP8", [1], bytes(1)), "DATATYPE_UNKNOWN", 'got "FP8"'),
    "no datatype": (raw("", [1], bytes(1)), "DATATYPE_UNKNOWN", 'got ""'),
    "a negative dimension": (raw("FP32", [2, -1], bytes(4)), "SHAPE_NEGATIVE", r"0 or more, got \[2, -1\]"),
    "an overflow": (raw("FP32", [2**32, 2**32], bytes(4)), "SHAPE_OVERFLOW", "more than 2"),
    "an overflow by negatives": (raw("FP32", [-(2**32), -(2**32)], bytes(4)), "SHAPE_NEGATIVE", "0 or more"),
    "an overflow beside a zero": (raw("FP32", [0, 2**62, 2**62], b""), "SHAPE_OVERFLOW", "more than 2"),
    "too many dimensions": (raw("FP32", [1] * 65, bytes(4)), "SHAPE_RANK", "at most 32 dimensions, got 65"),
    "a bool of 2": (raw("BOOL", [2], b"\x01\x02"), "VALUE_RANGE", "0x00 and 0x01"),
    "a BYTES prefix cut": (raw("BYTES", [1], b"\x01\x00\x00"), "BYTES_COUNT", "expected 1 elements, got 3 bytes"),
    "a BYTES element cut": (
        raw("BYTES", [1], b"\x05\x00\x00\x00abc"),
        "BYTES_TRUNCATED",
        "element 0 says it has 5 bytes, 3 are",
    ),
    "a BYTES length of 4 GiB": (raw("BYTES", [1], b"\xff\xff\xff\xffa"), "BYTES_TRUNCATED", "4294967295 bytes, 1 are"),
    "too few BYTES": (
        raw("BYTES", [3], strings(b"abcdefgh", b"b")),
        "BYTES_COUNT",
        "expected 3 elements, the bytes end after 2",
    ),
    "too many BYTES": (
        raw("BYTES", [1], strings(b"a", b"b")),
        "BYTES_COUNT",
        "expected 1 elements, 5 bytes are left over",
    ),
    "FP16 typed": (
        typed("FP16", [1], fp32_contents=[1]),
        "TYPED_NOT_POSSIBLE",
        "FP16 travels in raw_input_contents only",
    ),
    "BF16 typed": (typed("BF16", [0]), "TYPED_NOT_POSSIBLE", "BF16 travels in raw_input_contents only"),
    "the wrong field": (
        typed("FP32", [1], fp64_contents=[1]),
        "TYPED_FIELD",
        "fp32_contents alone for FP32, got fp64_contents",
    ),
    "a second field": (typed("FP32", [1], fp32_contents=[1], int_contents=[1]), "TYPED_FIELD", "got int_contents"),
    "a second field beside INT8": (
        typed("INT8", [1], int_contents=[1], bytes_contents=[b""]),
        "TYPED_FIELD",
        "got bytes_contents",
    ),
    "a field for no elements": (typed("FP32", [0], int_contents=[1]), "TYPED_FIELD", "got int_contents"),
    "too few elements": (typed("FP32", [2], fp32_contents=[1]), "ELEMENT_COUNT", r"2 elements for shape \[2\], got 1"),
    "too many elements": (
        typed("BYTES", [], bytes_contents=[b"", b""]),
        "ELEMENT_COUNT",
        r"1 elements for shape \[\], got 2",
    ),
    "empty contents": (typed("INT64", [1]), "ELEMENT_COUNT", "1 elements .*got 0"),
    "INT8 too big": (typed("INT8", [2], int_contents=[1, 128]), "VALUE_RANGE", "INT8 values from -128 to 127, got 128"),
    "INT16 too small": (typed("INT16", [1], int_contents=[-32769]), "VALUE_RANGE", "got -32769"),
    "UINT8 too big": (typed("UINT8", [1], uint_contents=[256]), "VALUE_RANGE", "from 0 to 255, got 256"),
    "UINT16 too big": (typed("UINT16", [1], uint_contents=[65536]), "VALUE_RANGE", "from 0 to 65535, got 65536"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_what_would_be_right(fault: str) -> None:
    """Each way to break the protocol is INVALID_ARGUMENT with its reason, the model, the input, what is right and what came."""
    request, reason, words = FAULTS[fault]

    with pytest.raises(InvalidRequest, match=words) as refused:
        read_inputs(request)

    assert refused.value.reason == reason
    assert refused.value.message.startswith('model "m": ')
    assert 'input "x"' in refused.value.message or reason == "RAW_COUNT"


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("shape", [[2**40], [2**62], [2**31, 2**31], [0, 2**40]])
@pytest.mark.parametrize("mode", ["raw", "typed"])
def test_a_shape_alone_makes_nobody_allocate(datatype: str, shape: list[int], mode: str) -> None:
    """A request of a few bytes that claims a huge tensor costs no memory, whether it is refused or empty."""
    request = raw(datatype, shape, b"") if mode == "raw" else typed(datatype, shape)
    if mode == "raw":
        request.raw_input_contents[0] = bytes(16) if 0 not in shape else b""

    tracemalloc.start()
    try:
        if 0 in shape and (mode == "raw" or DATATYPES[datatype].field):
            assert read_inputs(request)["x"].shape == tuple(shape)
        else:
            with pytest.raises(InvalidRequest):
                read_inputs(request)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 100_000


def test_a_shape_of_a_million_dimensions_is_refused_at_once() -> None:
    """The product of many large dimensions is never formed, nor are they all shown."""
    request = raw("FP32", [2**62] * 1_000_000, bytes(4))

    with pytest.raises(InvalidRequest, match="at most 32 dimensions, got 1000000") as refused:
        read_inputs(request)

    assert len(refused.value.message) < 200


def test_what_a_caller_calls_things_can_not_break_the_message() -> None:
    """Names are quoted, escaped and shortened."""
    request = raw("FP32", [1], bytes(3))
    request.model_name, request.inputs[0].name = "m\n" * 500, "\x1b[31m" * 500

    with pytest.raises(InvalidRequest) as refused:
        read_inputs(request)

    assert refused.value.message.isprintable()
    assert "expected 4 bytes" in refused.value.message
    assert len(refused.value.message) < 800


def test_a_response_that_breaks_the_protocol_is_said_to() -> None:
    """Outputs are read with the same care."""
    response = ModelInferResponse(model_name="m", raw_output_contents=[b"", b""])
    response.outputs.add(name="y", datatype="FP32", shape=[1])

    with pytest.raises(InvalidRequest, match=re.escape("2 raw contents for 1 outputs")):
        read_outputs(response)
    del response.raw_output_contents[1]
    with pytest.raises(InvalidRequest, match='output "y": expected 4 bytes'):
        read_outputs(response)


@given(st.binary(max_size=64), st.lists(st.integers(-2, 2**40), max_size=4), st.sampled_from(list(DATATYPES)))
def test_arbitrary_bytes_are_read_or_refused(data: bytes, shape: list[int], datatype: str) -> None:
    """No content of a message makes the reader fail in any way but InvalidRequest."""
    try:
        array = read_inputs(raw(datatype, shape, data or b"\0"))["x"]
    except InvalidRequest:
        return

    assert array.shape == tuple(shape)
    assert isinstance(array, np.ndarray)

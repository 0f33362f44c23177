"""OIP tensors ↔ numpy arrays: what goes in comes out, bit for bit."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from infermesh.protocol.open_inference_pb2 import InferTensorContents, ModelInferRequest, ModelInferResponse
from infermesh.tensors import (
    DATATYPES,
    Array,
    add_inputs,
    add_outputs,
    datatype_of,
    read_inputs,
    read_outputs,
    uses_raw,
)

FIXED = [name for name, d in DATATYPES.items() if d.size]
TYPED = [name for name, d in DATATYPES.items() if d.field]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def tensors(draw: st.DrawFn, names: list[str]) -> tuple[str, Array]:
    """A datatype and an array of it from arbitrary bits, so every NaN payload and -0.0 is among them."""
    name = draw(st.sampled_from(names))
    datatype = DATATYPES[name]
    shape = draw(SHAPES)
    count = int(np.prod(shape))
    if name == "BYTES":
        array = np.empty(count, np.object_)
        array[:] = draw(st.lists(st.binary(max_size=12), min_size=count, max_size=count))
        return name, array.reshape(shape)
    size = count * datatype.size
    bits = draw(st.binary(min_size=size, max_size=size))
    if name == "BOOL":
        bits = bytes(b & 1 for b in bits)
    return name, np.frombuffer(bits, datatype.dtype).reshape(shape)


def same(got: Array, sent: Array) -> bool:
    if got.shape != sent.shape or got.dtype != sent.dtype:
        return False
    return got.tolist() == sent.tolist() if got.dtype == np.object_ else got.tobytes() == sent.tobytes()


@given(tensors([*FIXED, "BYTES"]))
def test_raw_tensors_survive_the_wire(tensor: tuple[str, Array]) -> None:
    """Every datatype in every shape, scalars and empty ones too, comes back raw with the same bits."""
    name, array = tensor
    request = ModelInferRequest(model_name="m")
    add_inputs(request, {"x": array}, datatypes={"x": name})

    sent = ModelInferRequest.FromString(request.SerializeToString())

    assert same(read_inputs(sent)["x"], array)
    assert (sent.inputs[0].datatype, uses_raw(sent)) == (name, True)


@given(tensors(TYPED))
def test_typed_tensors_survive_the_wire(tensor: tuple[str, Array]) -> None:
    """Every datatype that has a typed field comes back typed with the same bits."""
    name, array = tensor
    request = ModelInferRequest(model_name="m")
    add_inputs(request, {"x": array}, raw=False, datatypes={"x": name})

    sent = ModelInferRequest.FromString(request.SerializeToString())

    assert same(read_inputs(sent)["x"], array)
    assert not uses_raw(sent)
    assert not sent.raw_input_contents


@given(tensors(TYPED))
def test_typed_contents_are_what_protobuf_itself_would_write(tensor: tuple[str, Array]) -> None:
    """The packed bytes that are written for FP32 and FP64 hold what an element-by-element write holds."""
    name, array = tensor
    ours = ModelInferRequest()
    add_inputs(ours, {"x": array}, raw=False, datatypes={"x": name})

    theirs = InferTensorContents()
    getattr(theirs, DATATYPES[name].field).extend(array.ravel().tolist())

    if np.array_equal(array, array, equal_nan=False):  # Python floats lose a NaN's payload on the way to FP32
        assert ours.inputs[0].contents == theirs


@given(st.lists(tensors([*FIXED, "BYTES"]), max_size=4), st.booleans())
def test_responses_are_read_as_they_were_written(outputs: list[tuple[str, Array]], raw: bool) -> None:
    """Outputs come back by name; typed is given up for all when one of them can't travel typed."""
    response = ModelInferResponse(model_name="m")
    add_outputs(response, [(f"y{i}", name, array) for i, (name, array) in enumerate(outputs)], raw=raw)

    read = read_outputs(ModelInferResponse.FromString(response.SerializeToString()))

    assert all(same(read[f"y{i}"], array) for i, (_, array) in enumerate(outputs))
    must_be_raw = raw or any(name in ("FP16", "BF16") for name, _ in outputs)
    assert len(response.raw_output_contents) == (len(outputs) if must_be_raw else 0)
    assert all(not t.HasField("contents") for t in response.outputs) or not must_be_raw


@pytest.mark.parametrize(
    ("field", "tag", "name", "code"), [("fp32_contents", 6, "FP32", "f"), ("fp64_contents", 7, "FP64", "d")]
)
@pytest.mark.parametrize(
    "unknown",
    [b"", b"\x98\x06\x01", b"\x82\x06\x03abc", b"\x0a\x00", b"\x9d\x06\x00\x00\x80\x3f"],
    ids=["none", "varint", "bytes", "empty-bool-field", "fixed32"],
)
@pytest.mark.parametrize("form", ["one run", "two runs", "unpacked", "unknown between", "unknown first"])
def test_packed_elements_are_read_however_they_were_written(
    field: str, tag: int, name: str, code: str, unknown: bytes, form: str
) -> None:
    """A field in two runs or unpacked, and fields that nobody knows, change nothing about the elements."""
    values = [1.5, -0.0, float("inf"), 1e-30] * 40
    numbers = [struct.pack(f"<{code}", v) for v in values]

    def run(part: list[bytes]) -> bytes:
        data = b"".join(part)
        length = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, len(data) >> 7])
        return bytes([tag << 3 | 2]) + length + data

    wire = {
        "one run": run(numbers) + unknown,
        "two runs": run(numbers[:3]) + run(numbers[3:]) + unknown,
        "unpacked": b"".join(bytes([tag << 3 | (5 if code == "f" else 1)]) + n for n in numbers) + unknown,
        "unknown between": run(numbers[:7]) + unknown + run(numbers[7:]),
        "unknown first": unknown + run(numbers),
    }[form]
    request = ModelInferRequest(model_name="m")
    tensor = request.inputs.add(name="x", datatype=name, shape=[160])
    tensor.contents.MergeFromString(wire)

    read = read_inputs(ModelInferRequest.FromString(request.SerializeToString()))["x"]

    assert read.tobytes() == b"".join(numbers)


def test_raw_arrays_are_views_and_read_only() -> None:
    """Nothing is copied: the array shows the message's bytes and can't change them."""
    request = ModelInferRequest(model_name="m")
    add_inputs(request, {"x": np.arange(4, dtype=np.float32)})

    array = read_inputs(request)["x"]

    assert not array.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


@pytest.mark.parametrize(
    ("array", "name"),
    [
        (np.zeros(1, ">f4"), "FP32"),
        (np.zeros(1, np.longlong), "INT64"),
        (np.array(["é"]), "BYTES"),
        (np.array([b"a"]), "BYTES"),
        (np.array([1, "a"], object), "BYTES"),
        (np.zeros(1, np.bool_), "BOOL"),
        (np.zeros(1, np.float16), "FP16"),
    ],
)
def test_an_array_tells_its_datatype(array: Array, name: str) -> None:
    """Byte order and spelling don't matter; text and bytes are BYTES."""
    assert datatype_of(array).name == name


@pytest.mark.parametrize("dtype", [np.complex64, np.longdouble, "M8[s]"])
def test_what_the_protocol_does_not_have_is_a_type_error(dtype: object) -> None:
    """It is the programmer's mistake, so it is no MeshError."""
    with pytest.raises(TypeError, match="no OIP datatype"):
        datatype_of(np.zeros(1, dtype))


def test_big_endian_and_strided_arrays_are_written_in_order() -> None:
    """What is on the wire is row-major and little-endian, whatever the array's memory looks like."""
    array = np.arange(12, dtype=">f4").reshape(3, 4)
    request = ModelInferRequest()
    add_inputs(request, {"t": array.T, "s": array[::2, ::-1]})

    read = read_inputs(request)

    np.testing.assert_array_equal(read["t"], array.T.astype("<f4"))
    np.testing.assert_array_equal(read["s"], array[::2, ::-1].astype("<f4"))


def test_text_is_written_as_utf_8() -> None:
    """A str element becomes its UTF-8 bytes, raw and typed."""
    for raw in (True, False):
        request = ModelInferRequest()
        add_inputs(request, {"x": np.array(["é", "", "a\0b"], object)}, raw=raw)
        assert read_inputs(request)["x"].tolist() == ["é".encode(), b"", b"a\0b"]

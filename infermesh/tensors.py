"""OIP tensors ↔ numpy arrays. The only numpy in `infermesh`.

Raw contents are viewed, not copied; typed FP32 and FP64 contents are read and written as the packed bytes that protobuf puts on
the wire (a packed repeated field is its elements in little-endian order: protobuf encoding guide, "Packed Repeated Fields"), so
that no element becomes a Python object. A BYTES tensor is an object array of `bytes`. numpy has no bfloat16: a BF16 tensor is a
uint16 array of the same bits.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from infermesh.errors import InvalidRequest, quoted
from infermesh.protocol.open_inference_pb2 import InferTensorContents, ModelInferRequest, ModelInferResponse

__all__ = [
    "DATATYPES",
    "MAX_RANK",
    "Array",
    "Datatype",
    "add_inputs",
    "add_outputs",
    "datatype_of",
    "raw_of",
    "read_input",
    "read_inputs",
    "read_outputs",
    "uses_raw",
]

Array = NDArray[np.generic]
Tensor = ModelInferRequest.InferInputTensor | ModelInferResponse.InferOutputTensor

MAX_ELEMENTS = 2**63 - 1
MAX_EMPTY = (
    MAX_ELEMENTS // 8
)  # product of the other dimensions beside a 0, in elements: past it numpy has no such shape
TURN = 65_536  # elements after which numpy lets other threads have the interpreter
MAX_RANK = 32  # numpy's own bound is 64, and a product over thousands of dimensions would take seconds


@dataclass(frozen=True, slots=True)
class Datatype:
    """One of the datatypes of the protocol: its numpy form, its bytes per element (0: variable), its typed field ("": none)."""

    name: str
    dtype: np.dtype[np.generic]
    size: int
    field: str
    low: int = 0  # of integers that travel in a wider typed field
    high: int = 0


def _narrow(name: str, dtype: type[np.integer], field: str) -> Datatype:
    info = np.iinfo(dtype)
    return Datatype(name, np.dtype(dtype).newbyteorder("<"), info.bits // 8, field, int(info.min), int(info.max))


DATATYPES: Mapping[str, Datatype] = {
    d.name: d
    for d in (
        Datatype("BOOL", np.dtype(np.bool_), 1, "bool_contents"),
        _narrow("INT8", np.int8, "int_contents"),
        _narrow("INT16", np.int16, "int_contents"),
        Datatype("INT32", np.dtype("<i4"), 4, "int_contents"),
        Datatype("INT64", np.dtype("<i8"), 8, "int64_contents"),
        _narrow("UINT8", np.uint8, "uint_contents"),
        _narrow("UINT16", np.uint16, "uint_contents"),
        Datatype("UINT32", np.dtype("<u4"), 4, "uint_contents"),
        Datatype("UINT64", np.dtype("<u8"), 8, "uint64_contents"),
        Datatype("FP16", np.dtype("<f2"), 2, ""),
        Datatype("BF16", np.dtype("<u2"), 2, ""),
        Datatype("FP32", np.dtype("<f4"), 4, "fp32_contents"),
        Datatype("FP64", np.dtype("<f8"), 8, "fp64_contents"),
        Datatype("BYTES", np.dtype(np.object_), 0, "bytes_contents"),
    )
}

# Protobuf tags (field number << 3 | 2) of the packed fields that are read and written as bytes.
_PACKED = {"fp32_contents": bytes([6 << 3 | 2]), "fp64_contents": bytes([7 << 3 | 2])}
_BY_DTYPE = {d.dtype: d for d in DATATYPES.values() if d.name not in ("BF16", "BYTES")}
_FIELDS = tuple(InferTensorContents.DESCRIPTOR.fields_by_name)


def datatype_of(array: Array) -> Datatype:
    """The datatype of an array: object, bytes and str arrays are BYTES. Raises TypeError for what OIP does not have."""
    if array.dtype.kind in "OSU":
        return DATATYPES["BYTES"]
    try:
        return _BY_DTYPE[array.dtype.newbyteorder("<") if array.dtype.itemsize > 1 else array.dtype]
    except KeyError:
        raise TypeError(f"no OIP datatype for numpy's {array.dtype}") from None


def uses_raw(message: ModelInferRequest) -> bool:
    """Whether the request carries its tensors raw; a request without inputs does."""
    return bool(message.raw_input_contents) or not any(t.HasField("contents") for t in message.inputs)


def read_inputs(request: ModelInferRequest) -> dict[str, Array]:
    """The inputs of a request by name, checked against the protocol; raises InvalidRequest.

    Arrays of fixed-size datatypes are read-only views of the message's bytes where they can be.
    """
    model = request.model_name
    raws = request.raw_input_contents
    if raws and len(raws) != len(request.inputs):
        raise InvalidRequest(
            f"model {quoted(model)}: raw contents: expected one raw_input_contents entry for each of "
            f"{len(request.inputs)} inputs, got {len(raws)}",
            reason="RAW_COUNT",
        )
    arrays: dict[str, Array] = {}
    has_raw = bool(raws)
    for position, tensor in enumerate(request.inputs):
        name = tensor.name
        where = _Where(model, "input", name)
        if name in arrays:
            raise InvalidRequest(f"{where}: expected once, got it twice", reason="INPUT_DUPLICATE")
        arrays[name] = _read(tensor, raws[position] if has_raw else None, where)
    return arrays


def read_input(request: ModelInferRequest, position: int) -> Array:
    """One input of a request, checked against the protocol alone; raises InvalidRequest. Mind the count of raw contents first."""
    tensor = request.inputs[position]
    raw = request.raw_input_contents[position] if request.raw_input_contents else None
    return _read(tensor, raw, _Where(request.model_name, "input", tensor.name))


def read_outputs(response: ModelInferResponse) -> dict[str, Array]:
    """The outputs of a response by name, raw or typed; raises InvalidRequest when the response breaks the protocol."""
    raws = response.raw_output_contents
    if raws and len(raws) != len(response.outputs):
        raise InvalidRequest(
            f"response of {quoted(response.model_name)}: {len(raws)} raw contents for {len(response.outputs)} outputs"
        )
    return {
        tensor.name: _read(tensor, raws[i] if raws else None, _Where(response.model_name, "output", tensor.name))
        for i, tensor in enumerate(response.outputs)
    }


def add_inputs(
    request: ModelInferRequest,
    arrays: Mapping[str, Array],
    *,
    raw: bool = True,
    datatypes: Mapping[str, str] | None = None,
) -> None:
    """Append arrays to a request; `datatypes` names what numpy can't tell (BF16). FP16 or BF16 among them: `raw` must be true."""
    for name, array in arrays.items():
        datatype = DATATYPES[datatypes[name]] if datatypes and name in datatypes else datatype_of(array)
        tensor = request.inputs.add(name=name, datatype=datatype.name, shape=array.shape)
        if raw:
            request.raw_input_contents.append(raw_of(array, datatype))
        else:
            _write_typed(tensor.contents, array, datatype)


def add_outputs(response: ModelInferResponse, outputs: Iterable[tuple[str, str, Array]], *, raw: bool) -> None:
    """Append (name, datatype, array) triples to a response; all raw if asked, or if one of them can't travel typed."""
    if not raw:
        outputs = list(outputs)
        raw = any(datatype in ("FP16", "BF16") for _, datatype, _ in outputs)
    add, raws = response.outputs.add, response.raw_output_contents
    for name, datatype_name, array in outputs:
        datatype = DATATYPES[datatype_name]
        tensor = add(name=name, datatype=datatype_name, shape=array.shape)
        if raw:
            raws.append(raw_of(array, datatype))
        else:
            _write_typed(tensor.contents, array, datatype)


class _Where(NamedTuple):
    """Where in a message something is; written out only when an error names it."""

    model: str
    kind: str
    tensor: str

    def __str__(self) -> str:
        return f"model {quoted(self.model)}: {self.kind} {quoted(self.tensor)}"


def _read(tensor: Tensor, raw: bytes | None, where: _Where) -> Array:
    datatype = DATATYPES.get(tensor.datatype)
    if datatype is None:
        raise InvalidRequest(
            f"{where}: datatype: expected one of {', '.join(DATATYPES)}, got {quoted(tensor.datatype)}",
            reason="DATATYPE_UNKNOWN",
        )
    shape = tuple(tensor.shape)
    count = _elements(shape, where)
    if raw is None:
        return _read_typed(tensor, datatype, count, where).reshape(shape)
    if tensor.HasField("contents"):
        raise InvalidRequest(
            f"{where}: expected either raw contents (raw_input_contents) or typed contents, got both",
            reason="RAW_AND_TYPED",
        )
    if datatype.name == "BYTES":
        return _read_raw_bytes(raw, count, where).reshape(shape)
    if len(raw) != count * datatype.size:
        raise InvalidRequest(
            f"{where}: expected {count * datatype.size} bytes for {datatype.name} {list(shape)}, got {len(raw)}",
            reason="BYTE_LENGTH",
        )
    array = np.frombuffer(raw, datatype.dtype)
    if datatype.name == "BOOL" and count and array.view(np.uint8).max() > 1:
        raise InvalidRequest(f"{where}: BOOL: expected bytes 0x00 and 0x01, got another value", reason="VALUE_RANGE")
    return array.reshape(shape)


def _elements(shape: tuple[int, ...], where: _Where) -> int:
    if len(shape) > MAX_RANK:
        raise InvalidRequest(
            f"{where}: shape: expected at most {MAX_RANK} dimensions, got {len(shape)}", reason="SHAPE_RANK"
        )
    for dimension in shape:
        if dimension < 0:
            raise InvalidRequest(
                f"{where}: shape: expected dimensions of 0 or more, got {list(shape)[:16]}", reason="SHAPE_NEGATIVE"
            )
    count = math.prod(shape)
    if count > MAX_ELEMENTS or (not count and math.prod(d for d in shape if d) > MAX_EMPTY):
        raise InvalidRequest(
            f"{where}: shape: {list(shape)[:16]} has more than 2^63 - 1 elements", reason="SHAPE_OVERFLOW"
        )
    return count


def _read_raw_bytes(raw: bytes, count: int, where: _Where) -> Array:
    if 4 * count > len(raw):  # before the array is made: a shape alone must not make us allocate
        raise InvalidRequest(
            f"{where}: BYTES: expected {count} elements, got {len(raw)} bytes in all", reason="BYTES_COUNT"
        )
    array = np.empty(count, np.object_)
    offset, end = 0, len(raw)
    for i in range(count):  # length prefixes chain, so there is no way but one by one
        if offset + 4 > end:
            raise InvalidRequest(
                f"{where}: BYTES: expected {count} elements, the bytes end after {i}", reason="BYTES_COUNT"
            )
        (length,) = struct.unpack_from("<I", raw, offset)
        offset += 4
        if offset + length > end:
            raise InvalidRequest(
                f"{where}: BYTES: element {i} says it has {length} bytes, {end - offset} are left",
                reason="BYTES_TRUNCATED",
            )
        array[i] = raw[offset : offset + length]
        offset += length
    if offset != end:
        raise InvalidRequest(
            f"{where}: BYTES: expected {count} elements, {end - offset} bytes are left over", reason="BYTES_COUNT"
        )
    return array


def _read_typed(tensor: Tensor, datatype: Datatype, count: int, where: _Where) -> Array:
    if not datatype.field:
        raise InvalidRequest(
            f"{where}: {datatype.name} travels in raw_input_contents only", reason="TYPED_NOT_POSSIBLE"
        )
    if not tensor.HasField("contents"):
        if count:
            raise InvalidRequest(
                f"{where}: expected contents or raw_input_contents, got neither", reason="CONTENTS_MISSING"
            )
        return np.empty(0, datatype.dtype)
    contents = tensor.contents
    values = getattr(contents, datatype.field)
    if len(values) != count or contents.ByteSize() != _size_of(contents, datatype.field):
        for field in _FIELDS:
            if field != datatype.field and len(getattr(contents, field)):
                raise InvalidRequest(
                    f"{where}: expected {datatype.field} alone for {datatype.name}, got {field}", reason="TYPED_FIELD"
                )
        if len(values) != count:
            raise InvalidRequest(
                f"{where}: contents: expected {count} elements for shape {list(tensor.shape)[:16]}, got {len(values)}",
                reason="ELEMENT_COUNT",
            )
    if datatype.field in _PACKED:
        return _packed(contents, datatype, count) if count else np.empty(0, datatype.dtype)
    if datatype.name == "BYTES":
        array = np.empty(count, np.object_)
        for start in range(0, count, TURN):
            array[start : start + TURN] = values[start : start + TURN]
        return array
    if not datatype.high:
        return np.fromiter(values, datatype.dtype, count)
    wide = np.fromiter(values, np.int64, count)
    if count and (wide.min() < datatype.low or wide.max() > datatype.high):
        raise InvalidRequest(
            f"{where}: expected {datatype.name} values from {datatype.low} to {datatype.high}, got "
            f"{wide.min() if wide.min() < datatype.low else wide.max()}",
            reason="VALUE_RANGE",
        )
    return wide.astype(datatype.dtype)


def _size_of(contents: InferTensorContents, field: str) -> int:
    """The size that the contents would have with this field alone, for the fields where it is cheap to say; else -1."""
    if field not in _PACKED:
        return -1
    size = len(getattr(contents, field)) * (4 if field == "fp32_contents" else 8)
    return size and 1 + _varint_size(size) + size


def _varint_size(value: int) -> int:
    return max(1, (value.bit_length() + 6) // 7)


def _packed(contents: InferTensorContents, datatype: Datatype, count: int) -> Array:
    """A view of the packed elements of contents whose one known field is FP32's or FP64's: they stand behind tag and length.

    Unknown fields are written after the known ones, so what follows the elements is no concern of ours.
    """
    data = contents.SerializeToString()
    return np.frombuffer(data, datatype.dtype, count, 1 + _varint_size(count * datatype.size))


def raw_of(array: Array, datatype: Datatype) -> bytes:
    """The raw contents of a tensor."""
    if datatype.size:
        dtype = array.dtype
        return (array if dtype is datatype.dtype or dtype == datatype.dtype else array.astype(datatype.dtype)).tobytes()
    parts: list[bytes] = []
    for element in _as_bytes(array):
        parts.append(struct.pack("<I", len(element)))
        parts.append(element)
    return b"".join(parts)


def _write_typed(contents: InferTensorContents, array: Array, datatype: Datatype) -> None:
    contents.SetInParent()  # presence counts: an empty tensor is typed too
    if not array.size:
        return
    if datatype.field in _PACKED:
        data = np.ascontiguousarray(array, datatype.dtype)
        # `join` takes the array as a buffer: one copy of the elements, and not a second one to put the tag before them.
        contents.MergeFromString(b"".join((_PACKED[datatype.field], _varint(data.nbytes), data.data)))
    elif datatype.name == "BYTES":
        contents.bytes_contents.extend(_as_bytes(array))
    else:
        getattr(contents, datatype.field).extend(array.ravel().tolist())


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _as_bytes(array: Array) -> Sequence[bytes]:
    return [e if isinstance(e, bytes) else str(e).encode() for e in array.ravel().tolist()]

"""What the cases say on the wire: requests out of raw bytes, the client that sends them, and answers back as raw bytes.

A tensor's content is one `bytes` here, row-major and little-endian, whichever mode carries it. So that one comparison is
bit-exact for both modes, floats are put into and taken out of typed contents as packed bytes: a Python float is a double,
and would turn a signalling FP32 NaN into a quiet one.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from conformance_heard import Heard, Listener

from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol import open_inference_pb2_grpc

__all__ = [
    "ALL_TYPES",
    "MODES",
    "SERVICE",
    "TYPED_TYPES",
    "WAIT_S",
    "Client",
    "Target",
    "Value",
    "answer",
    "bytes_raw",
    "fp32",
    "infer",
    "int64",
    "size_of",
    "typed_contents",
]

SERVICE = "inference.GRPCInferenceService"

# A bound on every wait, not an expectation: far above what a correct server needs on a slow machine.
WAIT_S = 30.0

UNLIMITED = -1

MODES = ("typed", "raw")

# datatype → (the field of typed contents, how numpy reads the raw bytes)
_TYPED: dict[str, tuple[str, str]] = {
    "BOOL": ("bool_contents", "?"),
    "INT8": ("int_contents", "<i1"),
    "INT16": ("int_contents", "<i2"),
    "INT32": ("int_contents", "<i4"),
    "INT64": ("int64_contents", "<i8"),
    "UINT8": ("uint_contents", "<u1"),
    "UINT16": ("uint_contents", "<u2"),
    "UINT32": ("uint_contents", "<u4"),
    "UINT64": ("uint64_contents", "<u8"),
    "FP32": ("fp32_contents", "<f4"),
    "FP64": ("fp64_contents", "<f8"),
    "BYTES": ("bytes_contents", ""),
}
TYPED_TYPES = tuple(_TYPED)
ALL_TYPES = (*TYPED_TYPES, "FP16", "BF16")

# FP32 and FP64 as packed repeated fields: the tag byte of field 6 and of field 7 with wire type 2.
_PACKED_TAG = {"FP32": b"\x32", "FP64": b"\x3a"}


@dataclass(frozen=True)
class Target:
    """A server under test, and what it was set up with beyond the models; what is empty, its cases need and lack."""

    hop: str  # predictor | transformer | gateway | explainer
    address: str
    key: str = ""  # an API key with every right
    restricted_key: str = ""  # may use conf-linear, and not conf-sum
    limited_key: str = ""  # is refused after at most 500 calls in a row
    away_model: str = ""  # routed to an address where nobody listens
    featured_model: str = ""  # takes an entity; a missing feature fails the call
    pid: int = 0  # the process that the drain case ends
    heard: Heard = field(default_factory=Heard, compare=False)  # what its callers were told in the running case


@dataclass(frozen=True)
class Value:
    """A tensor with its content."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes


def fp32(name: str, values: Any) -> Value:
    """An FP32 tensor with the shape of `values`."""
    array = np.asarray(values, "<f4")
    return Value(name, "FP32", array.shape, array.tobytes())


def int64(name: str, values: Any) -> Value:
    """An INT64 tensor with the shape of `values`."""
    array = np.asarray(values, "<i8")
    return Value(name, "INT64", array.shape, array.tobytes())


def bytes_raw(elements: Iterable[bytes]) -> bytes:
    """Raw BYTES: each element behind its length."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def size_of(datatype: str) -> int:
    """The bytes of one element; BYTES has no such size."""
    return 2 if datatype in ("FP16", "BF16") else np.dtype(_TYPED[datatype][1]).itemsize


def infer(
    model: str,
    *values: Value,
    version: str = "",
    request_id: str = "",
    outputs: Iterable[str] = (),
    mode: str = "raw",
    parameters: Mapping[str, pb.InferParameter] | None = None,
) -> pb.ModelInferRequest:
    """A request in one of `MODES`."""
    request = pb.ModelInferRequest(model_name=model, model_version=version, id=request_id)
    for value in values:
        one = request.inputs.add(name=value.name, datatype=value.datatype, shape=value.shape)
        if mode == "raw":
            request.raw_input_contents.append(value.raw)
        elif value.raw:
            one.contents.CopyFrom(typed_contents(value.datatype, value.raw))
    for output in outputs:
        request.outputs.add(name=output)
    for key, parameter in (parameters or {}).items():
        request.parameters[key].CopyFrom(parameter)
    return request


def typed_contents(datatype: str, raw: bytes) -> pb.InferTensorContents:
    """The raw content as the one typed field of its datatype."""
    if datatype in _PACKED_TAG:
        return pb.InferTensorContents.FromString(_PACKED_TAG[datatype] + _varint(len(raw)) + raw)
    name, dtype = _TYPED[datatype]
    elements = list(_elements(raw)) if datatype == "BYTES" else np.frombuffer(raw, dtype).tolist()
    return pb.InferTensorContents(**{name: elements})


def answer(response: pb.ModelInferResponse) -> dict[str, Value]:
    """The outputs by name, and a failure if the response mixes its modes or its contents don't fit its shapes."""
    raws: Iterable[bytes]
    if response.raw_output_contents:
        assert len(response.raw_output_contents) == len(response.outputs), "one raw entry per output"
        assert not any(output.HasField("contents") for output in response.outputs), "raw, and contents beside it"
        raws = response.raw_output_contents
    else:
        raws = [_raw_of(output.datatype, output.contents) for output in response.outputs]
    outputs = {}
    for output, raw in zip(response.outputs, raws, strict=True):
        elements = math.prod(output.shape)
        found = len(list(_elements(raw))) if output.datatype == "BYTES" else len(raw) // size_of(output.datatype)
        assert found == elements, f"{output.name}: {found} elements for shape {list(output.shape)}"
        outputs[output.name] = Value(output.name, output.datatype, tuple(output.shape), raw)
    assert len(outputs) == len(response.outputs), "an output came twice"
    return outputs


def _raw_of(datatype: str, contents: pb.InferTensorContents) -> bytes:
    assert datatype in _TYPED, f"{datatype} travels only raw"
    name, dtype = _TYPED[datatype]
    set_fields = {descriptor.name for descriptor, _ in contents.ListFields()}
    assert set_fields <= {name}, f"{datatype} came in {set_fields}"
    elements = getattr(contents, name)
    if datatype == "BYTES":
        return bytes_raw(elements)
    if datatype in _PACKED_TAG:  # the packed bytes are the end of the only field
        length = len(elements) * size_of(datatype)
        return contents.SerializeToString()[-length:] if length else b""
    return np.array(elements, dtype).tobytes()


def _elements(raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        yield raw[at + 4 : at + 4 + length]
        at += 4 + length


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


@dataclass
class Client:
    """One channel to the server under test; every call is bounded and carries the key."""

    target: Target
    options: Mapping[str, Any] = field(default_factory=dict)  # of grpc.insecure_channel

    def __post_init__(self) -> None:
        sizes = [(f"grpc.max_{way}_message_length", UNLIMITED) for way in ("send", "receive")]
        # Its own connection: channels of one process to one address share one otherwise.
        plain = grpc.insecure_channel(
            self.target.address, [*sizes, ("grpc.use_local_subchannel_pool", 1)], **self.options
        )
        self.channel = grpc.intercept_channel(plain, Listener(self.target.heard))
        self.stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def close(self) -> None:
        self.channel.close()

    def metadata(self, key: str | None = None) -> list[tuple[str, str]]:
        key = self.target.key if key is None else key
        return [("x-api-key", key)] if key else []

    def call(self, rpc: str, request: Any, timeout: float = WAIT_S, key: str | None = None) -> Any:
        """The answer, or grpc.RpcError; `key` stands in for the target's, and an empty one is no key."""
        return getattr(self.stub, rpc)(request, timeout=timeout, metadata=self.metadata(key))

    def start(self, rpc: str, request: Any, timeout: float = WAIT_S, key: str | None = None) -> Any:
        """The call under way, a grpc.Future."""
        return getattr(self.stub, rpc).future(request, timeout=timeout, metadata=self.metadata(key))

    def infer(self, request: pb.ModelInferRequest, timeout: float = WAIT_S) -> pb.ModelInferResponse:
        return self.call("ModelInfer", request, timeout)

    def send(self, path: str, body: bytes) -> bytes:
        """The answer to bytes that need not be a message, at a method that need not exist."""
        return self.channel.unary_unary(path)(body, timeout=WAIT_S, metadata=self.metadata())

    def stream(self, requests: Iterable[pb.ModelInferRequest], key: str | None = None) -> Any:
        """The responses as they come: an iterator, and a call that can be cancelled."""
        return self.stub.ModelStreamInfer(iter(requests), timeout=WAIT_S, metadata=self.metadata(key))

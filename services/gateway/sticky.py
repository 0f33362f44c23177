"""What keeps a caller, card or patient on one variant while weights stay as they are."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b

from infermesh.call import Call
from infermesh.protocol.open_inference_pb2 import InferTensorContents, ModelInferRequest
from services.gateway.targets import StickyConfig

__all__ = ["StickyKey", "StickySplit"]

MAX_KEY_BYTES = 256  # more of a longer key is not looked at: entity ids are short, and this is done for each call

_LENGTH = struct.Struct("<I")
_INTEGERS = {
    "INT8": struct.Struct("<b"),
    "INT16": struct.Struct("<h"),
    "INT32": struct.Struct("<i"),
    "INT64": struct.Struct("<q"),
    "UINT8": struct.Struct("<B"),
    "UINT16": struct.Struct("<H"),
    "UINT32": struct.Struct("<I"),
    "UINT64": struct.Struct("<Q"),
}

Source = Callable[[ModelInferRequest, Call], bytes]  # empty: no key there


class StickyKey:
    """Finds the key of a call; the same id gives the same key from wherever it comes, typed or raw, as text or as a number."""

    def __init__(self, config: StickyConfig) -> None:
        self._sources = list(_sources(config))

    def of(self, request: ModelInferRequest, call: Call) -> bytes:
        """The key, at most 256 bytes of it; empty when the call has none."""
        for source in self._sources:
            if key := source(request, call):
                return key[:MAX_KEY_BYTES]
        return b""


class StickySplit:
    """Which of several weighted names a key belongs to: weighted rendezvous hashing.

    Each name draws a number for the key, and the highest of weight / -ln(number) wins; so the shares are the weights, in any
    order, without state. A key moves only to a name whose weight rose in proportion to that of the one it leaves: with two
    names, raising one from 5 to 10 % moves 5 % of the keys to it and none the other way. Names are hashed with `salt`, else the
    same keys would be the canary's in every split.

    Schindelhauer and Schomaker, "Weighted Distributed Hash Tables" (SPAA 2005), the logarithmic method; the hash is BLAKE2b.
    """

    def __init__(self, salt: str, weights: Sequence[tuple[str, float]]) -> None:
        self._weighted = [
            (at, weight, blake2b(digest_size=8, key=blake2b(f"{salt}\0{name}".encode(), digest_size=32).digest()))
            for at, (name, weight) in enumerate(weights)
            if weight
        ]

    def pick(self, key: bytes) -> int:
        """The index of the name that the key belongs to; never that of one without weight."""
        best, found = -1.0, 0
        for at, weight, seeded in self._weighted:
            hashed = seeded.copy()
            hashed.update(key)
            drawn = ((int.from_bytes(hashed.digest(), "little") >> 12) + 0.5) * 2.0**-52  # over 0 and under 1, exactly
            score = weight / -math.log(drawn)
            if score > best:
                best, found = score, at
        return found


def _sources(config: StickyConfig) -> Iterator[Source]:
    metadata, parameter, name = config.metadata, config.parameter, config.input
    if metadata:
        yield lambda request, call: call.metadata.get(metadata, "").encode("utf-8", "backslashreplace")
    if parameter:
        yield lambda request, call: _parameter(request, parameter)
    if name:
        yield lambda request, call: _first_element(request, name)
    if config.tenant:
        yield lambda request, call: call.caller.tenant.encode("utf-8", "backslashreplace")


def _parameter(request: ModelInferRequest, name: str) -> bytes:
    if name not in request.parameters:  # a look-up by index would add it to the caller's message
        return b""
    parameter = request.parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    if kind == "string_param":
        return parameter.string_param.encode("utf-8", "backslashreplace")
    if kind in ("int64_param", "uint64_param"):
        return str(getattr(parameter, kind)).encode()
    return b""


def _first_element(request: ModelInferRequest, name: str) -> bytes:
    """The first element of an input of texts or whole numbers; empty where the message is wrong, which is for others to say."""
    for at, tensor in enumerate(request.inputs):
        if tensor.name == name:
            if tensor.HasField("contents"):
                return _typed(tensor.contents)
            raw = request.raw_input_contents
            return _raw(tensor.datatype, raw[at]) if at < len(raw) else b""
    return b""


def _typed(contents: InferTensorContents) -> bytes:
    if contents.bytes_contents:
        return contents.bytes_contents[0]
    for values in (contents.int64_contents, contents.int_contents, contents.uint64_contents, contents.uint_contents):
        if values:
            return str(values[0]).encode()
    return b""


def _raw(datatype: str, data: bytes) -> bytes:
    if datatype == "BYTES":
        if len(data) < _LENGTH.size:
            return b""
        (length,) = _LENGTH.unpack_from(data)
        return data[_LENGTH.size : _LENGTH.size + min(length, MAX_KEY_BYTES)]
    integer = _INTEGERS.get(datatype)
    if integer is None or len(data) < integer.size:
        return b""
    return str(integer.unpack_from(data)[0]).encode()

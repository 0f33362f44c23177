"""INF-T and INF-R: every datatype comes back bit for bit, typed and raw."""

from __future__ import annotations

import struct

import grpc
import pytest
from conformance_cases import case, check_refusal
from conformance_wire import ALL_TYPES, MODES, TYPED_TYPES, Client, Value, answer, bytes_raw, infer, size_of

MIB = 1 << 20


def integers(bits: int, signed: bool) -> bytes:
    """Zero, one, the extremes and their neighbours, minus one, and a pattern that shows swapped bytes."""
    lowest, highest = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    pattern = 0x0102030405060708 & highest
    values = [0, 1, lowest, lowest + 1, highest, highest - 1, pattern, *([-1] if signed else [])]
    return b"".join(value.to_bytes(bits // 8, "little", signed=signed) for value in values)


def floats(exponent_bits: int, mantissa_bits: int) -> bytes:
    """±0, ±1, ±inf, the extremes, subnormals, and quiet and signalling NaNs of both signs with their payloads."""
    sign = 1 << exponent_bits + mantissa_bits
    infinity = (1 << exponent_bits) - 1 << mantissa_bits
    quiet = 1 << mantissa_bits - 1
    positive = [
        0,
        (1 << exponent_bits - 1) - 1 << mantissa_bits,  # 1.0
        infinity,
        infinity - 1,  # the largest finite number
        1 << mantissa_bits,  # the smallest normal number
        1,  # the smallest subnormal number
        (1 << mantissa_bits) - 1,  # the largest subnormal number
        infinity | quiet,
        infinity | quiet | 0x2A,  # a payload that is lost when a NaN is made anew
        infinity | 1,  # signalling: quiet after any conversion to another width
    ]
    width = (1 + exponent_bits + mantissa_bits) // 8
    return b"".join(value.to_bytes(width, "little") for bits in positive for value in (bits, sign | bits))


TEXTS = ("", "plain", "embedded\0NUL", "\0", "ünïcödé 漢字 🙂", "", " leading and trailing ", "line\nbreak\ttab\r")

SPECIALS: dict[str, bytes] = {
    "BOOL": b"\x00\x01\x01\x00",
    **{f"INT{bits}": integers(bits, signed=True) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": integers(bits, signed=False) for bits in (8, 16, 32, 64)},
    "FP16": floats(5, 10),
    "BF16": floats(8, 7),
    "FP32": floats(8, 23),
    "FP64": floats(11, 52),
    "BYTES": bytes_raw(text.encode() for text in TEXTS),
}

NOT_UTF8 = (b"good", b"caf\xe9 \xff\xfe")


def special(datatype: str) -> Value:
    elements = len(TEXTS) if datatype == "BYTES" else len(SPECIALS[datatype]) // size_of(datatype)
    return Value("x", datatype, (elements,), SPECIALS[datatype])


@case("INF-T", each={"datatype": TYPED_TYPES})
def test_typed_contents_come_back_bit_for_bit(client: Client, datatype: str) -> None:
    """Typed contents with extremes, ±0, ±inf, NaN payloads, empty texts and NULs come back bit for bit, typed."""
    sent = special(datatype)

    response = client.infer(infer(f"conf-echo-{datatype.lower()}", sent, mode="typed"))

    assert not response.raw_output_contents
    assert answer(response)["y"] == Value("y", datatype, sent.shape, sent.raw)


@case("INF-R", each={"datatype": ALL_TYPES})
def test_raw_contents_come_back_bit_for_bit(client: Client, datatype: str) -> None:
    """Raw contents with extremes, ±0, ±inf, NaN payloads, empty texts and NULs come back bit for bit, raw."""
    sent = special(datatype)

    response = client.infer(infer(f"conf-echo-{datatype.lower()}", sent))

    assert len(response.raw_output_contents) == 1
    assert answer(response)["y"] == Value("y", datatype, sent.shape, sent.raw)


@case("INF-T-large", each={"mode": MODES})
def test_a_large_text_comes_back(client: Client, mode: str) -> None:
    """Texts of 1 MiB come back bit for bit among short ones, typed and raw."""
    elements = [b"short", b"a" * MIB, b"", ("ü" * (MIB // 2)).encode(), b"\0" * MIB]
    sent = Value("x", "BYTES", (len(elements),), bytes_raw(elements))

    response = client.infer(infer("conf-echo-bytes", sent, mode=mode))

    assert answer(response)["y"] == Value("y", "BYTES", sent.shape, sent.raw)


@case("INF-R-large")
def test_a_large_tensor_comes_back(client: Client) -> None:
    """A raw tensor of 8 MiB comes back bit for bit."""
    raw = struct.pack("<I", 0x3F800001) * (2 * MIB)

    response = client.infer(infer("conf-echo-fp32", Value("x", "FP32", (2 * MIB,), raw)))

    assert answer(response)["y"].raw == raw


@case("INF-UTF8", each={"mode": MODES})
def test_a_text_that_is_not_utf8_is_refused(client: Client, mode: str) -> None:
    """An ONNX string input refuses BYTES that are not UTF-8 with INVALID_ARGUMENT, and never alters them."""
    bad = Value("x", "BYTES", (2,), bytes_raw(NOT_UTF8))
    good = Value("x", "BYTES", (1,), bytes_raw([b"good"]))

    with pytest.raises(grpc.RpcError) as refused:
        client.infer(infer("conf-echo-bytes", bad, mode=mode))

    check_refusal(refused.value, grpc.StatusCode.INVALID_ARGUMENT, "conf-echo-bytes", "x", "UTF-8")
    assert answer(client.infer(infer("conf-echo-bytes", good, mode=mode)))["y"].raw == good.raw

"""How messages are compressed, and how far what comes compressed may unpack."""

from __future__ import annotations

import zlib

import grpc

from infermesh.transport.asgi.wire import WireError

__all__ = ["ACCEPTED", "COMPRESSIONS", "accepts", "check_encoding", "packed", "unpacked"]

ACCEPTED = b"identity, deflate, gzip"
COMPRESSIONS = {grpc.Compression.Gzip: b"gzip", grpc.Compression.Deflate: b"deflate"}

_WINDOW_BITS = {b"gzip": 31, b"deflate": 15}  # zlib's: gzip's wrapper, and zlib's own, which is what gRPC's deflate is


def check_encoding(encoding: bytes) -> None:
    """Raises WireError for a `grpc-encoding` that we can't unpack."""
    if encoding not in _WINDOW_BITS and encoding != b"identity":
        shown = encoding[:20].decode("ascii", "backslashreplace")
        text = f"grpc-encoding: expected one of {ACCEPTED.decode()}, got {shown!r}"
        raise WireError(grpc.StatusCode.UNIMPLEMENTED, text)


def accepts(header: bytes, encoding: bytes) -> bool:
    """Whether a caller with this `grpc-accept-encoding` can unpack the encoding."""
    return encoding in (each.strip() for each in header.split(b","))


def packed(data: bytes, encoding: bytes) -> bytes:
    """The message in this encoding."""
    compressor = zlib.compressobj(wbits=_WINDOW_BITS[encoding])
    return compressor.compress(data) + compressor.flush()


def unpacked(data: bytes, encoding: bytes, limit: int) -> bytes:
    """The message of a frame that is marked as compressed. Raises WireError; no more than `limit` bytes are ever unpacked."""
    bits = _WINDOW_BITS.get(encoding)
    if bits is None:
        text = "frame: it is marked as compressed, but grpc-encoding names no compression"
        raise WireError(grpc.StatusCode.INTERNAL, text)
    stream = zlib.decompressobj(wbits=bits)
    try:
        message = stream.decompress(data, limit + 1)
    except zlib.error:
        raise WireError(grpc.StatusCode.INTERNAL, f"frame: expected {encoding.decode()} data") from None
    if len(message) > limit:
        text = f"SERVER: Decompressed message larger than max ({len(message)} or more vs. {limit})"
        raise WireError(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
    if not stream.eof or stream.unused_data:
        text = f"frame: its {encoding.decode()} data end too {'late' if stream.eof else 'early'}"
        raise WireError(grpc.StatusCode.INTERNAL, text)
    return message

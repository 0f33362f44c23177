"""gRPC's metadata as HTTP/2 headers, both ways. Pure.

Source: PROTOCOL-HTTP2.md of grpc/grpc, "Custom-Metadata".
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable

import grpc

from infermesh.transport.asgi.wire import WireError

__all__ = ["Headers", "Metadata", "decoded_metadata", "encoded_metadata"]

MAX_KNOWN = 512  # names that are remembered; callers make them up
MAX_KNOWN_BYTES = 64

Headers = Iterable[tuple[bytes, bytes]]
Metadata = Iterable[tuple[str, str | bytes]]

_NAME = re.compile(r"[0-9a-z_.\-]+")

# What the transport writes, and what HTTP/2 forbids.
_OURS = {"content-type", "content-length", "te", "trailer", "connection", "keep-alive", "proxy-connection"}
_OURS |= {"transfer-encoding", "upgrade", "grpc-status", "grpc-message", "grpc-encoding", "grpc-accept-encoding"}

# What is about the transport and not about the call; the certificate's header is read as an identity or not at all.
_DROPPED = (
    b"host content-type te grpc-timeout grpc-encoding grpc-accept-encoding grpc-message-type content-length "
    b"x-forwarded-client-cert x-forwarded-proto"
).split()
_names: dict[bytes, str] = dict.fromkeys(_DROPPED, "")  # "": dropped; names that end in -bin are never here, nor there
_written: dict[str, bytes] = {}


def encoded_metadata(metadata: Metadata) -> list[tuple[bytes, bytes]]:
    """Metadata as headers. Raises ValueError for what HTTP/2 can't carry: a host would lose the whole status with it."""
    pairs = []
    for name, value in metadata:
        known = _written.get(name)
        if known is not None and type(value) is str and value.isascii() and value.isprintable():
            pairs.append((known, value.encode()))  # as nearly all are
        else:
            pairs.append((_encoded_name(name), _encoded_value(name, value)))
    return pairs


def decoded_metadata(headers: Headers) -> list[tuple[str, str | bytes]]:
    """The caller's metadata, without what is the transport's own. Raises WireError for a `-bin` value that is no base64."""
    metadata: list[tuple[str, str | bytes]] = []
    for key, value in headers:
        name = _names.get(key)
        if name is None:
            if key.endswith(b"-bin"):
                metadata += [(_text(key), each) for each in _decoded_values(key, value)]
                continue
            name = _learnt(key)
        if name:
            try:
                metadata.append((name, value.decode()))
            except UnicodeDecodeError:
                metadata.append((name, value.decode("latin-1")))
    return metadata


def _learnt(key: bytes) -> str:
    name = "" if key.startswith((b":", b"grpc-internal-")) else _text(key)
    if len(_names) < MAX_KNOWN and len(key) <= MAX_KNOWN_BYTES:
        _names[key] = name
    return name


def _text(key: bytes) -> str:
    return key.decode("latin-1")


def _decoded_values(key: bytes, value: bytes) -> list[bytes]:
    """Several values of one name may have been joined by commas on their way."""
    try:
        return [a2b_base64(_padded(each.strip()), strict_mode=True) for each in value.split(b",")]
    except Base64Error:
        raise WireError(grpc.StatusCode.INTERNAL, f"metadata {_text(key[:64])!r}: expected base64") from None


def _padded(value: bytes) -> bytes:
    bare = value.rstrip(b"=")
    return bare + b"=" * (-len(bare) % 4) if len(value) - len(bare) <= 2 else value


def _encoded_name(name: str) -> bytes:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _OURS:
        raise ValueError(f"metadata name: expected lower-case letters, digits and _ . - and none of ours, got {name!r}")
    known = name.encode()
    if len(_written) < MAX_KNOWN and not name.endswith("-bin"):
        _written[name] = known
    return known


def _encoded_value(name: str, value: str | bytes) -> bytes:
    if name.endswith("-bin"):
        return b2a_base64(value if isinstance(value, bytes) else value.encode(), newline=False).rstrip(b"=")
    text = value if isinstance(value, str) else value.decode("latin-1")
    if not (text.isascii() and text.isprintable()):
        raise ValueError(f"metadata {name!r}: expected printable ASCII, got {text[:64]!r}")
    return text.encode()

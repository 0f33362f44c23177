"""Who is on the other side of a call: what Envoy, which ended the connection, says of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote_to_bytes

__all__ = ["CLIENT_CERTIFICATE", "Identities", "peer_of"]

CLIENT_CERTIFICATE = b"x-forwarded-client-cert"
MAX_KNOWN = 1024  # headers whose certificate is remembered; each connection sends the same one with every call

AuthContext = Mapping[str, list[bytes]]

_NONE: AuthContext = {}
_TLS: AuthContext = {"transport_security_type": [b"ssl"]}


def peer_of(scope: Mapping[str, Any]) -> str:
    """The address of the peer, as grpc writes it."""
    client = scope.get("client")
    if not client:
        return "unknown:"
    host, port = client[0], client[1]
    return f"ipv6:{quote(f'[{host}]', safe=':')}:{port}" if ":" in host else f"ipv4:{host}:{port}"


class Identities:
    """The certificates that callers' connections have shown, from a header that only a proxy of ours may have written.

    With `trusted` false the header is no more than a caller's claim, and nobody has an identity. It may be true only behind an
    Envoy with `forward_client_cert_details: SANITIZE_SET`, which drops what a caller wrote there, and with `cert: true`.
    """

    def __init__(self, *, trusted: bool) -> None:
        self._trusted = trusted
        self._known: dict[bytes, AuthContext] = {}

    def of(self, scope: Mapping[str, Any], headers: Mapping[bytes, bytes]) -> AuthContext:
        """What grpc's `auth_context` would tell: `x509_pem_cert` where there is a certificate."""
        header = headers.get(CLIENT_CERTIFICATE) if self._trusted else None
        if header is None:
            return _TLS if scope.get("scheme") == "https" else _NONE
        known = self._known.get(header)
        if known is None:
            pem = _certificate(header)
            known = {**_TLS, "x509_pem_cert": [pem]} if pem else _TLS
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[header] = known
        return known


def _certificate(header: bytes) -> bytes:
    """The one certificate in the header; empty where there is none, or more than one: then it is not clear whose call it is."""
    try:
        found = [value for name, value in _pairs(header.decode("ascii")) if name.lower() == "cert"]
    except ValueError:
        return b""
    return unquote_to_bytes(found[0]) if len(found) == 1 else b""


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """`Key=value;Key="value"`; within quotes a backslash stands before what is meant as it is. ValueError for anything else,
    elements that a proxy before Envoy has added included."""
    at = 0
    while at < len(text):
        name, equals, _ = text[at:].partition("=")
        if not equals:
            raise ValueError("expected a key and a value")
        at += len(name) + 1
        value: list[str] = []
        quoted = text[at : at + 1] == '"'
        at += quoted
        while at < len(text) and (quoted or text[at] not in ";,"):
            if quoted and text[at] == '"':
                break
            if quoted and text[at] == "\\":
                at += 1
            value.append(text[at : at + 1])
            at += 1
        if quoted:
            if text[at : at + 1] != '"':
                raise ValueError("expected a closing quote")
            at += 1
        if at < len(text) and text[at] != ";":
            raise ValueError("expected one element")
        at += 1
        yield name, "".join(value)

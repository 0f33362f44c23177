"""Who a caller is, behind a proxy that ended its connection."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infermesh.transport.asgi.identity import Identities, peer_of

PEM = b"-----BEGIN CERTIFICATE-----\nMIIB+/=\n-----END CERTIFICATE-----\n"
CERT = f'Cert="{quote(PEM, safe="")}"'
TLS = {"scheme": "https"}


def shown(header: str | bytes, *, trusted: bool = True, scope: dict[str, Any] = TLS) -> dict[str, list[bytes]]:
    value = header if isinstance(header, bytes) else header.encode()
    return dict(Identities(trusted=trusted).of(scope, {b"x-forwarded-client-cert": value}))


@pytest.mark.parametrize(
    "header", [CERT, f"Hash=ab;{CERT}", f'Subject="O=\\"a;Cert=b\\",CN=x";{CERT};URI=spiffe://m/a']
)
def test_the_certificate_of_the_header_is_the_peers(header: str) -> None:
    """Beside whatever else the proxy tells, names that a subject quotes included."""
    assert shown(header) == {"transport_security_type": [b"ssl"], "x509_pem_cert": [PEM]}


@pytest.mark.parametrize(
    "header",
    [
        f"{CERT};{CERT}",
        f"{CERT},{CERT}",
        f"By=a,{CERT}",
        'Cert="abc',
        "Cert",
        "",
        'Subject="Cert=abc"',
        f'Subject="x\\";{CERT}"',
        b"Cert=\xff",
    ],
)
def test_what_is_not_clear_is_no_identity(header: str | bytes) -> None:
    """Two elements or two certificates are what somebody has added to."""
    assert "x509_pem_cert" not in shown(header)


def test_a_header_of_a_caller_is_no_identity() -> None:
    """Where no proxy of ours writes it, anybody may have written it."""
    assert shown(CERT, trusted=False) == {"transport_security_type": [b"ssl"]}
    assert shown(CERT, trusted=False, scope={"scheme": "http"}) == {}


def test_a_connection_without_a_certificate_has_none() -> None:
    """Encrypted or not."""
    known = Identities(trusted=True)

    assert dict(known.of({"scheme": "http"}, {})) == {}
    assert dict(known.of(TLS, {})) == {"transport_security_type": [b"ssl"]}


@given(st.binary(max_size=60))
def test_no_header_breaks_the_reader(value: bytes) -> None:
    """Whatever comes, the answer is an identity or none."""
    assert "transport_security_type" in shown(b"Cert=" + value)
    assert "transport_security_type" in shown(value)


def test_what_is_remembered_has_a_bound() -> None:
    """A thousand headers are kept, not a million."""
    known = Identities(trusted=True)
    for number in range(3000):
        known.of(TLS, {b"x-forwarded-client-cert": b"Hash=%d" % number})

    assert len(known._known) <= 1024


@pytest.mark.parametrize(
    ("client", "peer"),
    [(("10.0.0.1", 5), "ipv4:10.0.0.1:5"), (("::1", 5), "ipv6:%5B::1%5D:5"), (None, "unknown:")],
)
def test_the_peer_is_written_as_grpc_writes_it(client: Any, peer: str) -> None:
    """Filters count by it on both engines."""
    assert peer_of({"client": client}) == peer

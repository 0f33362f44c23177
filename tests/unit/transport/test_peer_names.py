"""The names in certificates, as a connection has verified them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from infermesh.config import ServerConfig
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from infermesh.service import stack
from infermesh.transport import Server, peer
from infermesh.transport.peer import Names, names_in
from tests.certificates import Authority, Pair

EMAIL, DNS, URI = 0x81, 0x82, 0x86  # RFC 5280, 4.2.1.6: the tags of a GeneralName


def _der(tag: int, value: bytes) -> bytes:
    return bytes([tag, len(value)]) + value


def _alternative(*names: tuple[int, bytes]) -> x509.UnrecognizedExtension:
    """Subject alternative names of any bytes: `cryptography` itself would not make some of them."""
    body = _der(0x30, b"".join(_der(*name) for name in names))
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), body)


def _certificate(authority: Authority, common: Sequence[str], *names: tuple[int, bytes]) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, each) for each in common])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, authority.name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(_alternative(*names), critical=False)
    made = Pair(authority.folder / "made.crt", authority.folder / "made.key")
    made.cert.write_bytes(builder.sign(authority._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    made.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return made


def test_names_carry_their_kind(tmp_path: Path) -> None:
    """A name of one kind is never taken for one of another, whatever it reads like; an e-mail address is none."""
    names = ((DNS, b"Gateway.Mesh"), (EMAIL, b"spiffe://mesh/other@x"), (URI, b"spiffe://mesh/gateway"))
    pair = _certificate(Authority(tmp_path), ["dns:gateway.mesh"], *names)

    assert names_in(pair.cert.read_bytes()) == ("uri:spiffe://mesh/gateway", "dns:gateway.mesh", "cn:dns:gateway.mesh")


def test_a_subject_needs_no_common_name(tmp_path: Path) -> None:
    """As SPIFFE's have none; and one alone is enough."""
    authority = Authority(tmp_path)

    assert names_in(_certificate(authority, [], (URI, b"spiffe://a/b")).cert.read_bytes()) == ("uri:spiffe://a/b",)
    assert names_in(_certificate(authority, ["müller"]).cert.read_bytes()) == ("cn:müller",)


@pytest.mark.parametrize(
    ("common", "names"),
    [
        (["admin\0.evil"], []),
        (["admin"], [(DNS, b"gateway.mesh\0.evil")]),
        (["admin"], [(URI, b"spiffe://mesh/a\0/evil"), (DNS, b"gateway.mesh")]),
        (["admin\n"], []),
        (["admin"], [(DNS, b"\xff\xfe")]),
        (["admin\0", "admin"], [(DNS, b"a")]),
    ],
)
def test_a_certificate_with_a_name_that_can_t_be_printed_has_none(
    tmp_path: Path, common: list[str], names: list[tuple[int, bytes]]
) -> None:
    """Not up to the character, not without it, and no other name either: its signer may have been fooled."""
    pair = _certificate(Authority(tmp_path), common, *names)

    assert names_in(pair.cert.read_bytes()) == ()


def test_of_several_common_names_none_counts(tmp_path: Path) -> None:
    """Some readers take the first and some the last; other names count as ever."""
    pair = _certificate(Authority(tmp_path), ["admin", "carol"], (DNS, b"a.mesh"))

    assert names_in(pair.cert.read_bytes()) == ("dns:a.mesh",)


@pytest.mark.parametrize(
    "pem", [b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate_has_no_names(pem: bytes) -> None:
    """grpc would not let it through; if it did, it would be nobody's."""
    assert names_in(pem) == ()
    assert Names().of({"transport_security_type": [b"ssl"]}) == ()


def test_a_certificate_with_very_many_names_is_cut(tmp_path: Path) -> None:
    """What a certificate says is bounded; a name that is too long is none."""
    authority = Authority(tmp_path)

    assert len(names_in(authority.pair(dns=[f"a{n}" for n in range(1000)]).cert.read_bytes())) == 64
    assert names_in(authority.pair("b", dns=["a" * 513]).cert.read_bytes()) == ("cn:b",)


def test_a_certificate_is_read_once_and_few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """All calls of a connection come with the same; a hundred thousand others leave no trace."""
    read: list[bytes] = []
    monkeypatch.setattr(peer, "names_in", lambda pem: read.append(pem) or ("cn:a",))
    names = Names()

    for _ in range(3):
        assert names.of({"x509_pem_cert": [b"one"]}) == ("cn:a",)
    assert read == [b"one"]
    for number in range(5000):
        names.of({"x509_pem_cert": [b"%d" % number]})
    assert len(names._known) <= 1024


@pytest.mark.parametrize(
    ("common", "names"),
    [
        (["gateway.mesh\0.evil"], []),
        (["x"], [(DNS, b"gateway.mesh\0.evil")]),
        (["x"], [(URI, b"spiffe://mesh/gateway\0/evil")]),
    ],
)
async def test_a_connection_by_such_a_certificate_is_nobody_s(
    tmp_path: Path, scripted: Any, common: list[str], names: list[tuple[int, bytes]]
) -> None:
    """grpc verifies it and cuts the name; who calls over it is not believed, and has no identity."""
    authority, service = Authority(tmp_path), scripted()
    shown = authority.pair(dns=["localhost"])
    settings = {
        "host": "127.0.0.1",
        "grpc_port": 0,
        "tls": {"cert": str(shown.cert), "key": str(shown.key), "client_ca": str(authority.file)},
        "mesh_identities": ["dns:gateway.mesh", "cn:gateway.mesh", "uri:spiffe://mesh/gateway"],
    }
    server = Server("tested", ServerConfig.model_validate(settings), inside_mesh=True)
    await server.start()
    server.mount(stack(service=service))
    try:
        for pair in (_certificate(authority, common, *names), authority.pair(dns=["gateway.mesh"])):
            credentials = grpc.ssl_channel_credentials(
                authority.file.read_bytes(), pair.key.read_bytes(), pair.cert.read_bytes()
            )
            own = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.secure_channel(f"localhost:{server.port}", credentials, options=own) as channel:
                ask = GRPCInferenceServiceStub(channel).ModelInfer
                await ask(pb.ModelInferRequest(model_name="m"), metadata=[("x-infermesh-tenant", "t")], timeout=10)
    finally:
        await server.stop(0)

    forged, good = service.calls
    assert (forged.identities, forged.caller.tenant) == ((), "")
    assert (good.identities, good.caller.tenant) == (("dns:gateway.mesh", "cn:leaf"), "t")

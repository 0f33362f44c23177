"""Certificates in files: what is refused, and how changes are followed."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from infermesh.config import BackendConfig, BackendTlsConfig, ConfigError, ServerConfig, ServerTlsConfig
from infermesh.transport.tls import Pem, follow, read_client, read_server
from tests.certificates import Authority, Pair

DAY = timedelta(days=1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def _server(pair: Pair, ca: Path | None = None) -> ServerTlsConfig:
    return ServerTlsConfig(cert=pair.cert, key=pair.key, client_ca=ca)


def test_good_files_are_read_with_the_day_of_their_end(authority: Authority) -> None:
    """A server's pair, its roots, and when the certificate expires; the key is in no text about them."""
    pair = authority.pair(dns=["localhost"])

    pem = read_server(_server(pair, authority.file))

    assert pem.content == (pair.cert.read_bytes(), pair.key.read_bytes(), authority.file.read_bytes())
    assert pem.expires_at == pytest.approx(time.time() + DAY.total_seconds(), abs=60)
    assert "PRIVATE" not in repr(pem)


def test_a_certificate_for_clients_alone_is_good_for_a_client_alone(authority: Authority) -> None:
    """The purpose that a certificate names is checked as the other side would."""
    pair = authority.pair(clients_only=True)

    assert read_client(BackendTlsConfig(ca=authority.file, cert=pair.cert, key=pair.key), "p").cert
    with pytest.raises(ConfigError, match=r"server.tls: 1 fault\n  cert: .*purpose"):
        read_server(_server(pair))


def test_a_client_needs_no_certificate(authority: Authority) -> None:
    """Without mutual TLS the roots are enough, or even those of the system."""
    assert read_client(BackendTlsConfig(ca=authority.file), "p") == Pem(b"", b"", authority.file.read_bytes())
    assert read_client(BackendTlsConfig(), "p") == Pem(b"", b"", b"")


@pytest.mark.parametrize(("begins", "ends", "words"), [(-2, -1, "expired"), (1, 2, "not yet valid")])
def test_a_certificate_that_is_not_valid_now_is_refused(
    authority: Authority, begins: int, ends: int, words: str
) -> None:
    """Nobody could connect to it."""
    pair = authority.pair(begins=begins * DAY, ends=ends * DAY)

    with pytest.raises(ConfigError, match=words):
        read_server(_server(pair))


def test_every_fault_is_told_and_no_content(authority: Authority, tmp_path: Path) -> None:
    """Files that are missing or no PEM are named, all at once; what is in them is not repeated."""
    one, two = authority.pair(), authority.pair()
    (tmp_path / "secret").write_text("my-secret")

    with pytest.raises(ConfigError) as refused:
        read_server(ServerTlsConfig(cert=tmp_path / "no", key=tmp_path / "none", client_ca=tmp_path / "secret"))
    assert len(refused.value.faults) == 2
    for pair, words in (
        (Pair(one.cert, two.key), "the key is not the certificate's"),
        (Pair(tmp_path / "secret", one.key), "expected a certificate in PEM"),
        (Pair(one.cert, tmp_path / "secret"), "expected a certificate and its unencrypted private key"),
    ):
        with pytest.raises(ConfigError, match=words) as refused:
            read_server(_server(pair, tmp_path / "secret"))
        assert "client_ca" in str(refused.value)
        assert "my-secret" not in str(refused.value)


def test_a_file_without_end_is_not_read(authority: Authority) -> None:
    """A path that is a device is no certificate."""
    with pytest.raises(ConfigError, match="at most 1048576 bytes"):
        read_server(_server(authority.pair(), Path("/dev/zero")))


async def test_new_files_are_taken_over_and_bad_ones_are_not(authority: Authority, eventually: Any) -> None:
    """A good content is adopted once; a bad one changes nothing but what is counted, and the good one after it counts again."""
    pair, second, third = authority.pair(), authority.pair(), authority.pair()
    tls, adopted, seen = _server(pair), [], []

    async def adopt(pem: Pem) -> bool:
        adopted.append(pem.cert)
        return True

    first = read_server(tls)
    task = asyncio.ensure_future(follow(first, lambda: read_server(tls), adopt, lambda *each: seen.append(each), 0.001))
    try:
        pair.become(second)
        await eventually(lambda: adopted == [second.cert.read_bytes()])
        pair.key.write_text("half written")
        await eventually(lambda: any(not good for good, _ in seen))
        bad = len(seen)
        pair.become(third)
        await eventually(lambda: len(adopted) == 2)

        assert adopted[1] == third.cert.read_bytes()
        await eventually(lambda: seen[-1][0] and len(seen) > bad)
    finally:
        task.cancel()


async def test_files_that_were_not_taken_are_offered_again(authority: Authority, eventually: Any) -> None:
    """Whoever can't use new certificates yet gets them again at the next look."""
    pair, offered = authority.pair(), []
    tls = _server(pair)

    async def adopt(pem: Pem) -> bool:
        offered.append(pem)
        return len(offered) > 2

    first = read_server(tls)
    pair.become(authority.pair())
    task = asyncio.ensure_future(follow(first, lambda: read_server(tls), adopt, lambda *_: None, 0.001))
    try:
        await eventually(lambda: len(offered) == 3)
    finally:
        task.cancel()


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (ServerConfig, {"mesh_identities": ["dns:gateway"]}, "tls.client_ca"),
        (ServerConfig, {"mesh_identities": ["gateway"]}, "mesh_identities"),
        (BackendConfig, {"target": "a:1", "tls": {"cert": "c"}}, "both `cert` and `key`"),
        (BackendConfig, {"target": ["1.2.3.4:1", "1.2.3.5:1"], "tls": {}}, "server_name"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(kind: Any, settings: dict[str, Any], words: str) -> None:
    """What could never work is found before the service starts."""
    with pytest.raises(ValueError, match=words):
        kind.model_validate(settings)

"""Certificates: read and checked from files, and read again when the files change."""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from infermesh.config import BackendTlsConfig, ConfigError, ServerTlsConfig

__all__ = ["Observe", "Pem", "follow", "ignore", "read_client", "read_server"]

MAX_FILE_BYTES = 1 << 20  # a bundle of all public roots has a quarter of it
MAX_HANDSHAKE_STEPS = 20
END_OF_CERTIFICATE = b"-----END CERTIFICATE-----"

Observe = Callable[[bool, float], None]
"""Whether the files could be used, and when our certificate expires, in seconds of the wall clock; infinite: we have none."""

_log = logging.getLogger(__name__)


def ignore(good: bool, expires_at: float) -> None:
    """Counts nothing."""


@dataclass(frozen=True, slots=True)
class Pem:
    """The content of the files: our certificate with its key, and the roots of the other side; empty where not configured."""

    cert: bytes
    key: bytes
    ca: bytes
    expires_at: float = math.inf

    def __repr__(self) -> str:  # the key must not get into a log
        return f"Pem(expires_at={self.expires_at:.0f})"

    @property
    def content(self) -> tuple[bytes, bytes, bytes]:
        return self.cert, self.key, self.ca


def read_server(tls: ServerTlsConfig) -> Pem:
    """A server's files. Raises ConfigError, with all faults, for what no client could connect to: key and certificate that are
    no pair, a certificate that is expired, not yet valid or not for servers, roots that are none."""
    return _read("server.tls", tls.cert, tls.key, "client_ca", tls.client_ca, serves=True)


def read_client(tls: BackendTlsConfig, name: str) -> Pem:
    """A client's files, for the backend of this name. Raises ConfigError like `read_server`."""
    return _read(f"backends.{name}.tls", tls.cert, tls.key, "ca", tls.ca, serves=False)


async def follow(
    pem: Pem, read: Callable[[], Pem], adopt: Callable[[Pem], Awaitable[bool]], observe: Observe, every_s: float
) -> None:
    """Look at the files again and again; `adopt` gets each new content that is good, and says whether it took it.

    What is not good changes nothing: the last good files stay in use, and the reason is in the log, once for each. A content that
    was not taken is offered again at the next look. Ends by being cancelled.
    """
    told = ""
    while True:
        await asyncio.sleep(every_s)
        try:
            found = await asyncio.to_thread(read)
            if found.content == pem.content:
                if told:  # the good files are back
                    observe(True, pem.expires_at)
                told = ""
                continue
            taken = await adopt(found)
        except ConfigError as fault:
            observe(False, pem.expires_at)
            if str(fault) != told:
                _log.error("the last good certificates stay in use: %s", fault)
            told = str(fault)
            continue
        except Exception as error:  # of ours; the files must go on being followed
            observe(False, pem.expires_at)
            _log.error("the last good certificates stay in use", exc_info=error)
            continue
        observe(taken, found.expires_at if taken else pem.expires_at)
        if taken:
            pem, told = found, ""
            _log.info("new certificates are in use")
        else:
            told = "not taken"


def _read(source: str, cert: Path | None, key: Path | None, ca_name: str, ca: Path | None, *, serves: bool) -> Pem:
    faults: list[str] = []
    content = [_content(name, file, faults) for name, file in (("cert", cert), ("key", key), (ca_name, ca))]
    expires_at = math.inf
    if not faults:
        if ca is not None and (fault := _fault_of_roots(content[2])):
            faults.append(f"{ca_name}: {ca}: {fault}")
        if cert is not None and key is not None:
            try:
                expires_at = _expires_at(cert, key, content[0], serves)
            except (ssl.SSLError, OSError, ValueError) as error:
                faults.append(f"cert: {cert} with key: {key}: {_words(error)}")
        again = [_content(name, file, faults) for name, file in (("cert", cert), ("key", key), (ca_name, ca))]
        if again != content:
            faults.append("the files changed while they were read")
    if faults:
        raise ConfigError(source, faults)
    return Pem(content[0], content[1], content[2], expires_at)


def _content(name: str, file: Path | None, faults: list[str]) -> bytes:
    if file is None:
        return b""
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        faults.append(f"{name}: {file}: can't be read: {error.strerror or error}")
        return b""
    if len(content) > MAX_FILE_BYTES:
        faults.append(f"{name}: {file}: expected a PEM file of at most {MAX_FILE_BYTES} bytes")
    return content


def _fault_of_roots(content: bytes) -> str:
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=content.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):
        return "expected certificates in PEM"
    return ""


def _expires_at(cert: Path, key: Path, content: bytes, serves: bool) -> float:
    """When the certificate expires. Raises ssl.SSLError when it is not good for a connection now.

    The pair makes a connection with itself, in memory: that finds what a look at the files would not, by the library that makes
    such checks elsewhere. Only its own signature is not looked at, since whether the other side knows the root is its affair.
    """
    end = content.find(END_OF_CERTIFICATE)
    if end < 0:
        raise ValueError("expected a certificate in PEM")
    leaf = content[: end + len(END_OF_CERTIFICATE)].decode("ascii", "ignore")
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_REQUIRED if serves else ssl.CERT_NONE
    looks = client if serves else server
    looks.verify_mode = ssl.CERT_REQUIRED
    looks.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the leaf itself stands for its root
    looks.load_verify_locations(cadata=leaf)
    server.load_cert_chain(cert, key, password="")  # else OpenSSL would ask at the terminal
    if not serves:
        client.load_cert_chain(cert, key, password="")
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)]
    _shake_hands(ends)
    shown = ends[0 if serves else 1].getpeercert() or {}
    return float(ssl.cert_time_to_seconds(str(shown["notAfter"])))


def _shake_hands(ends: list[ssl.SSLObject]) -> None:
    waiting = list(ends)
    for _ in range(MAX_HANDSHAKE_STEPS):
        for each in list(waiting):
            try:
                each.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(each)
        if not waiting:
            return
    raise ValueError("no connection could be made with it")


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return str(error.verify_message)
    if isinstance(error, ssl.SSLError):
        if error.reason == "KEY_VALUES_MISMATCH":
            return "the key is not the certificate's"
        return f"expected a certificate and its unencrypted private key, both in PEM ({error.reason or 'no PEM'})"
    return str(error)

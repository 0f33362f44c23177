"""Whose key, or whose certificate, is this?"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from typing import NamedTuple

from infermesh.call import Caller
from infermesh.errors import Unauthenticated
from services.gateway.keys import CertificateEntry, KeyEntry, KeysFile

__all__ = ["KeyRing"]


class _Known(NamedTuple):
    digest: bytes
    caller: Caller
    expires_at: float


class _Certified(NamedTuple):
    caller: Caller
    expires_at: float


class KeyRing:
    """The keys of a file by their digests, and its certificates by their names, swapped whole while calls go on.

    A key is found by its SHA-256 and compared in constant time; nobody who guesses keys can choose how their digests begin, so
    finding tells nothing. A slow hash would add nothing: keys are random, not chosen by people.
    """

    def __init__(self, file: KeysFile, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock  # wall clock: keys expire on a day
        self._known: dict[bytes, _Known] = {}
        self._certified: dict[str, _Certified] = {}
        self.swap(file)

    def swap(self, file: KeysFile) -> None:
        """From now on these keys and certificates count, and no others."""
        self._certified = {
            each.identity.lower() if each.identity.startswith("dns:") else each.identity: _Certified(
                _caller(each), each.expires_at
            )
            for each in file.certificates
        }
        self._known = {known.digest: known for known in map(_known, file.keys)}

    def caller_of(self, key: str) -> Caller:
        """Whose key it is. Raises Unauthenticated for one that is empty, not known, or past its day."""
        if not key:
            raise Unauthenticated(
                "no API key: expected metadata x-api-key, or authorization with Bearer and the key",
                reason="KEY_MISSING",
            )
        digest = hashlib.sha256(key.encode("utf-8", "backslashreplace")).digest()
        known = self._known.get(digest)
        if known is None or not hmac.compare_digest(known.digest, digest):
            raise Unauthenticated("the API key is not known here", reason="KEY_UNKNOWN")
        if self._clock() >= known.expires_at:
            raise Unauthenticated("the API key has expired", reason="KEY_EXPIRED")
        return known.caller

    def caller_of_certificate(self, identities: tuple[str, ...]) -> Caller:
        """Who is known by one of the names in a certificate that the connection has verified, the first that is known.

        Raises Unauthenticated when none is known, or that one is past its day.
        """
        for name in identities:
            if (known := self._certified.get(name)) is not None:
                if self._clock() >= known.expires_at:
                    raise Unauthenticated("the certificate's entry has expired", reason="CERTIFICATE_EXPIRED")
                return known.caller
        raise Unauthenticated(
            "no name in the client's certificate is known here, and no API key or token came",
            reason="CERTIFICATE_UNKNOWN",
        )

    def __len__(self) -> int:
        return len(self._known)


def _known(entry: KeyEntry) -> _Known:
    return _Known(bytes.fromhex(entry.sha256), _caller(entry), entry.expires_at)


def _caller(entry: KeyEntry | CertificateEntry) -> Caller:
    models = None if "*" in entry.models else tuple(entry.models)
    return Caller(entry.caller, entry.tenant or entry.caller, frozenset(entry.scopes), models)

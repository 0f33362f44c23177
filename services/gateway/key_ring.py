"""Whose key is this?"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from typing import NamedTuple

from infermesh.call import Caller
from infermesh.errors import Unauthenticated
from services.gateway.keys import KeyEntry, KeysFile

__all__ = ["KeyRing"]


class _Known(NamedTuple):
    digest: bytes
    caller: Caller
    expires_at: float


class KeyRing:
    """The keys of a file by their digests, swapped whole while calls go on.

    A key is found by its SHA-256 and compared in constant time; nobody who guesses keys can choose how their digests begin, so
    finding tells nothing. A slow hash would add nothing: keys are random, not chosen by people.
    """

    def __init__(self, file: KeysFile, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock  # wall clock: keys expire on a day
        self._known: dict[bytes, _Known] = {}
        self.swap(file)

    def swap(self, file: KeysFile) -> None:
        """From now on these keys count, and no others."""
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

    def __len__(self) -> int:
        return len(self._known)


def _known(entry: KeyEntry) -> _Known:
    models = None if entry.models is None else tuple(entry.models)
    caller = Caller(entry.caller, entry.tenant or entry.caller, frozenset(entry.scopes), models)
    return _Known(bytes.fromhex(entry.sha256), caller, entry.expires_at)

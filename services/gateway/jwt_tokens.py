"""Whose token is this?"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from base64 import urlsafe_b64decode
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from jwt import PyJWS
from jwt.exceptions import InvalidSignatureError, PyJWTError

from infermesh.call import Call, Caller
from infermesh.errors import Unauthenticated, Unavailable
from services.gateway.jwks import KeySet, VerifyingKey
from services.gateway.jwt_claims import caller_in, expiry_in
from services.gateway.jwt_config import JwtConfig

__all__ = ["Tokens"]

MAX_TOKEN_BYTES = 8192
MAX_KID = 256
LONGEST_WAIT_S = 5.0  # of a call for keys to be fetched


class _Verified(NamedTuple):
    caller: Caller
    expires_at: float
    key: VerifyingKey


class Tokens:
    """Verifies JSON Web Tokens in JWS compact form, and remembers those that it has verified until they expire.

    What a token says of itself chooses nothing but one of our keys, by its id: the algorithm must be one of the pinned ones, and
    the key must be for it; keys and addresses in the header (`jwk`, `jku`, `x5u`, `x5c`) are not looked at, and one with critical
    extensions is refused (RFC 8725; RFC 7515, 4.1.11). A token is in no message.
    """

    def __init__(
        self,
        config: JwtConfig,
        keys: KeySet,
        *,
        newer: Callable[[], Awaitable[bool]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._keys = keys
        self._newer = newer
        self._clock = clock  # wall clock: the issuer's times are
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()
        self._algorithms = frozenset(config.algorithms)
        self._jws = PyJWS(list(config.algorithms))

    async def caller_of(self, token: str, call: Call) -> Caller:
        """Whose token it is. Raises Unauthenticated for one that is not good, Unavailable while no keys are known.

        A token whose key is not known waits for the keys to be fetched again, where that may be done now.
        """
        if len(token) > MAX_TOKEN_BYTES:  # before anything is made of it
            raise _refused("TOKEN_OVERSIZED", f"has more than {MAX_TOKEN_BYTES} bytes")
        digest = hashlib.sha256(token.encode("utf-8", "backslashreplace")).digest()
        known = self._verified.get(digest)
        if known is not None:
            if known.key.live and self._clock() < known.expires_at:
                self._verified.move_to_end(digest)
                return known.caller
            del self._verified[digest]
        algorithm, kid = self._header(token)
        key, claims = await self._verified_by(token, await self._candidates(kid, algorithm, call), algorithm)
        expires_at = expiry_in(claims, self._config, self._clock())
        caller = caller_in(claims, self._config)
        self._verified[digest] = _Verified(caller, expires_at, key)
        if len(self._verified) > self._config.max_cached:
            self._verified.popitem(last=False)
        return caller

    def __len__(self) -> int:
        """Tokens that are remembered."""
        return len(self._verified)

    def _header(self, token: str) -> tuple[str, str | None]:
        """Algorithm and key id. What else is wrong with the header, PyJWT says when it verifies."""
        try:
            encoded = token.partition(".")[0].encode("ascii")
            header = json.loads(urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4)))
        except (ValueError, RecursionError):
            raise _malformed() from None
        if not isinstance(header, dict):
            raise _malformed()
        if "crit" in header or "b64" in header:
            raise _refused("TOKEN_CRITICAL", "has critical extensions (crit), which are not taken here")
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise _refused("TOKEN_ALGORITHM", f"is signed otherwise than by {', '.join(self._config.algorithms)}")
        if kid is not None and (not isinstance(kid, str) or len(kid) > MAX_KID):
            raise _malformed()
        return algorithm, kid

    async def _candidates(self, kid: str | None, algorithm: str, call: Call) -> list[VerifyingKey]:
        """The keys, one or two, by which the token may be signed."""
        keys = self._keys.find(kid, algorithm)
        if not keys and self._newer is not None:
            try:
                async with asyncio.timeout(min(LONGEST_WAIT_S, max(0.0, call.deadline.remaining()))):
                    await self._newer()
            except TimeoutError:
                pass  # what is known by now counts
            keys = self._keys.find(kid, algorithm)
        if not keys:
            if not self._keys.is_loaded:
                raise Unavailable(
                    "the keys that tokens are verified by could not be fetched yet",
                    reason="JWKS_UNAVAILABLE",
                    rejected=True,
                    retry_after_s=1.0,
                )
            raise _refused("TOKEN_KEY_UNKNOWN", "is signed by a key (kid) that the issuer does not name")
        return keys

    async def _verified_by(
        self, token: str, keys: list[VerifyingKey], algorithm: str
    ) -> tuple[VerifyingKey, dict[str, Any]]:
        """The first of the keys by which the token is signed, and what it claims."""
        refusal: Unauthenticated | None = None
        for key in keys:
            try:
                if key.slow:
                    return key, await asyncio.to_thread(self._claims, token, key, algorithm)
                return key, self._claims(token, key, algorithm)
            except Unauthenticated as error:
                if error.reason != "TOKEN_SIGNATURE":
                    raise
                refusal = error
        assert refusal is not None  # there is a key
        raise refusal

    def _claims(self, token: str, key: VerifyingKey, algorithm: str) -> dict[str, Any]:
        try:
            payload = self._jws.decode_complete(token, key.key, [algorithm])["payload"]
            claims = json.loads(payload, object_pairs_hook=_distinct)
        except InvalidSignatureError:
            raise _refused("TOKEN_SIGNATURE", "has a signature that is not its issuer's") from None
        except (PyJWTError, ValueError, TypeError, RecursionError):
            raise _malformed() from None
        if not isinstance(claims, dict):
            raise _malformed()
        return claims


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """RFC 7519, 4: claim names are unique, or two readers may see two tokens."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found


def _malformed() -> Unauthenticated:
    return _refused("TOKEN_MALFORMED", "is no JSON Web Token")


def _refused(reason: str, what: str) -> Unauthenticated:
    return Unauthenticated(f"the token {what}", reason=reason)

"""The issuer's keys, by which tokens are verified (JWK set, RFC 7517)."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import get_default_algorithms
from jwt.exceptions import PyJWTError

from infermesh.config import ConfigError
from services.gateway.jwt_config import JwtConfig

__all__ = ["KeySet", "VerifyingKey", "read_jwks", "read_jwks_file"]

MAX_KEYS = 100
MAX_SAME_KID = 2  # that are tried for a token: the old key and the new one
MAX_JWKS_BYTES = 1 << 18
MIN_RSA_BITS = 2048  # RFC 7518, 3.3
SLOW_S = 0.0002  # to verify a signature; what takes longer does not run on the event loop
TRIES = 3

_ALGORITHMS = get_default_algorithms()
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_PRIVATE = ("d", "p", "q", "dp", "dq", "qi", "oth")
_SIGNATURE_BYTES = {"ES256": 64, "ES384": 96, "ES512": 132, "EdDSA": 64}


class VerifyingKey:
    """One key. `live` ends when the issuer withdraws it, and with it every token that it has verified."""

    __slots__ = ("algorithms", "identity", "key", "kid", "live", "slow")

    def __init__(self, kid: str, algorithms: frozenset[str], key: Any, identity: bytes, slow: bool) -> None:
        self.kid = kid
        self.algorithms = algorithms
        self.key = key
        self.identity = identity
        self.slow = slow
        self.live = True

    def __repr__(self) -> str:  # a shared key must not get into a log
        return f"VerifyingKey({self.kid!r}, {sorted(self.algorithms)})"


class KeySet:
    """The keys that count now, swapped whole while calls go on. None until the first swap."""

    def __init__(self) -> None:
        self._keys: list[VerifyingKey] = []
        self._by_kid: dict[str, list[VerifyingKey]] = {}
        self.is_loaded = False

    def swap(self, keys: Iterable[VerifyingKey]) -> None:
        """From now on these keys count. One that stays is the same object, so that what it has verified stays too."""
        known = {each.identity: each for each in self._keys}
        self._keys = [known.pop(each.identity, each) for each in keys]
        for gone in known.values():
            gone.live = False
        self._by_kid = {}
        for each in self._keys:
            self._by_kid.setdefault(each.kid, []).append(each)
        self.is_loaded = True

    def find(self, kid: str | None, algorithm: str) -> list[VerifyingKey]:
        """The keys of this id, for this algorithm; without an id, the only key there is for the algorithm.

        Ids should be distinct (RFC 7517, 4.5), and some issuers' are not while they change a key: of those the first few count.
        """
        if kid is not None:
            return [each for each in self._by_kid.get(kid, ()) if algorithm in each.algorithms][:MAX_SAME_KID]
        fitting = [each for each in self._keys if algorithm in each.algorithms]
        return fitting if len(fitting) == 1 else []

    def __len__(self) -> int:
        return len(self._keys)


def read_jwks(data: bytes, algorithms: Sequence[str], source: str) -> list[VerifyingKey]:
    """The keys of a JWK set that are good for the algorithms; others are left out, as RFC 7517, 5, asks.

    Blocks: each key is tried, to know how long it takes. Raises ConfigError for what is no such set, or has no key of use.
    """
    if len(data) > MAX_JWKS_BYTES:
        raise ConfigError(source, [f"expected at most {MAX_JWKS_BYTES} bytes of keys"])
    try:
        keys = json.loads(data)["keys"]
        if not isinstance(keys, list) or len(keys) > MAX_KEYS:
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(source, [f'expected a JWK set, {{"keys": […]}}, of at most {MAX_KEYS} keys']) from None
    found = [key for each in keys if isinstance(each, dict) and (key := _key(each, algorithms)) is not None]
    if not found:
        raise ConfigError(source, [f"none of its {len(keys)} keys is good for {', '.join(algorithms)}"])
    return found


def read_jwks_file(config: JwtConfig, file: Path) -> list[VerifyingKey]:
    """The keys of a file. Raises ConfigError, with nothing of what is in it."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_JWKS_BYTES + 1)
    except OSError as error:
        raise ConfigError(str(file), [f"can't be read: {error.strerror or error}"]) from None
    return read_jwks(data, config.algorithms, str(file))


def _key(jwk: Mapping[str, Any], pinned: Sequence[str]) -> VerifyingKey | None:
    fitting = _fitting(jwk, pinned)
    kid = jwk.get("kid", "")
    if not fitting or not isinstance(kid, str):
        return None
    public = {name: value for name, value in jwk.items() if name not in _PRIVATE}
    try:
        key: Any = _ALGORITHMS[fitting[0]].from_jwk(dict(public))
    except (PyJWTError, ValueError, TypeError, KeyError):
        return None
    if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        return None
    if isinstance(key, bytes):  # RFC 7518, 3.2: at least as long as the hash
        fitting = [each for each in fitting if len(key) * 8 >= int(each[2:])]
        if not fitting:
            return None
    identity = hashlib.sha256(json.dumps([public, fitting], sort_keys=True).encode()).digest()
    return VerifyingKey(kid, frozenset(fitting), key, identity, _is_slow(fitting, key))


def _fitting(jwk: Mapping[str, Any], pinned: Sequence[str]) -> list[str]:
    """Which of the pinned algorithms the key is for: by its type and curve, and by what it says itself."""
    operations = jwk.get("key_ops")
    if jwk.get("use", "sig") != "sig" or (isinstance(operations, list) and "verify" not in operations):
        return []
    kind, curve = jwk.get("kty"), jwk.get("crv")
    if kind == "RSA":
        able = [each for each in pinned if each[:2] in ("RS", "PS")]
    elif kind == "EC":
        able = [each for each in pinned if each == _CURVES.get(str(curve))]
    elif kind == "OKP" and curve == "Ed25519":
        able = [each for each in pinned if each == "EdDSA"]
    elif kind == "oct":
        able = [each for each in pinned if each[:2] == "HS"]
    else:
        able = []
    own = jwk.get("alg")
    return able if own is None else [each for each in able if each == own]


def _is_slow(algorithms: Sequence[str], key: Any) -> bool:
    if isinstance(key, bytes):
        return False
    slowest = 0.0
    for each in algorithms:
        size = key.key_size // 8 if isinstance(key, RSAPublicKey) else _SIGNATURE_BYTES[each]
        forged = b"\x01" * (size - 1) + b"\x00"  # numbers in range: verifying goes all the way
        took = []
        for _ in range(TRIES):
            started = time.perf_counter()
            _ALGORITHMS[each].verify(b"x" * 500, key, forged)
            took.append(time.perf_counter() - started)
        slowest = max(slowest, min(took))
    return slowest > SLOW_S

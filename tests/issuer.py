"""An issuer of JSON Web Tokens for tests: keys of every kind, and tokens that are good or forged."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

__all__ = ["AUDIENCE", "ISSUER", "NOW", "claims", "forged", "jwk", "jwks", "private", "public_pem", "token"]

ISSUER = "https://issuer.example"
AUDIENCE = "infermesh"
NOW = 1_800_000_000.0
CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}


@functools.cache
def private(algorithm: str = "RS256", number: int = 0) -> Any:
    """A private key for the algorithm; others for other numbers."""
    if algorithm in CURVES:
        return ec.generate_private_key(CURVES[algorithm])
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm.startswith("HS"):
        return hashlib.sha512(f"{algorithm}{number}".encode()).digest()
    return rsa.generate_private_key(65537, 2048)


def jwk(algorithm: str = "RS256", kid: str = "one", number: int = 0, **rest: Any) -> dict[str, Any]:
    """The key as an issuer publishes it."""
    key = private(algorithm, number)
    shown = key if isinstance(key, bytes) else key.public_key()
    made: dict[str, Any] = get_default_algorithms()[algorithm].to_jwk(shown, as_dict=True)
    made.pop("key_ops", None)
    return {**made, "kid": kid, **rest}


def jwks(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def claims(**rest: Any) -> dict[str, Any]:
    """Those of a good token, at NOW; None takes one out."""
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": NOW - 10, "exp": NOW + 600, "scope": "infer explain"}
    return {name: value for name, value in {**good, **rest}.items() if value is not None}


def token(
    algorithm: str = "RS256",
    kid: str | None = "one",
    number: int = 0,
    headers: dict[str, Any] | None = None,
    **rest: Any,
) -> str:
    """A token with these claims, as the issuer would sign it."""
    header = {"alg": algorithm, **({"kid": kid} if kid is not None else {}), **(headers or {})}
    signed = b".".join(_encoded(json.dumps(each).encode()) for each in (header, claims(**rest)))
    signature = get_default_algorithms()[algorithm].sign(signed, private(algorithm, number))
    return (signed + b"." + _encoded(signature)).decode()


def forged(header: dict[str, Any], payload: bytes, secret: bytes | None = None) -> str:
    """Any header and payload, with an HS256 signature by any secret, or none."""
    signed = b".".join(_encoded(each) for each in (json.dumps(header).encode(), payload))
    signature = hmac.new(secret, signed, hashlib.sha256).digest() if secret is not None else b""
    return (signed + b"." + _encoded(signature)).decode()


def public_pem(algorithm: str = "RS256") -> bytes:
    pem: bytes = (
        private(algorithm)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return pem


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")

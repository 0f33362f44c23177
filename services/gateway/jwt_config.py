"""The settings of JSON Web Tokens."""

from __future__ import annotations

import ipaddress
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from infermesh.config import ConfigPath, Duration, Model
from services.gateway.permission import Scope

__all__ = ["Algorithm", "ClaimsConfig", "JwtConfig", "may_fetch"]

Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512"
]


class ClaimsConfig(Model):
    """Where a token says who calls. A name is looked for as it is, then as a path: `realm_access.roles`."""

    caller: str = Field("sub", min_length=1)
    """Claim with the name of the caller."""
    tenant: str = ""
    """Claim with the tenant, which every token must have then; left out: the caller."""
    scopes: str = "scope"
    """Claim with what the caller may do: words parted by spaces, or a list; empty: every token has all of `grants`."""
    models: str = ""
    """Claim with the models that the caller may use: exact names or prefixes that end in `*`, a list or words parted by
    spaces; a token without it may use none then; left out: all."""


class JwtConfig(Model):
    """Which tokens are taken."""

    issuer: list[str] = Field(min_length=1)
    """Issuers (`iss`) that are taken, exactly as they write themselves."""
    audience: list[str] = Field(min_length=1)
    """Audiences (`aud`), one of which a token must be for."""
    algorithms: list[Algorithm] = Field(["RS256", "ES256"], min_length=1)
    """Algorithms that are taken, whatever a token says of itself; never both with public keys and with shared ones (HS)."""
    jwks_url: str = ""
    """Where the issuer's keys are fetched (JWK set, RFC 7517): https, or http on this machine."""
    jwks_ca: ConfigPath | None = None
    """PEM file of roots for that address; left out: those that the system trusts."""
    jwks_file: ConfigPath | None = None
    """File of keys instead, in the same form; changes are taken over while the gateway runs."""
    refresh: Duration = Field("10m", ge=1)  # type: ignore[assignment]
    """How often the keys are fetched."""
    refetch: Duration = Field("30s", ge=1)  # type: ignore[assignment]
    """For a key that is not known they are fetched at once, but not twice within this time."""
    timeout: Duration = Field("5s", gt=0, le=60)  # type: ignore[assignment]
    """How long fetching may take."""
    leeway: Duration = Field("30s", le=300)  # type: ignore[assignment]
    """How far the issuer's clock may be off."""
    max_lifetime: Duration = Field("24h", gt=0)  # type: ignore[assignment]
    """Longest time from issue to expiry; longer tokens are refused."""
    require_iat: bool = True
    """Whether a token must say when it was issued (`iat`); of one that does not, `max_lifetime` bounds what is left of it."""
    claims: ClaimsConfig = ClaimsConfig()
    scope_prefix: str = ""
    """Scopes of tokens count with this prefix alone, as in `infermesh:infer`."""
    grants: list[Scope] = ["infer", "explain"]
    """Scopes that a token can give at most."""
    caller_prefix: str = "jwt:"
    """Put before the caller's name (and before a tenant that is the caller), so that no token gives the name of a caller of
    the keys file."""
    required: dict[str, list[str]] = {}
    """Claims that a token must have, each with one of these values; an empty list: any."""
    max_cached: int = Field(10_000, ge=1)
    """Verified tokens that are kept until they expire; past it the one that was not used for longest goes."""

    @field_validator("issuer", "audience", mode="before")
    @classmethod
    def _one_or_more(cls, given: object) -> object:
        return [given] if isinstance(given, str) else given

    @field_validator("algorithms")
    @classmethod
    def _one_kind(cls, algorithms: list[Algorithm]) -> list[Algorithm]:
        if len({each.startswith("HS") for each in algorithms}) > 1:
            raise ValueError("expected algorithms with public keys or with shared ones (HS), not both")
        return algorithms

    @field_validator("jwks_url")
    @classmethod
    def _safe(cls, url: str) -> str:
        if url and not may_fetch(url):
            raise ValueError("expected an https address, or http on this machine, without a user or password in it")
        return url

    @model_validator(mode="after")
    def _one_source(self) -> JwtConfig:
        if bool(self.jwks_url) == (self.jwks_file is not None):
            raise ValueError("expected `jwks_url` or `jwks_file`, one of them")
        if self.jwks_url and self.algorithms[0].startswith("HS"):
            raise ValueError("algorithms: shared keys (HS) come from a `jwks_file` alone")
        return self


def may_fetch(url: str) -> bool:
    """Whether keys may come from there: nobody on the way could change them, and no credentials are in the address."""
    try:
        parts = urlsplit(url)
        if not parts.hostname or parts.username is not None or parts.password is not None:
            return False
        _ = parts.port  # raises for what is no port
    except ValueError:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_here(parts.hostname))


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""From the claims of a verified token to its caller (RFC 7519, 4.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

from infermesh.call import Caller
from infermesh.errors import Unauthenticated
from services.gateway.jwt_config import JwtConfig
from services.gateway.permission import Scope

__all__ = ["caller_in", "expiry_in"]

MAX_NAME = 128  # as in the keys file
MAX_MODELS = 1000
LATEST = 1e11  # seconds; a time past it is none

_SCOPES = frozenset(get_args(Scope))

Claims = Mapping[str, Any]


def expiry_in(claims: Claims, config: JwtConfig, now: float) -> float:
    """From when on the token is refused, leeway included. Raises Unauthenticated for one that is refused now, by its times,
    its issuer or its audience."""
    expires_at = _time(claims, "exp")
    if expires_at is None:
        raise _refused("TOKEN_CLAIMS", "has no expiry (exp)")
    issued_at, begins_at = _time(claims, "iat"), _time(claims, "nbf")
    if issued_at is None and config.require_iat:
        raise _refused("TOKEN_CLAIMS", "does not say when it was issued (iat)")
    if claims.get("iss") not in config.issuer:
        raise _refused("TOKEN_ISSUER", "comes from an issuer (iss) that is not taken here")
    audience = claims.get("aud")
    if not any(each in config.audience for each in ([audience] if isinstance(audience, str) else _texts(audience))):
        raise _refused("TOKEN_AUDIENCE", "is for another audience (aud)")
    if now >= expires_at + config.leeway:
        raise _refused("TOKEN_EXPIRED", "has expired (exp)")
    if max(begins_at or 0.0, issued_at or 0.0) > now + config.leeway:
        raise _refused("TOKEN_NOT_YET_VALID", "is not valid yet (nbf, iat)")
    if expires_at - (now if issued_at is None else issued_at) > config.max_lifetime + config.leeway:
        raise _refused("TOKEN_LIFETIME", "is valid for longer than is taken here (exp, iat)")
    return expires_at + config.leeway


def caller_in(claims: Claims, config: JwtConfig) -> Caller:
    """Who calls, and what it may do. Raises Unauthenticated for a token that does not say what it must."""
    for name, values in config.required.items():
        found = _claim(claims, name)
        given = found if isinstance(found, list) else [found]
        if found is None or (values and not any(isinstance(each, str) and each in values for each in given)):
            raise _refused("TOKEN_CLAIMS", f"does not have the claim {name} as it is required here")
    names = config.claims
    caller = config.caller_prefix + _name(claims, names.caller)
    tenant = _name(claims, names.tenant) if names.tenant else caller
    models = None if not names.models else tuple(m for m in _words(_claim(claims, names.models)) if _is_model(m))
    if models is not None and len(models) > MAX_MODELS:
        raise _refused("TOKEN_CLAIMS", f"names more than {MAX_MODELS} models in {names.models}")
    return Caller(caller, tenant, _scopes(claims, config), models)


def _scopes(claims: Claims, config: JwtConfig) -> frozenset[str]:
    if not config.claims.scopes:
        return frozenset(config.grants)
    prefix = config.scope_prefix
    words = _words(_claim(claims, config.claims.scopes))
    given = {each[len(prefix) :] for each in words if each.startswith(prefix)}
    return _SCOPES.intersection(given, config.grants)


def _name(claims: Claims, name: str) -> str:
    value = _claim(claims, name)
    if not isinstance(value, str) or not value or len(value) > MAX_NAME or not value.isprintable():
        raise _refused("TOKEN_CLAIMS", f"does not have the claim {name}: expected 1 to {MAX_NAME} printable characters")
    return value


def _claim(claims: Claims, name: str) -> Any:
    """A claim by its name, which may have dots as in an address, or by a path of names; None: it is not there."""
    if name in claims:
        return claims[name]
    value: Any = claims
    for part in name.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def _words(value: Any) -> list[str]:
    return value.split() if isinstance(value, str) else _texts(value)


def _texts(value: Any) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _is_model(name: str) -> bool:
    return bool(name) and "*" not in name[:-1]


def _time(claims: Claims, name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < LATEST or math.isnan(value):
        raise _refused("TOKEN_CLAIMS", f"has no number of seconds as {name}")
    return float(value)


def _refused(reason: str, what: str) -> Unauthenticated:
    return Unauthenticated(f"the token {what}", reason=reason)

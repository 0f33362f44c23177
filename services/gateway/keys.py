"""The models of the keys file: who has an API key or a certificate, and what it is good for. It holds digests, never keys."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from typing import Annotated, Any

from pydantic import AwareDatetime, BeforeValidator, Field, field_validator

from infermesh.config import Identity, Model
from services.gateway.permission import Scope

__all__ = ["CertificateEntry", "KeyEntry", "KeysFile"]

_DIGEST = re.compile(r"[0-9a-fA-F]{64}")


class _Hidden:
    """A value that no message repeats: whoever mistakes the digest for the key must not find the key in a log."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "(not shown)"


def _digest(given: object) -> str:
    value = given.value if isinstance(given, _Hidden) else given
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return value.lower()
    raise ValueError("expected the SHA-256 of the key as 64 hexadecimal digits, as `infermesh keys new` prints it")


class _Entry(Model):
    """What somebody is good for."""

    caller: str = Field(min_length=1, max_length=128)
    """Who uses it; appears in logs and metrics."""
    tenant: str = Field("", max_length=128)
    """On whose behalf the caller acts, as every hop is told; left out: the caller."""
    scopes: list[Scope] = ["infer", "explain"]
    """What it may do: `infer`, `explain`, `admin` (load and unload models), `variant` (choose one by metadata)."""
    models: list[str] | None = None
    """Models that it may use: exact names, or prefixes that end in `*`; left out: all."""
    expires: date | AwareDatetime | None = None
    """From this day (midnight UTC) or moment on it is refused; left out: never."""

    @field_validator("models")
    @classmethod
    def _names(cls, models: list[str] | None) -> list[str] | None:
        wrong = [model for model in models or () if not model or "*" in model[:-1]]
        if wrong:
            raise ValueError("expected names of models, or prefixes that end in `*`")
        return models

    @property
    def expires_at(self) -> float:
        """Seconds of the wall clock from which it is refused."""
        if self.expires is None:
            return float("inf")
        if isinstance(self.expires, datetime):
            return self.expires.timestamp()
        return datetime.combine(self.expires, time(), UTC).timestamp()


class KeyEntry(_Entry):
    """One key. A caller may have several, to change them without a gap; rate limits are the caller's, not the key's."""

    sha256: Annotated[str, BeforeValidator(_digest)]
    """SHA-256 of the key, in hexadecimal."""


class CertificateEntry(_Entry):
    """One name in clients' certificates (mutual TLS: `server.tls.client_ca`)."""

    identity: Identity
    """`uri:` or `dns:` and a subject alternative name, or `cn:` and the subject's common name, whole: no patterns.
    Of a certificate with several known names a URI counts first, then a DNS name, then the common name."""


class KeysFile(Model):
    """Everybody that the gateway knows by a key or a certificate."""

    keys: list[KeyEntry]
    """The keys; with an empty list nobody gets in by one."""
    certificates: list[CertificateEntry] = []
    """Callers by the names in their certificates; left out: a certificate alone lets nobody in."""

    @field_validator("keys", mode="before")
    @classmethod
    def _hide(cls, keys: object) -> object:
        if not isinstance(keys, list):
            return _Hidden(keys)
        return [
            {**entry, "sha256": _Hidden(entry["sha256"])}
            if isinstance(entry, dict) and "sha256" in entry
            else entry
            if isinstance(entry, dict | KeyEntry)
            else _Hidden(entry)
            for entry in keys
        ]

    @field_validator("keys")
    @classmethod
    def _distinct(cls, keys: list[KeyEntry]) -> list[KeyEntry]:
        seen: dict[str, str] = {}
        twice = [f"{k.caller} and {seen[k.sha256]}" for k in keys if seen.setdefault(k.sha256, k.caller) != k.caller]
        if twice or len(seen) < len(keys):
            whose = f" ({', '.join(twice)})" if twice else ""
            raise ValueError(f"expected every key once: the same digest stands twice{whose}")
        return keys

    @field_validator("certificates")
    @classmethod
    def _one_caller_each(cls, certificates: list[CertificateEntry]) -> list[CertificateEntry]:
        seen: set[str] = set()
        for each in certificates:
            name = each.identity.lower() if each.identity.startswith("dns:") else each.identity
            if name in seen:
                raise ValueError(f"expected every identity once: {each.identity} stands twice")
            seen.add(name)
        return certificates

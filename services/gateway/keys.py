"""The models of the keys file: who has an API key or a certificate, and what it is good for. It holds digests, never keys.

What an entry leaves out it gets by default, which may be more than it was meant to have; so no part of a file may pass for the
whole: see `KeysFile.fault_of_text`.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from typing import Annotated, Any, Literal

import yaml
from pydantic import AwareDatetime, BeforeValidator, Field, field_validator

from infermesh.config import Identity, Model
from services.gateway.permission import Scope

__all__ = ["CertificateEntry", "KeyEntry", "KeysFile"]

_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_END = re.compile(r"\.\.\.[ \t]*(#.*)?")
_DATED = re.compile(r"\d{4}-\d\d-\d\d")


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


def _day(given: object) -> object:
    if isinstance(given, date) or (isinstance(given, str) and (given == "never" or _DATED.match(given))):
        return given
    # To pydantic 2030, quoted too, would be seconds after 1970; and nothing at all is what is left of a line that was cut off.
    raise ValueError("expected a day such as 2030-01-31, a moment with its offset, or `never`")


class _Entry(Model):
    """What somebody is good for."""

    caller: str = Field(min_length=1, max_length=128)
    """Who uses it; appears in logs and metrics."""
    tenant: str = Field("", max_length=128)
    """On whose behalf the caller acts, as every hop is told; left out: the caller."""
    scopes: list[Scope] = ["infer", "explain"]
    """What it may do: `infer`, `explain`, `admin` (load and unload models), `variant` (choose one by metadata)."""
    models: list[str] = ["*"]
    """Models that it may use: exact names, or prefixes that end in `*`; `*` alone: all."""
    expires: Annotated[date | AwareDatetime | Literal["never"], BeforeValidator(_day)] = "never"
    """From this day (midnight UTC) or moment on it is refused."""

    @field_validator("models")
    @classmethod
    def _names(cls, models: list[str]) -> list[str]:
        wrong = [model for model in models if not model or "*" in model[:-1]]
        if wrong:
            raise ValueError("expected names of models, or prefixes that end in `*`")
        return models

    @property
    def expires_at(self) -> float:
        """Seconds of the wall clock from which it is refused."""
        if self.expires == "never":
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

    @field_validator("identity")
    @classmethod
    def _whole(cls, identity: str) -> str:
        if "*" in identity:  # it would be taken by its letters, and let in nobody that was meant
            raise ValueError("expected one whole name: `*` stands for nothing here")
        return identity


class KeysFile(Model):
    """Everybody that the gateway knows by a key or a certificate."""

    keys: list[KeyEntry]
    """The keys; with an empty list nobody gets in by one."""
    certificates: list[CertificateEntry] = []
    """Callers by the names in their certificates; left out: a certificate alone lets nobody in."""

    @classmethod
    def fault_of_text(cls, text: str) -> str:
        """What is wrong with a file that can't show that it is whole; empty: nothing.

        Of a file that is still being written, or whose writer died, a reader may see any beginning, and the last entry in it may
        lack what keeps it in bounds: its models, scopes or expiry, or the end of a name. An entry in braces can't be cut without
        a fault of YAML's; behind one that is not, the end of the file has to be said. What else is cut off grants nothing.
        """
        if _END.fullmatch(text.rstrip().rpartition("\n")[2]):
            return ""
        root = yaml.compose(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if not isinstance(root, yaml.MappingNode) or root.flow_style or not root.value:
            return ""
        entries = root.value[-1][1]
        if not isinstance(entries, yaml.SequenceNode) or entries.flow_style:
            return ""
        if not isinstance(entries.value[-1], yaml.MappingNode) or entries.value[-1].flow_style:
            return ""  # something that is no entry is a fault of its own
        return (
            f"{root.value[-1][0].value}: the last entry may have been cut off; expected it in braces, `- {{…}}`, or the line "
            "`...` at the end of the file"
        )

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

"""Who is on the other side of a connection: the names in a client's certificate."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

__all__ = ["Patterns", "names_in"]

MAX_NAMES = 64  # of one certificate
MAX_NAME = 512
MAX_KNOWN = 1024  # certificates whose match is remembered

# By the kind of the name, as grpc sorts them: an e-mail address that reads like a URI is none.
_KINDS = (("uri:", "peer_uri"), ("dns:", "peer_dns"), ("cn:", "x509_common_name"))
_PART = {"uri": "[^/]+", "dns": "[^.]+", "cn": "[^.]+"}


def names_in(auth_context: Mapping[str, Iterable[bytes]]) -> tuple[str, ...]:
    """The names of the peer as `uri:…`, `dns:…` and `cn:…`, URIs first; none without a client's certificate.

    grpc fills the properties from a certificate that it has verified, and from nothing else.
    """
    names: list[str] = []
    for prefix, property_name in _KINDS:
        for value in auth_context.get(property_name, ()):
            name = value.decode("utf-8", "replace")
            if len(name) <= MAX_NAME and len(names) < MAX_NAMES:
                names.append(prefix + (name.lower() if prefix == "dns:" else name))
    return tuple(names)


class Patterns:
    """Names that are believed, by patterns in which `*` stands for one part of a name."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [_compiled(each) for each in patterns]
        self._known: dict[tuple[str, ...], bool] = {}

    def match(self, names: tuple[str, ...]) -> bool:
        """Whether one of the names is believed."""
        known = self._known.get(names)
        if known is None:
            known = any(pattern.fullmatch(name) for pattern in self._patterns for name in names)
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[names] = known
        return known


def _compiled(pattern: str) -> re.Pattern[str]:
    kind, _, name = pattern.partition(":")
    if kind == "dns":
        name = name.lower()
    return re.compile(re.escape(f"{kind}:") + _PART[kind].join(map(re.escape, name.split("*"))))

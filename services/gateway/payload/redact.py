"""Which values of a record are hidden, and how."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

__all__ = ["REDACTED", "Redaction"]

REDACTED = "REDACTED"
MAX_KNOWN = 10_000  # names whose rule is kept in mind


class Redaction:
    """`rules` are `{"name": glob, "how": mask | hash | keep}`; the first that fits a tensor's name counts, none: `keep`. Case
    does not count, and a name that can't be printed is masked: a caller must not get by a rule with another spelling.

    A hash is HMAC-SHA-256 (RFC 2104) keyed with the salt, of the value as text: a number as JSON writes it, BYTES as they are. So
    an id hashes alike as INT64 and as BYTES, in inputs and in outputs.
    """

    def __init__(self, rules: Sequence[Mapping[str, str]], salt: bytes) -> None:
        self._rules = [(each["name"], each["how"]) for each in rules]
        self._salt = salt
        self._known: dict[str, str] = {}

    def hide(self, tensors: list[dict[str, Any]]) -> None:
        """Replace the data of those that are to be hidden, and say so in `redacted`."""
        if not self._rules:
            return
        for tensor in tensors:
            how = self._how(tensor["name"])
            if how == "keep" or "data" not in tensor:
                continue
            tensor["data"] = REDACTED if how == "mask" else [self._hashed(each) for each in tensor["data"]]
            tensor["redacted"] = how

    def _how(self, name: str) -> str:
        how = self._known.get(name)
        if how is None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            written = name.casefold()
            fits = (how for pattern, how in self._rules if fnmatchcase(written, pattern.casefold()))
            how = next(fits, "keep") if name.isprintable() else "mask"
            self._known[name] = how
        return how

    def _hashed(self, value: object) -> str:
        text = value if isinstance(value, str) else json.dumps(value)
        return hmac.digest(self._salt, text.encode(), "sha256").hex()

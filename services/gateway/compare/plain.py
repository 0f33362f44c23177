"""Numbers and texts as they are kept: JSON has no NaN, and what an answer says may be long."""

from __future__ import annotations

import math
import zlib

from infermesh.errors import quoted

__all__ = ["label_key", "number", "short"]

_LABEL = 48  # characters


def number(value: float) -> float | str:
    """A number that JSON has, or the text of one that it has not; `float` reads both."""
    return value if math.isfinite(value) else str(value)


def short(value: object) -> str:
    """A value of an answer in at most some 70 characters."""
    if isinstance(value, str | bytes):
        return quoted(value)
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def label_key(value: object) -> str:
    """What a label is counted under: its text, or of a long one its beginning and a checksum."""
    if isinstance(value, bytes):
        text = value[: _LABEL + 1].decode("utf-8", "backslashreplace")
        return text if len(value) <= _LABEL else f"{text[:_LABEL]}… {zlib.crc32(value):08x}"
    return str(value)

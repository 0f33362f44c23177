"""Types of configuration values that carry their unit: durations and sizes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, PlainSerializer, ValidationInfo, WithJsonSchema

__all__ = ["OFF", "ConfigPath", "Duration", "Mode", "Size", "duration_text", "from_file", "size_text"]

OFF = BeforeValidator(lambda value: "off" if value is False else value)  # YAML 1.1 reads a bare `off` as false
Mode = Annotated[Literal["off", "observe", "enforce"], OFF]  # of a policy; observe counts what enforce would refuse

_DURATION_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_QUANTITY = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([A-Za-z]+)\s*")


def duration_text(seconds: float) -> str:
    """The shortest text for a duration in seconds: `250ms`, `5s`, `2m`."""
    for unit, factor in reversed(_DURATION_UNITS.items()):
        value = seconds / factor
        if value >= 1 and abs(value - round(value)) < 1e-9:
            return f"{round(value)}{unit}"
    return f"{seconds:g}s"


def size_text(size_bytes: int) -> str:
    """The shortest text for a size in bytes: `64MiB`, `512B`."""
    for unit in ("GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % _SIZE_UNITS[unit] == 0:
            return f"{size_bytes // _SIZE_UNITS[unit]}{unit}"
    return f"{size_bytes}B"


def _duration(value: object) -> float:
    if isinstance(value, _Seconds):
        return value
    if isinstance(value, str) and (match := _QUANTITY.fullmatch(value)) and match[2] in _DURATION_UNITS:
        return _Seconds(float(match[1]) * _DURATION_UNITS[match[2]])
    if isinstance(value, str) and value.strip() == "0":
        return _Seconds(0.0)
    raise ValueError('expected a duration with its unit, such as "250ms", "5s" or "2m"')


def _size(value: object) -> int:
    if isinstance(value, _Bytes):
        return value
    if isinstance(value, str) and (match := _QUANTITY.fullmatch(value)) and match[2] in _SIZE_UNITS:
        return _Bytes(float(match[1]) * _SIZE_UNITS[match[2]])
    raise ValueError('expected a size with its unit, such as "64MiB" or "512KiB"')


class _Seconds(float):
    """A duration that has been checked; a bare number in a file is not one."""


class _Bytes(int):
    """A size that has been checked."""


Duration = Annotated[
    float,
    BeforeValidator(_duration),
    PlainSerializer(duration_text, return_type=str),
    WithJsonSchema({"type": "string", "format": "duration"}),
]
"""Seconds, written with a unit: us, ms, s, m, h, d. A bare number is refused: nobody can tell which unit was meant."""

Size = Annotated[
    int,
    BeforeValidator(_size),
    PlainSerializer(size_text, return_type=str),
    WithJsonSchema({"type": "string", "format": "size"}),
]
"""Bytes, written with a unit: B, KiB, MiB, GiB, kB, MB, GB."""


def from_file(path: object, info: ValidationInfo) -> object:
    """A path as it is meant in the configuration file that names it: the validator of `ConfigPath`."""
    base = (info.context or {}).get("base")
    return (
        base / path if base is not None and isinstance(path, str) else path
    )  # a default is a Path: it is not from there


ConfigPath = Annotated[Path, BeforeValidator(from_file)]
"""A file or folder. A relative path starts at the folder of the configuration file when there is one, also if a variable gives
it; without a file, and by default, at the working folder."""

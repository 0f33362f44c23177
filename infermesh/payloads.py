"""Reads what the payload log has written. The standard library alone: whoever has the files can read them.

for record in Payloads(folder, route="fraud"):
    record.version, record.inputs["amount"].values()
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["PATTERN", "SCHEMA", "Payloads", "Record", "Tensor"]

SCHEMA = 1
PATTERN = "payload-*.jsonl"

Value = float | int | bool | str | bytes

_FLOATS = ("FP16", "FP32", "FP64", "BF16")


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output. `data` is as it is in the file, flat, row by row; None where values were not logged."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] | None
    redacted: str = ""  # mask | hash

    def values(self) -> list[Value]:
        """Numbers, booleans, and for BYTES texts, or bytes where they are no UTF-8. Raises ValueError where there are none."""
        if self.data is None or self.redacted:
            raise ValueError(f"{self.name}: its values are not in the log")
        if self.datatype in _FLOATS:
            return [float(each) for each in self.data]
        return [base64.b64decode(each["base64"]) if isinstance(each, dict) else each for each in self.data]


@dataclass(frozen=True, slots=True)
class Record:
    """One call. `model` is the name that was asked for, `route` the model as its route names it."""

    time: str  # RFC 3339, UTC
    request_id: str
    model: str
    route: str
    answered: str
    version: str
    variant: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


class Payloads:
    """The records of a folder, the oldest first, of one route and version if they are named.

    Lines that are none are passed over and counted in `skipped`: the last one of a file may be torn, where its writer was killed.
    So are those of a schema that is not known. Files that are deleted meanwhile are passed over too.
    """

    def __init__(self, folder: Path, *, route: str = "", version: str = "") -> None:
        self.skipped = 0
        self._folder = folder
        self._route = route
        self._version = version

    def __iter__(self) -> Iterator[Record]:
        for file in sorted(self._folder.glob(PATTERN)):
            try:
                lines = file.open("rb")
            except FileNotFoundError:
                continue
            with lines:
                for line in lines:
                    record = self._read(line)
                    if record is not None:
                        yield record

    def _read(self, line: bytes) -> Record | None:
        try:
            fields = json.loads(line)
            if fields["schema"] != SCHEMA:
                raise ValueError
            if (self._route and fields["route"] != self._route) or (
                self._version and fields["version"] != self._version
            ):
                return None
            inputs, outputs = _tensors(fields["request"]["inputs"]), _tensors(fields["response"]["outputs"])
            return Record(
                time=str(fields["time"]),
                request_id=str(fields["request_id"]),
                model=str(fields["model"]),
                route=str(fields["route"]),
                answered=str(fields["answered"]),
                version=str(fields["version"]),
                variant=str(fields["variant"]),
                inputs=inputs,
                outputs=outputs,
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            self.skipped += 1
            return None


def _tensors(found: list[dict[str, Any]]) -> dict[str, Tensor]:
    return {
        each["name"]: Tensor(
            each["name"],
            each["datatype"],
            tuple(each["shape"]),
            data if isinstance(data := each.get("data"), list) else None,
            each.get("redacted", ""),
        )
        for each in found
    }

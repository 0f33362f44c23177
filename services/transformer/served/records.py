"""Reads back what the log of served features has written."""

from __future__ import annotations

import json
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from infermesh.tensors import DATATYPES, Array
from services.transformer.served.line import SCHEMA
from services.transformer.served.log import PREFIX

__all__ = ["Damage", "Record", "Tensor", "View", "files_of", "read_records"]

MAX_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Tensor:
    """Values by row, [N] or [N, …]; BYTES are `bytes` objects. `of` is the datatype that ids had on the wire."""

    datatype: str
    values: Array
    of: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """One view of a request: the event times of its groups in µs, and its features as they were served."""

    name: str
    schema: str
    event_times: Mapping[str, Tensor]
    features: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Record:
    """One request. `statuses` is [N, features], in the order of the views and their features."""

    served_at: datetime
    request_id: str
    model: str
    version: str
    variant: str
    tenant: str
    status: str
    rows: int
    entities: Mapping[str, Tensor]
    request: Mapping[str, Tensor]
    views: Mapping[str, View]
    statuses: Array
    inputs: Mapping[str, Tensor]


@dataclass
class Damage:
    """Lines that are no records, and where the first of them stand; and beside them the lines that have no end yet.

    The latter are being written, or what a process has left that was killed: who reads can't tell the one from the other.
    """

    lines: int = 0
    places: list[str] = field(default_factory=list)
    endless: list[str] = field(default_factory=list)  # one for a file at most

    def add(self, file: Path, number: int, why: str) -> None:
        self.lines += 1
        if len(self.places) < MAX_SHOWN:
            self.places.append(f"{file.name}, byte {number}: {why}")


def files_of(places: Sequence[Path]) -> list[Path]:
    """The files of the log: those that are named, and those in folders that are. Raises FileNotFoundError."""
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            found += sorted(place.glob(f"{PREFIX}-*.jsonl"))
        elif place.is_file():
            found.append(place)
        else:
            raise FileNotFoundError(f"{place}: there is no such file or folder")
    return list(dict.fromkeys(found))


def read_records(file: Path, offset: int, damage: Damage) -> Generator[tuple[Record | None, int], None, None]:
    """The records of a file from a byte on, each with the byte after it; None for a line that is none, which `damage` is told.

    A line without its end is not read: it may still be written. `damage` is told, and the next run reads it if its end has come.
    """
    with file.open("rb") as lines:
        lines.seek(offset)
        for line in lines:
            if not line.endswith(b"\n"):
                damage.endless.append(f"{file.name}, byte {offset}")
                return
            record = None
            try:
                record = _record(json.loads(line)) if line.strip() else None
            except (
                ValueError,
                KeyError,
                TypeError,
                AttributeError,
                OverflowError,
                RecursionError,
                Base64Error,
            ) as error:
                damage.add(file, offset, str(error) or type(error).__name__)
            offset += len(line)
            yield record, offset


def _record(fields: dict[str, Any]) -> Record:
    if fields["schema"] != SCHEMA:
        raise ValueError(f"schema {fields['schema']!r} is not known")
    rows = int(fields["rows"])
    views = {
        alias: View(
            str(each["view"]),
            str(each["schema"]),
            _tensors(each["event_times"], rows),
            _tensors(each["features"], rows),
        )
        for alias, each in fields["views"].items()
    }
    statuses = _tensor(fields["statuses"]).values
    if statuses.shape != (rows, sum(len(view.features) for view in views.values())):
        raise ValueError(f"statuses: got {statuses.shape}")
    return Record(
        served_at=datetime.fromtimestamp(fields["time_us"] / 1e6, UTC),
        request_id=str(fields["request_id"]),
        model=str(fields["model"]),
        version=str(fields["version"]),
        variant=str(fields["variant"]),
        tenant=str(fields["tenant"]),
        status=str(fields["status"]),
        rows=rows,
        entities=_tensors(fields["entities"], rows),
        request=_tensors(fields["request"], rows),
        views=views,
        statuses=statuses,
        inputs=_tensors(fields["inputs"], rows),
    )


def _tensors(found: Mapping[str, Any], rows: int) -> dict[str, Tensor]:
    """By name, each with a value for each row: what was sent once for all rows stands for each of them."""
    tensors = {}
    for name, each in found.items():
        tensor = _tensor(each)
        values = tensor.values
        if values.shape[:1] != (rows,):
            values = np.broadcast_to(values.reshape(1, *values.shape[1:]), (rows, *values.shape[1:]))
        tensors[name] = Tensor(tensor.datatype, values, tensor.of)
    return tensors


def _tensor(fields: Mapping[str, Any]) -> Tensor:
    datatype, shape = str(fields["datatype"]), [int(size) for size in fields["shape"]]
    raw = a2b_base64(fields["data"], strict_mode=True) if fields["data"] else b""
    if datatype == "BYTES":
        values: Array = np.empty(prod(shape), np.object_)
        values[:] = _unprefixed(raw)
    elif datatype == "BF16":  # the upper half of an FP32
        values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(raw, DATATYPES[datatype].dtype)
    return Tensor(datatype, values.reshape(shape), str(fields.get("of", "")))


def _unprefixed(raw: bytes) -> list[bytes]:
    texts, at = [], 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "little")
        texts.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    if at != len(raw):
        raise ValueError("a text without its end")
    return texts

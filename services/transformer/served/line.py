"""One request of the log as a line of JSON: tensors in OIP's raw form, so that no element costs anything on its own."""

from __future__ import annotations

import json
from binascii import b2a_base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from infermesh.protocol.open_inference_pb2 import ModelInferRequest
from infermesh.tensors import Array, read_inputs
from services.transformer.columns import Rows
from services.transformer.plan import Entities, JoinPlan
from services.transformer.schema import TEXT
from services.transformer.served.view_text import ViewText, prefixed
from services.transformer.use import Use

__all__ = ["SCHEMA", "ServedEntry", "line_of"]

SCHEMA = 1
MAX_NAME = 256  # characters of what callers and backends sent

_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode
_VIEWS: WeakKeyDictionary[Use, ViewText] = WeakKeyDictionary()  # two threads may make one twice, which is no harm


@dataclass(frozen=True, slots=True)
class ServedEntry:
    """One request, when its answer is on its way. Nothing in it changes any more; the line is made of it in a thread."""

    plan: JoinPlan
    entities: Entities
    rows: Mapping[str, Rows]  # what was served, after policies and overrides
    found: Sequence[bytes | None] | None  # what the store had said
    kept: bool  # and whether that was from the cache, the store being away
    joined: ModelInferRequest
    now_us: int
    request_id: str
    tenant: str
    variant: str
    version: str
    status: str

    @property
    def size_bytes(self) -> int:
        """About what it holds."""
        return sum(int(rows.nbytes) for rows in self.rows.values()) + self.joined.ByteSize()


def line_of(served: ServedEntry) -> bytes:
    """The line, with its newline."""
    plan, entities = served.plan, served.entities
    statuses = plan.statuses(entities, served.found, served.now_us, kept=served.kept)
    datatypes = {each.name: each.datatype for each in served.joined.inputs}
    fields = {
        "schema": SCHEMA,
        "time_us": served.now_us,
        "request_id": served.request_id[:MAX_NAME],
        "model": served.joined.model_name[:MAX_NAME],
        "version": served.version[:MAX_NAME],
        "variant": served.variant[:MAX_NAME],
        "tenant": served.tenant[:MAX_NAME],
        "status": served.status,
        "rows": entities.rows,
        "entities": {name: _texts(entities.ids[name], of) for name, of in plan.entities.items()},
        "request": {name: _tensor(array, plan.fields[name].datatype) for name, array in entities.fields.items()},
        "statuses": _tensor(statuses, "UINT8"),
        "inputs": {name: _tensor(array, datatypes[name]) for name, array in read_inputs(served.joined).items()},
    }
    views = b",".join([_text_of(use).of(served.rows[use.alias]) for use in plan.uses])
    return b'%b,"views":{%b}}\n' % (_encode(fields).encode("ascii")[:-1], views)


def _text_of(use: Use) -> ViewText:
    text = _VIEWS.get(use)
    if text is None:
        text = _VIEWS[use] = ViewText(use)
    return text


def _texts(ids: Sequence[bytes], datatype: str) -> dict[str, Any]:
    """Ids are texts here, whatever they were on the wire; `of` says what."""
    return {**_data(TEXT, [len(ids)], prefixed(ids)), "of": datatype}


def _tensor(array: Array, datatype: str) -> dict[str, Any]:
    if array.dtype == np.object_:
        return _data(datatype, list(array.shape), prefixed(array.ravel().tolist()))
    return _data(datatype, list(array.shape), np.ascontiguousarray(array).tobytes())


def _data(datatype: str, shape: list[int], raw: bytes) -> dict[str, Any]:
    return {"datatype": datatype, "shape": shape, "data": b2a_base64(raw, newline=False).decode("ascii")}

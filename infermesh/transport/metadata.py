"""Which metadata travels between hops, and how it becomes a `Call` and back.

From a caller at the edge every `x-infermesh-*` key is dropped, but its wishes; between hops of the mesh they are how one tells
the next. How many gateways there were is believed of anybody: a loop of them comes back in at the edge.
Credentials are read by the edge's filters and are never written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import getrandbits
from urllib.parse import quote, unquote

from infermesh.call import Call, Caller
from infermesh.deadline import NO_DEADLINE, Deadline

__all__ = [
    "ATTEMPT",
    "DEBUG",
    "GATEWAYS",
    "REQUEST_ID",
    "SHADOW",
    "TENANT",
    "VARIANT",
    "Metadata",
    "is_plain",
    "read_call",
    "write_call",
]

REQUEST_ID = "x-request-id"
TENANT = "x-infermesh-tenant"
VARIANT = "x-infermesh-variant"
SHADOW = "x-infermesh-shadow"
ATTEMPT = "x-infermesh-attempt"
GATEWAYS = "x-infermesh-gateways"
DEBUG = "x-infermesh-debug"

MESH_PREFIX = "x-infermesh-"
TRACE_KEYS = ("traceparent", "tracestate", "baggage")  # W3C Trace Context and Baggage
MAX_REQUEST_ID = 128
MAX_GATEWAYS = 99  # that are counted
MAX_BAGGAGE = 4096  # what we add must not push the metadata over grpc's 8 KiB, where the next hop would refuse the call

_WISHES = (VARIANT, DEBUG)
_TOLD = frozenset((TENANT, VARIANT, SHADOW, ATTEMPT))  # by one hop of the mesh to the next

Metadata = Sequence[tuple[str, str | bytes]]


def read_call(metadata: Metadata, time_remaining: float | None, peer: str, *, inside_mesh: bool) -> Call:
    """The Call of an RPC that came in. A request id is made when the caller sent none, or one that no log line should carry."""
    found: dict[str, str] = {}
    for key, value in metadata:
        if key not in found and type(value) is str:  # binary metadata is nothing that a filter reads
            found[key] = value
    request_id = found.get(REQUEST_ID, "")
    if not request_id or len(request_id) > MAX_REQUEST_ID or not is_plain(request_id):
        request_id = f"{getrandbits(64):016x}"  # an id and no secret: the system's randomness costs ten times as much
    call = Call(
        NO_DEADLINE if time_remaining is None or time_remaining == math.inf else Deadline.after(time_remaining),
        metadata=found,
        request_id=request_id,
        peer=peer,
    )
    if "traceparent" in found or "baggage" in found:
        call.trace = {key: found[key] for key in TRACE_KEYS if key in found and _travels(found[key])}
        if "traceparent" not in call.trace:
            call.trace.pop("tracestate", None)  # it means nothing without
    if GATEWAYS in found:
        gateways = found[GATEWAYS]
        call.gateways = min(int(gateways), MAX_GATEWAYS) if gateways.isdecimal() and len(gateways) < 4 else 0
    if inside_mesh:
        if not _TOLD.isdisjoint(found):
            tenant = found.get(TENANT)
            if tenant:
                call.caller = Caller(tenant=_decoded(tenant))
            call.variant = _decoded(found.get(VARIANT, ""))
            call.shadow = found.get(SHADOW) == "1"
            attempt = found.get(ATTEMPT, "")
            call.attempt = int(attempt) if attempt.isdecimal() and len(attempt) < 4 else 1
    else:
        call.gateways += 1  # this one: what stands at the edge
        call.trailing = {}  # only the edge tells its callers anything; hops inside the mesh pay one test for it
        for key in [key for key in found if key.startswith(MESH_PREFIX) and key not in _WISHES]:
            del found[key]  # what is left of them are wishes, which the gateway grants by scope
    return call


def write_call(call: Call) -> list[tuple[str, str]]:
    """The metadata for the next hop: what the mesh passes on, and nothing else that the caller sent."""
    metadata = [(REQUEST_ID, call.request_id)] if call.request_id else []
    if call.variant:
        metadata.append((VARIANT, _encoded(call.variant)))
    if call.caller.tenant:
        metadata.append((TENANT, _encoded(call.caller.tenant)))
    if call.shadow:
        metadata.append((SHADOW, "1"))
    if call.gateways:
        metadata.append((GATEWAYS, str(call.gateways)))
    if call.attempt > 1:
        metadata.append((ATTEMPT, str(call.attempt)))
    if call.trace:
        metadata.extend(call.trace.items())
    return metadata


def is_plain(text: str) -> bool:
    """Whether gRPC would send the text as metadata: printable ASCII. A client that is not gRPC can send us anything."""
    return text.isascii() and text.isprintable()


def _travels(value: str) -> bool:
    return len(value) <= MAX_BAGGAGE and is_plain(value)


def _encoded(name: str) -> str:
    """A name that an operator chose, as metadata can carry it: gRPC refuses a call whose metadata is not printable ASCII."""
    return name if is_plain(name) and "%" not in name else quote(name)


def _decoded(value: str) -> str:
    return unquote(value) if "%" in value else value

"""An entry as a line of JSON. Runs in the thread that writes, never on the call path.

Every line has every key, in one order; docs/audit.md tells what they mean. `SCHEMA` goes up when a key changes its meaning or
goes; keys may be added at the end without.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

from services.gateway.audit.entry import MAX_NAME, Entry

__all__ = ["SCHEMA", "line_of"]

SCHEMA = 1
MAX_ID = 128
MAX_SHADOWS = 16

_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-")
# ASCII alone: what a caller sent can neither end the line nor be taken for one by what reads U+2028 as the end of a line.
_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode


def line_of(entry: Entry) -> bytes:
    """The line, with its newline."""
    journal = entry.journal
    whole_s = entry.ended - journal.started
    trace = _TRACE.match(entry.trace.get("traceparent", ""))
    picked_for = journal.fallback_for
    fields = {
        "schema": SCHEMA,
        "time": _time(entry.wall - whole_s),
        "request_id": entry.request_id[:MAX_ID],
        "trace_id": trace[1] if trace else "",
        "rpc": journal.rpc,
        "caller": entry.caller.name[:MAX_NAME],
        "tenant": entry.caller.tenant[:MAX_NAME],
        "peer": entry.peer[:MAX_NAME],
        "model": entry.model,
        "route": entry.route,
        "alias": _is_alias(entry.model, entry.route),
        "picked": journal.picked,
        "picked_by": journal.picked_by,
        "answered": entry.answered[:MAX_NAME],
        "version": entry.version[:MAX_NAME],
        "variant": entry.variant[:MAX_NAME],
        "code": entry.code,
        "reason": entry.reason[:MAX_NAME],
        "hop": entry.hop[:MAX_NAME],
        "fallback": entry.fallback[:MAX_NAME],
        "fallback_for": {"code": picked_for[0], "reason": picked_for[1][:MAX_NAME]} if picked_for else None,
        "attempts": [
            {"backend": each.backend, "endpoint": each.endpoint[:MAX_NAME], "code": each.code, "ms": _ms(each.took_s)}
            for each in journal.attempts
        ],
        "shadowed": journal.shadows[:MAX_SHADOWS],
        "ms": {
            "admission": _ms(journal.admitted_at - journal.started if journal.admitted_at else whole_s),
            "wait": _ms(journal.waited_s),
            "backend": _ms(sum(each.took_s for each in journal.attempts)),
            "whole": _ms(whole_s),
        },
        "bytes": {"request": entry.request_bytes, "response": entry.response_bytes},
    }
    return _encode(fields).encode("ascii") + b"\n"


def _is_alias(model: str, route: str) -> bool:
    """Whether the model was asked for by another name of its route; one that falls under a prefix is asked for by its own."""
    return bool(route) and "*" not in route and model != route


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)

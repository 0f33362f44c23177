"""What callers of a server were told in a case, so that two engines can be held against each other."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf import text_format
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from infermesh.protocol import open_inference_pb2 as pb

__all__ = ["Heard", "Listener"]

# They are in the pool of descriptors by their import, without which details are printed as bytes.
DETAILS = error_details_pb2.DESCRIPTOR

SHOWN = 400  # bytes of an answer as text; its digest tells the rest
READ_BYTES = 100_000  # past this a message is compared as its bytes
END_S = 60.0  # a bound, far above what any case leaves under way

# What differs from call to call, on one engine too: ids, times and the ports that were free.
FLEETING = (
    (re.compile(r"\b[0-9a-f]{32}\b"), "<trace>"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"127\.0\.0\.1:\d+"), "<address>"),
    (re.compile(r"\b\d+(\.\d+)? ?(ms|s|us|µs)\b"), "<time>"),
    (re.compile(r"retry_delay \{[^}]*\}"), "retry_delay {<time>}"),
    (re.compile(r'"infermesh_milliseconds" value \{[^}]*\}'), '"infermesh_milliseconds" value {<time>}'),
)
FLEETING_METADATA = {"grpc-retry-pushback-ms", "x-ratelimit-remaining", "x-ratelimit-reset"}  # their names are compared
OF_THE_ENGINE = {
    "date"
}  # Envoy adds the time to every answer, as HTTP recommends (RFC 9110, 6.6.1), and has no switch for it


class Heard:
    """What was asked in the running case → every end that it had; order and number of calls count for nothing.

    `begin` starts a case; what is under way from an earlier one still goes to that.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.begin()

    def begin(self) -> None:
        with self._changed:
            self._ends: list[tuple[str, Callable[[], str]]] = []
            self._open: set[object] = set()

    def asked(self, what: str) -> Callable[[Callable[[], str]], None]:
        """A call begins; what is returned is to be told its end, once.

        By a function, since a callback of grpc's comes before everything about the call is there, and must not wait for it.
        """
        mark = object()
        with self._changed:
            ends, still_open = self._ends, self._open
            still_open.add(mark)

        def ended(how: Callable[[], str]) -> None:
            with self._changed:
                still_open.discard(mark)
                ends.append((what, how))
                self._changed.notify_all()

        return ended

    def all(self) -> dict[str, frozenset[str]]:
        """Waits for calls that are under way: what a caller has in its hands may not have been noted yet."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._open, END_S), f"{len(self._open)} calls have no end"
            ends, self._ends = self._ends, []
        found: dict[str, set[str]] = {}
        for what, how in ends:
            found.setdefault(what, set()).add(how())
        return {what: frozenset(each) for what, each in found.items()}


class Listener(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Notes every call of a channel, and changes none."""

    def __init__(self, heard: Heard) -> None:
        self._heard = heard

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        ended = self._heard.asked(_question(details, request))
        call = continuation(details, request)
        if hasattr(call, "add_done_callback"):  # else it was waited for
            call.add_done_callback(lambda done: ended(lambda: _outcome(done, details.method)))
        else:
            ended(lambda: _outcome(call, details.method))
        return call

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return _Stream(continuation(details, request), self._heard.asked(_question(details, request)))

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Iterator[Any]) -> Any:
        return _Stream(continuation(details, requests), self._heard.asked(_question(details, None)))


class _Stream:
    """A call with several answers, which its caller may also leave."""

    def __init__(self, call: Any, ended: Callable[[Callable[[], str]], None]) -> None:
        self._call = call
        self._answers: list[str] = []
        told = threading.Lock()  # by whichever of both ends comes first

        def end() -> None:
            if told.acquire(blocking=False):
                ended(lambda: "\n".join([*self._answers, _status(call)]))

        if not call.add_callback(end):
            end()

    def __iter__(self) -> _Stream:
        return self

    def __next__(self) -> Any:
        answer = next(self._call)
        self._answers.append(_told(answer))
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


def _question(details: Any, request: Any) -> str:
    keys = ", ".join(f"{key}={value}" for key, value in details.metadata or ())
    return f"{details.method} [{keys}] {_told(request)}"


def _outcome(call: Any, method: str) -> str:
    """Its status, and its answer if it has one; never raises."""
    if call.code() is not grpc.StatusCode.OK:
        return _status(call)
    answer = call.result()
    if isinstance(answer, bytes) and method.endswith("/ModelInfer"):  # maps have no order in bytes
        answer = pb.ModelInferResponse.FromString(answer)
    return f"{_status(call)} {_told(answer)}"


def _status(call: Any) -> str:
    first = _metadata(call.initial_metadata())
    return (
        f"{call.code()} {_lasting(call.details() or '')!r} first: {first} last: {_metadata(call.trailing_metadata())}"
    )


def _metadata(pairs: Any) -> str:
    return "; ".join(sorted(f"{key}={_value(key, value)}" for key, value in pairs or () if key not in OF_THE_ENGINE))


def _value(key: str, value: str | bytes) -> str:
    if key == "grpc-status-details-bin":
        status = status_pb2.Status.FromString(value)
        return _lasting(text_format.MessageToString(status, as_one_line=True))
    return "…" if key in FLEETING_METADATA else _lasting(str(value))


def _told(message: Any) -> str:
    """A message in one line: its beginning, and a digest where it is long."""
    if message is None:
        return ""
    if isinstance(message, pb.ModelStatisticsResponse):  # counts and times, of all cases before
        return f"statistics of {sorted((one.name, one.version) for one in message.model_stats)}"
    content = message.SerializeToString(deterministic=True) if isinstance(message, Message) else bytes(message)
    told = f"{type(message).__name__} of {len(content)} bytes"
    if len(content) <= READ_BYTES:
        shown = (
            text_format.MessageToString(message, as_one_line=True) if isinstance(message, Message) else repr(content)
        )
        content = _lasting(shown).encode()
        told = f"{type(message).__name__} {content[:SHOWN].decode('utf-8', 'replace')}"
    return f"{told} {hashlib.sha256(content).hexdigest()[:16]}"


def _lasting(text: str) -> str:
    for pattern, instead in FLEETING:
        text = pattern.sub(instead, text)
    return text

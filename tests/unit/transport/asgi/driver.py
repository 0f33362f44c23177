"""A host of ASGI applications that is driven by hand, and behaves as pyvoy does: its faults included.

`receive()` gives a future, which answers at once after the end of the body; `send()` gives what need not be awaited, but for a
part of the body that more follow. Bodies and headers are refused as pyvoy refuses them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from infermesh.transport.asgi.wire import Frames, frame, percent_decoded

__all__ = ["ClientDisconnected", "Exchange", "headers"]

Pairs = list[tuple[bytes, bytes]]

_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_NAME = re.compile(rb"[0-9a-z!#$%&'*+\-.^_`|~]+")


class ClientDisconnected(OSError):
    """As pyvoy names it."""


class _Done:
    """An awaitable that has nothing to wait for."""

    def __init__(self, error: BaseException | None = None) -> None:
        self._error = error

    def __await__(self) -> Any:
        if self._error is not None:
            raise self._error
        return iter(())


def headers(*more: tuple[bytes, bytes], content_type: bytes = b"application/grpc") -> Pairs:
    """What a client of grpcio sends."""
    return [
        (b"host", b"127.0.0.1:8001"),
        (b"content-type", content_type),
        (b"te", b"trailers"),
        (b"grpc-accept-encoding", b"identity, deflate, gzip"),
        (b"user-agent", b"grpc-python-asyncio/1.81.1 grpc-c/54.0.0 (linux; chttp2)"),
        *more,
    ]


class Exchange:
    """One request, whose parts come when the test says, and what was answered."""

    def __init__(self, path: str = "/t.T/Unary", *, heads: Pairs | None = None, **scope: Any) -> None:
        heads = headers() if heads is None else heads
        extensions = {"http.response.trailers": {}}
        self.scope: dict[str, Any] = {
            **{"type": "http", "http_version": "2", "method": "POST", "scheme": "http", "path": path},
            **{"headers": heads, "extensions": extensions, "client": ("127.0.0.1", 40000)},
            **scope,
        }
        self.sent: list[dict[str, Any]] = []
        self.is_slow = False  # whoever sends a part waits until `drain`
        self.is_patient = False  # after the end of the body the host answers when the caller goes, and not at once
        self.received = 0
        self.answered = asyncio.Event()  # something was sent
        self._parts: list[tuple[bytes, bool]] = []
        self._waiting: list[asyncio.Future[dict[str, Any]]] = []
        self._blocked: list[asyncio.Future[None]] = []
        self._half_closed = self._gone = False

    def feed(self, part: bytes, *, more: bool = True) -> Exchange:
        """A part of the request's body."""
        self._parts.append((part, more))
        self._serve()
        return self

    def message(self, data: bytes = b"", *, more: bool = False) -> Exchange:
        """A whole message of the request."""
        return self.feed(frame(data), more=more)

    def go(self) -> None:
        """The caller resets its stream."""
        self._gone = True
        self._serve()
        for each in self._blocked:
            each.set_exception(ClientDisconnected())

    def drain(self) -> None:
        """The caller reads."""
        self.is_slow = False
        for each in self._blocked:
            each.set_result(None)  # InvalidStateError for one that was cancelled, as with pyvoy

    def receive(self) -> asyncio.Future[dict[str, Any]]:
        self.received += 1
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._serve()
        return future

    def _serve(self) -> None:
        while self._waiting:
            if self._gone:
                event: dict[str, Any] = {"type": "http.disconnect"}
            elif self._parts:
                part, more = self._parts.pop(0)
                self._half_closed = not more
                event = {"type": "http.request", "body": part, "more_body": more}
            elif self._half_closed and not self.is_patient:
                event = {"type": "http.request", "body": b"", "more_body": False}
            else:
                return
            self._waiting.pop(0).set_result(event)  # InvalidStateError for one that was cancelled, as with pyvoy

    def send(self, event: dict[str, Any]) -> Any:
        if self._gone:
            return _Done(ClientDisconnected())
        kind = event["type"].removeprefix("http.response.")
        assert kind == self._expected(), f"expected {self._expected()}, got {kind}"
        if kind != "body":
            for name, value in event["headers"]:
                if not (_NAME.fullmatch(name) and _VALUE.fullmatch(value)):
                    raise ValueError("failed to parse header value")
        elif type(event["body"]) is not bytes:
            raise TypeError(f"{type(event['body'])} is not an instance of 'bytes'")
        self.sent.append(dict(event))
        self.answered.set()
        if kind == "body" and event["more_body"]:
            sending = asyncio.get_running_loop().create_future()
            if self.is_slow:
                self._blocked.append(sending)
            else:
                sending.set_result(None)
            return sending
        return _Done()

    def _expected(self) -> str:
        if not self.sent:
            return "start"
        last = self.sent[-1]
        if last["type"] == "http.response.trailers":
            return "nothing"
        if last["type"] == "http.response.body" and not last["more_body"]:
            return "trailers" if self.sent[0].get("trailers") else "nothing"
        return "body"

    async def run(self, application: Callable[..., Any]) -> Exchange:
        await application(self.scope, self.receive, self.send)
        return self

    @property
    def is_complete(self) -> bool:
        """Whether the host would end the stream by itself."""
        return self._expected() == "nothing"

    @property
    def head(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def tail(self) -> dict[bytes, bytes]:
        """What a client takes for trailing metadata: the trailers, or the head where there are none."""
        assert self.is_complete, self.sent
        return dict(self.sent[-1]["headers"]) if self.sent[0].get("trailers") else self.head

    @property
    def code(self) -> int:
        return int(self.tail[b"grpc-status"])

    @property
    def text(self) -> str:
        return percent_decoded(self.tail.get(b"grpc-message", b""))

    @property
    def messages(self) -> list[bytes]:
        frames, found = Frames(1 << 30), []
        for event in self.sent:
            if event["type"] == "http.response.body":
                frames.feed(event["body"])
                while (message := frames.take()) is not None:
                    found.append(message[1])
        assert frames.is_between
        return found

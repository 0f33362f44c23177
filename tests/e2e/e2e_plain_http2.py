"""A gRPC call as the bytes of HTTP/2 that `h2` makes of it: what a client does that has no library of gRPC."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events

__all__ = ["Answered", "PlainCaller"]

WAIT_S = 30.0
READ = 65_536

Pairs = Sequence[tuple[str, str]]


@dataclass
class Answered:
    """What came on a stream: headers, messages with their flag, trailers; `whole` when it was ended by the server."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    whole: bool = False
    reset: int | None = None

    @property
    def status(self) -> str:
        """Of gRPC: from the trailers, or from the headers of an answer that has no more."""
        return self.trailers.get("grpc-status", self.headers.get("grpc-status", "none"))

    @property
    def messages(self) -> list[bytes]:
        found, at = [], 0
        while at < len(self.body):
            flag, length = struct.unpack_from(">BI", self.body, at)
            assert flag == 0, "a compressed message, which nobody asked for"
            found.append(self.body[at + 5 : at + 5 + length])
            at += 5 + length
        return found


class PlainCaller:
    """One connection, in plain text. A context manager."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=WAIT_S)
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._h2.initiate_connection()
        self._authority = address
        self._flush()

    def call(self, path: str, *messages: bytes, metadata: Pairs = (), piece: int = 16_384) -> Answered:
        """Send the messages of one request, in frames of at most `piece` bytes, and read the answer to its end."""
        stream = self._h2.get_next_available_stream_id()
        head = [
            (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", self._authority),
            ("te", "trailers"), ("content-type", "application/grpc"), *metadata,
        ]  # fmt: skip
        self._h2.send_headers(stream, head)
        body = b"".join(b"\x00" + struct.pack(">I", len(message)) + message for message in messages)
        for at in range(0, len(body), piece):
            self._h2.send_data(stream, body[at : at + piece])
        self._h2.end_stream(stream)
        self._flush()
        return self._read(stream)

    def _read(self, stream: int) -> Answered:
        answered = Answered()
        while not answered.whole and answered.reset is None:
            data = self._socket.recv(READ)
            assert data, "the connection was closed"
            for event in self._h2.receive_data(data):
                if getattr(event, "stream_id", None) == stream:
                    self._take(event, answered)
            self._flush()
        return answered

    def _take(self, event: h2.events.Event, answered: Answered) -> None:
        match event:
            case h2.events.ResponseReceived():
                answered.headers = _texts(event.headers)
            case h2.events.TrailersReceived():
                answered.trailers = _texts(event.headers)
            case h2.events.DataReceived():
                answered.body += event.data
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                answered.whole = True
            case h2.events.StreamReset():
                answered.reset = int(event.error_code)
            case _:
                pass  # windows and settings

    def _flush(self) -> None:
        self._socket.sendall(self._h2.data_to_send())

    def __enter__(self) -> PlainCaller:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def _texts(headers: Sequence[tuple[str | bytes, str | bytes]]) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in headers}


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()

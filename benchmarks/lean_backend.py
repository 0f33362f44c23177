"""A backend at a tenth of the cost of `canned_backend`, for measuring what is fast: the same bytes for every ModelInfer.

python -m benchmarks.lean_backend RESPONSE_FILE PORT
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import hpack
import uvloop

from benchmarks.http2 import DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, Blocks, Wire, frame, messages
from benchmarks.load import METHOD

UNIMPLEMENTED = "12"


def block(*fields: tuple[str, str]) -> bytes:
    """A header block that stands for itself, whatever the connection's table holds: nothing of it is put there."""
    encoded: bytes = hpack.Encoder().encode([(name, value, True) for name, value in fields])
    return encoded


HEAD = (":status", "200"), ("content-type", "application/grpc")
ANSWER, OK, REFUSAL = block(*HEAD), block(("grpc-status", "0")), block(*HEAD, ("grpc-status", UNIMPLEMENTED))


class Answering(asyncio.Protocol):
    """One connection."""

    def __init__(self, response: bytes) -> None:
        self._message = messages(response)
        self._preface = len(PREFACE)  # bytes of it that are still to come
        self._wire, self._blocks = Wire(), Blocks()
        self._paths: dict[int, str] = {}  # of the calls whose requests are on their way

    def connection_made(self, transport) -> None:  # uvloop's are no asyncio.Transport
        self._transport = transport
        transport.write(self._wire.to_send())

    def data_received(self, data: bytes) -> None:
        if self._preface:
            skipped = min(self._preface, len(data))
            self._preface, data = self._preface - skipped, data[skipped:]
        try:
            events = self._wire.received(data)
        except ConnectionError:  # it says that it goes
            self._transport.close()
            return
        for kind, stream, payload, last in events:
            if kind == HEADERS:
                self._paths[stream] = self._blocks.read(payload)[":path"]
            if last:
                path = self._paths.pop(stream, "")
                if kind in (HEADERS, DATA):
                    self._answer(stream, path)
        if out := self._wire.to_send():
            self._transport.write(out)

    def _answer(self, stream: int, path: str) -> None:
        if path != METHOD:
            self._wire.send(0, frame(HEADERS, END_HEADERS | END_STREAM, stream, REFUSAL))
            return
        self._wire.send(
            len(self._message),
            frame(HEADERS, END_HEADERS, stream, ANSWER)
            + frame(DATA, 0, stream, self._message)
            + frame(HEADERS, END_HEADERS | END_STREAM, stream, OK),
        )


async def main(file: str, port: str) -> None:
    response = Path(file).read_bytes()  # noqa: ASYNC240  # before anything is served or sent
    server = await asyncio.get_running_loop().create_server(lambda: Answering(response), "127.0.0.1", int(port))
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*sys.argv[1:3]))

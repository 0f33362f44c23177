"""The load of `benchmarks.load` at a fifth of its cost, for servers that answer faster than gRPC's client can ask.

    python -m benchmarks.lean_load TARGET REQUESTS SECONDS IN_FLIGHT [KEY]

Arguments and the line that it prints are the same. One connection, one thread, a frame of each kind made once: the call's
metadata is what grpcio's client sends, and of an answer only its status is read. Messages up to a stream's first window.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections import Counter
from itertools import cycle
from pathlib import Path

from benchmarks.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    RST_STREAM,
    Blocks,
    Repeated,
    Wire,
    frame,
    messages,
)
from benchmarks.load import MAX_SECONDS, METHOD, TOLD, requests_of

READ_BYTES = 1 << 18
NOTHING_FOR_S = 10.0


class Caller:
    """A connection, and the calls that are under way on it."""

    def __init__(self, target: str, key: str) -> None:
        host, port = target.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), NOTHING_FOR_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wire, self._blocks = Wire(), Blocks()
        self._socket.sendall(PREFACE + self._wire.to_send())
        while not self._wire.settled:
            self._read()
        fields = [
            (":method", "POST"), (":scheme", "http"), (":path", METHOD), (":authority", target), ("te", "trailers"),
            ("content-type", "application/grpc"), ("user-agent", "infermesh-load"), ("grpc-timeout", "10S"),
            ("grpc-accept-encoding", "identity, deflate, gzip"), *([("x-api-key", key)] if key else ()),
        ]  # fmt: skip
        self._head = Repeated(fields, self._wire.table_bytes)
        self._stream = 1
        self._began: dict[int, float] = {}

    def prepare(self, request: bytes) -> list[bytes]:
        """Its DATA, in pieces that fit into frames. Raises ValueError for what does not fit into a stream's window."""
        message = messages(request)
        if len(message) > self._wire.stream_window:
            raise ValueError(f"a message of {len(message)} bytes is one for benchmarks.load")
        size = self._wire.frame_bytes
        return [message[at : at + size] for at in range(0, len(message), size)]

    def begin(self, pieces: list[bytes], now: float) -> None:
        """A call, sent with the next `answers`."""
        stream, self._stream = self._stream, self._stream + 2
        frames = [frame(HEADERS, END_HEADERS, stream, self._head.take())]
        frames += [frame(DATA, 0, stream, piece) for piece in pieces[:-1]]
        frames.append(frame(DATA, END_STREAM, stream, pieces[-1]))
        self._wire.send(sum(map(len, pieces)), b"".join(frames))
        self._began[stream] = now

    def answers(self) -> list[tuple[float, str]]:
        """Wait for something; when each call that has ended began, and what was wrong with its answer."""
        ended = []
        self._flush()
        for kind, stream, payload, last in self._read():
            fields = self._blocks.read(payload) if kind == HEADERS else {}
            if not last:
                continue
            status, message = fields.get("grpc-status"), fields.get("grpc-message", "")
            wrong = "" if status == "0" else f"status {status}: {message}"
            if kind == RST_STREAM:
                wrong = f"RST_STREAM {payload.hex()}"
            ended.append((self._began.pop(stream), wrong))
        return ended

    def _flush(self) -> None:
        if data := self._wire.to_send():
            self._socket.sendall(data)

    def _read(self) -> list[tuple[int, int, bytes, int]]:
        data = self._socket.recv(READ_BYTES)
        if not data:
            raise ConnectionError("the server has closed the connection")
        return self._wire.received(data)


def main(target: str, file: str, seconds: str, in_flight: str, key: str = "") -> None:
    if not target.startswith(("127.", "localhost:")):
        sys.exit("load goes to loopback only")
    caller = Caller(target, key)
    requests = cycle([caller.prepare(request) for request in requests_of(Path(file))])
    failed: Counter[str] = Counter()
    latencies: list[float] = []
    caller.begin(next(requests), 0.0)
    while not (first := caller.answers()):
        pass
    if first[0][1]:
        sys.exit(f"the first call failed: {first[0][1]}")
    used, began = time.process_time(), time.perf_counter()
    end = began + min(float(seconds), MAX_SECONDS)
    under_way = int(in_flight)
    for _ in range(under_way):
        caller.begin(next(requests), began)
    while under_way:
        ended = caller.answers()
        now = time.perf_counter()
        for started, wrong in ended:
            if wrong:
                failed[wrong] += 1
            else:
                latencies.append(now - started)
            if now < end:
                caller.begin(next(requests), now)
            else:
                under_way -= 1
    took, used = time.perf_counter() - began, time.process_time() - used
    latencies.sort()
    quantile = (
        {f"p{q}_ms": round(latencies[len(latencies) * q // 100] * 1000, 3) for q in (50, 99)} if latencies else {}
    )
    told = {"calls": len(latencies), "errors": failed.total(), "failed": dict(failed.most_common(TOLD))}
    print(json.dumps({**told, "seconds": took, "cpu_s": used, **quantile}))


if __name__ == "__main__":
    main(*sys.argv[1:])

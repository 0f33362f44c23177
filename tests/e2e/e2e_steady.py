"""A load that does not slow down when answers do, and knows how long each call took to end."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType

import grpc
from e2e_door import CALLER

from infermesh.protocol import open_inference_pb2 as pb

__all__ = ["SteadyLoad"]

METHOD = "/inference.GRPCInferenceService/ModelInfer"
MAX_UNDER_WAY = 512


class SteadyLoad:
    """Sends `rate` calls a second, of the requests in turn, each with the same deadline, from a thread of its own.

    `ended` counts calls by status, `late` has those that ended later than `slack_s` after their deadline, `texts` the first
    text of each status; `begun` is how many were sent. Past 512 calls under way none is sent, and `shed` counts it.
    """

    def __init__(
        self, address: str, requests: Sequence[pb.ModelInferRequest], *, rate: float, timeout_s: float, slack_s: float
    ) -> None:
        self.ended: Counter[str] = Counter()
        self.late: list[float] = []
        self.texts: dict[str, str] = {}
        self.begun = self.shed = self.in_a_row = 0
        self._address = address
        self._requests = itertools.cycle([each.SerializeToString() for each in requests])
        self._rate = rate
        self._timeout_s = timeout_s
        self._slack_s = slack_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> SteadyLoad:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        calls: set[asyncio.Task[None]] = set()
        async with grpc.aio.insecure_channel(self._address) as channel:
            infer = channel.unary_unary(METHOD)
            due = time.monotonic()
            while not self._stop.is_set():
                due += 1 / self._rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if len(calls) >= MAX_UNDER_WAY:
                    self.shed += 1
                    continue
                self.begun += 1
                call = asyncio.ensure_future(self._call(infer))
                calls.add(call)
                call.add_done_callback(calls.discard)
            if calls:
                await asyncio.wait(calls)

    async def _call(self, infer: grpc.aio.UnaryUnaryMultiCallable) -> None:
        began = time.monotonic()
        try:
            await infer(next(self._requests), timeout=self._timeout_s, metadata=CALLER)
            code = "OK"
            self.in_a_row += 1
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            self.texts.setdefault(code, str(error.details())[:300])
            self.in_a_row = 0
        took_s = time.monotonic() - began
        if took_s > self._timeout_s + self._slack_s:
            self.late.append(took_s)
        self.ended[code] += 1

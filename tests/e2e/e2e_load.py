"""A steady load in a thread of its own, which remembers how every call ended."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Sequence
from types import TracebackType

import grpc
from e2e_door import CALLER

from infermesh.protocol import open_inference_pb2 as pb

__all__ = ["Load"]

METHOD = "/inference.GRPCInferenceService/ModelInfer"
# As a client with several endpoints is set up: it balances, and leaves a replica whose health says NOT_SERVING (gRFC A17).
BALANCED = '{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}'


class Load:
    """Callers in a closed loop from entry to exit; `ended` counts calls by status, `failures` has the first texts.

    Several addresses are one target, balanced over as a client with a list of endpoints does.
    """

    def __init__(
        self, addresses: Sequence[str], request: pb.ModelInferRequest, *, callers: int = 8, timeout_s: float = 10.0
    ) -> None:
        self.ended: Counter[str] = Counter()
        self.failures: list[str] = []
        self._target = addresses[0] if len(addresses) == 1 else f"ipv4:{','.join(addresses)}"
        self._request = request.SerializeToString()
        self._callers = callers
        self._timeout_s = timeout_s
        self._stop = threading.Event()
        self._progress = threading.Condition()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for(self, more: int, timeout_s: float = 60.0) -> None:
        """Return when so many more calls have ended."""
        with self._progress:
            target = self.ended.total() + more
            if not self._progress.wait_for(lambda: self.ended.total() >= target, timeout_s):
                raise AssertionError(f"{more} more calls did not end within {timeout_s:g} s: {self.ended}")

    async def _run(self) -> None:
        # A connection of its own, beside other loads of the process.
        options = [("grpc.service_config", BALANCED), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self._target, options=options) as channel:
            await asyncio.gather(*(self._caller(channel.unary_unary(METHOD)) for _ in range(self._callers)))

    async def _caller(self, infer: grpc.aio.UnaryUnaryMultiCallable) -> None:
        while not self._stop.is_set():
            try:
                await infer(self._request, timeout=self._timeout_s, metadata=CALLER)
                code = "OK"
            except grpc.aio.AioRpcError as error:
                code = error.code().name
                self.failures.append(f"{code}: {error.details()}"[:300])
                await asyncio.sleep(0.01)  # a caller that fails at once must not spin
            with self._progress:
                self.ended[code] += 1
                self._progress.notify_all()

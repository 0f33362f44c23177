"""One gRPC channel to one address, which can be changed for one with other credentials while calls go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from infermesh.transport.http2.answer import NotTaken
from infermesh.transport.http2.lane import Lane

__all__ = ["Channel"]

SERVICE = "/inference.GRPCInferenceService/"
INFER = "ModelInfer"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
SWAP_TIMEOUT_S = 10.0  # for a channel with new certificates to connect
LONGEST_CALL_S = 3600.0  # on a channel that is on its way out; what is under way after it is ended


class Channel:
    """The byte-level calls on a channel; messages are serialised by others, so that no request is held back changed.

    `credentials` None: plain text. `lane`: a cheaper way for inferences, which is taken where it can be.
    """

    def __init__(
        self,
        address: str,
        options: list[tuple[str, Any]],
        credentials: grpc.ChannelCredentials | None = None,
        lane: Lane | None = None,
    ) -> None:
        self.address = address
        self.closed = False
        self._options = options
        self._lane = lane
        self._ending: set[asyncio.Future[None]] = set()  # old channels with calls under way
        self._use(self._made(credentials))

    def unary(self, rpc: str, data: bytes, *, timeout: float | None, metadata: Any, is_ready: bool) -> Any:
        """The call of a unary RPC, to be awaited for the answer's bytes. What is not ready is asked by grpc, which knows why."""
        lane = self._lane
        if lane is not None and is_ready and rpc == INFER and lane.takes(len(data)):
            return self._over(lane, data, timeout, metadata)
        method = self._unary.get(rpc)
        if method is None:
            method = self._unary[rpc] = self.grpc.unary_unary(SERVICE + rpc)
        return method(data, timeout=timeout, metadata=metadata)

    async def _over(self, lane: Lane, data: bytes, timeout: float | None, metadata: Any) -> bytes:
        began = time.monotonic()
        try:
            return await lane.unary(SERVICE + INFER, data, timeout, metadata)
        except NotTaken:  # by a server that goes: grpc makes such a call anew too, elsewhere or on another connection
            left = None if timeout is None else max(0.0, timeout - (time.monotonic() - began))
            answer: bytes = await self.grpc.unary_unary(SERVICE + INFER)(data, timeout=left, metadata=metadata)
            return answer

    async def is_serving(self, timeout_s: float) -> bool:
        """What the health service says; a server that has none serves when it says that."""
        try:
            answer = await self.grpc.unary_unary(HEALTH_CHECK)(b"", timeout=timeout_s)
            status = health_pb2.HealthCheckResponse.FromString(answer).status
        except grpc.aio.AioRpcError as failure:
            return bool(failure.code() is grpc.StatusCode.UNIMPLEMENTED)
        except DecodeError:
            return False
        return bool(status == health_pb2.HealthCheckResponse.SERVING)

    async def adopt(self, credentials: grpc.ChannelCredentials) -> bool:
        """Go over to a channel with these credentials, unless it can't connect while the present one does."""
        channel = self._made(credentials)
        try:
            async with asyncio.timeout(SWAP_TIMEOUT_S):
                await _connected(channel)
        except TimeoutError:
            if self.grpc.get_state() is grpc.ChannelConnectivity.READY:
                await channel.close()
                return False
        except asyncio.CancelledError:
            await channel.close()
            raise
        old = self.grpc
        self._use(channel)
        ending = asyncio.ensure_future(_end(old))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        return True

    async def leave(self) -> None:
        """Close it when the calls on it have ended; at once when cancelled."""
        try:
            if self._lane is not None:
                async with asyncio.timeout(LONGEST_CALL_S):
                    await self._lane.leave()
            await self.grpc.close(LONGEST_CALL_S)
        except TimeoutError:
            pass
        finally:
            await self.close()

    async def close(self) -> None:
        """Close it at once; the calls on it are ended."""
        self.closed = True
        if self._lane is not None:
            self._lane.close()
        for each in (ending := list(self._ending)):
            each.cancel()
        if ending:
            await asyncio.wait(ending)
        await self.grpc.close()

    def _made(self, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
        if credentials is None:
            return grpc.aio.insecure_channel(self.address, options=self._options)
        return grpc.aio.secure_channel(self.address, credentials, options=self._options)

    def _use(self, channel: grpc.aio.Channel) -> None:
        self.grpc = channel
        self.stream: Callable[..., Any] = channel.stream_stream(f"{SERVICE}ModelStreamInfer")
        self._unary: dict[str, Callable[..., Any]] = {}


async def _end(channel: grpc.aio.Channel) -> None:
    try:
        await channel.close(LONGEST_CALL_S)
    except asyncio.CancelledError:
        await channel.close()
        raise


async def _connected(channel: grpc.aio.Channel) -> None:
    while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
        await channel.wait_for_state_change(state)

"""The answer to one unary call, as it comes in."""

from __future__ import annotations

import asyncio
import math
import struct

import grpc

from infermesh.transport.http2.answer import failure

__all__ = ["PREFIX", "Stream"]

PREFIX = struct.Struct(">BI")  # of a message: whether it is compressed, and its length


class Stream:
    """Parts of one message, until the status says that it was all."""

    __slots__ = ("_parts", "_size", "_whole", "deadline", "future", "http_status", "unread")

    def __init__(self, future: asyncio.Future[bytes]) -> None:
        self.future = future
        self.deadline = math.inf
        self.http_status = b""  # empty: no headers have come
        self.unread = 0  # bytes that the server has not been told are read
        self._parts: list[bytes] = []
        self._size = 0
        self._whole = 0  # its size with the prefix, once that is there

    def take(self, part: bytes, most: int) -> grpc.aio.AioRpcError | None:
        """What is wrong with the answer, if something is."""
        if not self.http_status:
            return failure(grpc.StatusCode.INTERNAL, "an answer without headers")
        if self.http_status != b"200":  # a page for people
            return None
        self._parts.append(part)
        self._size += len(part)
        if not self._whole and self._size >= PREFIX.size:
            if len(self._parts) > 1:
                self._parts = [b"".join(self._parts)]
            packed, size = PREFIX.unpack_from(self._parts[0])
            if packed:
                return failure(grpc.StatusCode.INTERNAL, "the answer is compressed, which was not asked for")
            if size > most:
                text = f"CLIENT: Received message larger than max ({size} vs. {most})"
                return failure(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
            self._whole = PREFIX.size + size
        if self._whole and self._size > self._whole:
            return failure(grpc.StatusCode.INTERNAL, "more than one message answers a unary call")
        return None

    def whole(self) -> bytes | grpc.aio.AioRpcError:
        """The message, when the status was OK."""
        if not self._whole or self._size < self._whole:
            return failure(grpc.StatusCode.INTERNAL, "the status is OK, and the answer is not whole")
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        return body[PREFIX.size :]

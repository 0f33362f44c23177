"""What the tests of streams put together: a worker whose answers are let go one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from infermesh.call import Call
from infermesh.errors import InvalidRequest, NotFound
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from infermesh.transport.stream import answer_in_order

__all__ = ["GARBAGE", "Worker", "answers_of", "requests"]


GARBAGE = object()  # stands for bytes that are no message


class Worker:
    """Answers each request when its gate is opened; knows how many it works on, and what was closed."""

    def __init__(self) -> None:
        self.gates: dict[str, asyncio.Event] = {}
        self.begun: list[str] = []
        self.working = 0
        self.most = 0
        self.answers = 1
        self.sent = 0

    async def __call__(self, request: Any, call: Call) -> AsyncGenerator[ModelInferResponse, None]:
        if request is GARBAGE:
            raise InvalidRequest("no message")
        self.begun.append(request.id)
        self.working += 1
        self.most = max(self.most, self.working)
        try:
            if request.id in self.gates:
                await self.gates[request.id].wait()
            if request.model_name == "bad":
                raise NotFound(f"no model for {request.id}")
            if request.model_name == "defect":
                raise KeyError(request.id)
            for number in range(self.answers):
                self.sent += 1
                yield ModelInferResponse(id=request.id, model_version=str(number))
        finally:
            self.working -= 1


def requests(*ids: str, model: str = "m") -> AsyncIterator[Any]:
    async def sent() -> AsyncIterator[Any]:
        for each in ids:
            yield ModelInferRequest(id=each, model_name=model)

    return sent()


def answers_of(
    sent: AsyncIterator[Any], worker: Callable[..., Any], leaving: asyncio.Event | None = None
) -> AsyncGenerator[ModelStreamInferResponse, None]:
    return answer_in_order(sent, Call, worker, leaving or asyncio.Event(), "here")

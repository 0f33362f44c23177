"""One ModelStreamInfer: requests are worked on side by side, answers go out in the order of the requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from infermesh.call import Call
from infermesh.errors import InvalidRequest
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from infermesh.transport.status import FINAL_PARAMETER, answer_of, stream_failure

__all__ = ["answer_in_order"]

MAX_IN_FLIGHT = 32  # requests of one stream; past it we read no more, and HTTP/2's window stops the sender
MAX_ANSWERS = 8  # that one request may have waiting while an earlier one is written

Answer = Callable[[ModelInferRequest, Call], AsyncGenerator[ModelInferResponse, None]]


async def answer_in_order(
    requests: AsyncIterator[Any], new_call: Callable[[], Call], answer: Answer, leaving: asyncio.Event, hop: str
) -> AsyncGenerator[ModelStreamInferResponse, None]:
    """The answers to a stream of requests; a request that fails is an in-stream failure, and the stream goes on.

    When `leaving` is set no more requests are read; what was read is answered. Closing it, or cancelling, ends all work and
    leaves no task behind.
    """
    turns: asyncio.Queue[asyncio.Queue[ModelStreamInferResponse | None] | None] = asyncio.Queue(MAX_IN_FLIGHT)
    tasks: set[asyncio.Task[None]] = set()

    async def work(request: ModelInferRequest, answers: asyncio.Queue[ModelStreamInferResponse | None]) -> None:
        call = new_call()
        last: ModelInferResponse | None = None  # held back until we know whether it is the last one
        try:
            if not isinstance(request, ModelInferRequest):
                raise InvalidRequest(
                    "ModelStreamInfer: the bytes of the request are no protobuf message", reason="MALFORMED"
                )
            async with aclosing(answer(request, call)) as responses:
                async for response in responses:
                    if last is not None:
                        await answers.put(ModelStreamInferResponse(infer_response=last))
                    last = response
            if last is not None:
                last.parameters[FINAL_PARAMETER].bool_param = True
                await answers.put(ModelStreamInferResponse(infer_response=last))
        except Exception as error:
            if last is not None:
                await answers.put(ModelStreamInferResponse(infer_response=last))
            failure = answer_of(error, call, "ModelStreamInfer")
            await answers.put(stream_failure(failure, getattr(request, "id", ""), hop))
        await answers.put(None)

    async def read() -> None:
        try:
            await read_until_end()
        except Exception:
            await turns.put(None)  # not when cancelled: then nobody takes from the queue any more
            raise
        await turns.put(None)

    async def read_until_end() -> None:
        leave = asyncio.ensure_future(leaving.wait())
        following: asyncio.Future[Any] | None = None
        try:
            while not leaving.is_set():
                following = asyncio.ensure_future(anext(requests, None))
                await asyncio.wait({following, leave}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    return
                request = following.result()
                if request is None:
                    return
                answers: asyncio.Queue[ModelStreamInferResponse | None] = asyncio.Queue(MAX_ANSWERS)
                await turns.put(answers)
                task = asyncio.create_task(work(request, answers))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        finally:
            leave.cancel()
            if following is not None:
                following.cancel()

    reader = asyncio.create_task(read())
    try:
        while (answers := await turns.get()) is not None:
            while (response := await answers.get()) is not None:
                yield response
        await reader
    finally:
        ending = [reader, *tasks]
        for each in ending:
            each.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

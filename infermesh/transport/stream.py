"""One ModelStreamInfer: requests are worked on side by side, answers go out in the order of the requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from infermesh.call import Call
from infermesh.errors import Internal, Unavailable
from infermesh.protocol.open_inference_pb2 import ModelInferResponse, ModelStreamInferResponse
from infermesh.transport.status import FINAL_PARAMETER, answer_of, stream_failure

__all__ = ["answer_in_order"]

MAX_IN_FLIGHT = 32  # requests of one stream; past it we read no more, and HTTP/2's window stops the sender
MAX_ANSWERS = 8  # that one request may have waiting while an earlier one is written
END_WAIT_S = 0.05  # for the end of a stream to follow its last message, when the server leaves just then
RPC = "ModelStreamInfer"

_log = logging.getLogger(__name__)

Answer = Callable[[Any, Call], AsyncGenerator[ModelInferResponse, None]]


async def answer_in_order(
    requests: AsyncIterator[Any], new_call: Callable[[], Call], answer: Answer, leaving: asyncio.Event, hop: str
) -> AsyncGenerator[ModelStreamInferResponse, None]:
    """The answers to a stream of requests; a request that fails is an in-stream failure, and the stream goes on.

    What stands for bytes that are no request goes to `answer` too, which knows who may be told what is wrong with them.

    When `leaving` is set no more requests are read; what was read is answered, and then Unavailable is raised, unless the stream
    had come to its end. Closing it, or cancelling, ends all work and leaves no task behind.
    """
    turns: asyncio.Queue[asyncio.Queue[ModelStreamInferResponse | None] | None] = asyncio.Queue(MAX_IN_FLIGHT)
    tasks: set[asyncio.Task[None]] = set()
    closed = False  # then nobody takes from the queues any more; a cancellation before it came from below

    async def work(request: Any, answers: asyncio.Queue[ModelStreamInferResponse | None]) -> None:
        try:
            await answer_one(request, answers)
        except (Exception, asyncio.CancelledError) as error:
            if closed:
                raise
            _log.error("internal error in %s: a failure could not be told", RPC, exc_info=error)
            told = Internal("internal error; the log has it")
            await answers.put(stream_failure(told, getattr(request, "id", ""), hop))
        finally:
            if not closed:
                await answers.put(None)  # or the stream would wait for this request for ever

    async def answer_one(request: Any, answers: asyncio.Queue[ModelStreamInferResponse | None]) -> None:
        call = new_call()
        last: ModelInferResponse | None = (
            None  # held back until we know whether it is the last one, unless it says so itself
        )
        try:
            async with aclosing(answer(request, call)) as responses:
                async for response in responses:
                    if last is not None:
                        await answers.put(ModelStreamInferResponse(infer_response=last))
                    last = response
                    if _says_more(response):
                        await answers.put(ModelStreamInferResponse(infer_response=response))
                        last = None
            if last is not None:
                last.parameters[FINAL_PARAMETER].bool_param = True
                await answers.put(ModelStreamInferResponse(infer_response=last))
        except Exception as error:
            if last is not None:
                await answers.put(ModelStreamInferResponse(infer_response=last))
            await answers.put(stream_failure(answer_of(error, call, RPC), getattr(request, "id", ""), hop))

    async def read() -> None:
        try:
            await read_until_end()
        finally:
            if not closed:
                await turns.put(None)

    async def read_until_end() -> None:
        leave = asyncio.ensure_future(leaving.wait())
        following: asyncio.Future[Any] | None = None
        try:
            while not leaving.is_set():
                following = asyncio.ensure_future(anext(requests, None))
                await asyncio.wait({following, leave}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    break
                request = following.result()
                if request is None:
                    return
                answers: asyncio.Queue[ModelStreamInferResponse | None] = asyncio.Queue(MAX_ANSWERS)
                await turns.put(answers)
                task = asyncio.create_task(work(request, answers))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                following = None
            following = following or asyncio.ensure_future(anext(requests, None))
            await asyncio.wait({following}, timeout=END_WAIT_S)
            if not following.done() or following.result() is not None:
                raise Unavailable(f"{hop}: this replica is leaving")
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
        closed = True
        ending = [reader, *tasks]
        for each in ending:
            each.cancel()
        await asyncio.gather(*ending, return_exceptions=True)


def _says_more(response: ModelInferResponse) -> bool:
    """Whether an answer says that it is not the last: `triton_final_response` is there, and false."""
    return FINAL_PARAMETER in response.parameters and not response.parameters[FINAL_PARAMETER].bool_param

"""Answers of a stream: their order, their failures, and how many are under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from infermesh.call import Call
from infermesh.errors import NotFound
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.transport.stream import MAX_ANSWERS, MAX_IN_FLIGHT, answer_in_order
from tests.unit.transport.stream_parts import GARBAGE, Worker, answers_of, requests


@pytest.mark.usefixtures("no_task_left")
async def test_answers_go_out_in_the_order_of_the_requests() -> None:
    """A later request that is done first waits for its turn."""
    worker = Worker()
    worker.gates["0"] = asyncio.Event()
    answers = answers_of(requests("0", "1", "2"), worker)
    first = asyncio.ensure_future(anext(answers))
    while len(worker.begun) < 3:
        await asyncio.sleep(0)

    assert not first.done()
    worker.gates["0"].set()

    assert [(await first).infer_response.id, *[a.infer_response.id async for a in answers]] == ["0", "1", "2"]
    assert worker.most > 1


@pytest.mark.usefixtures("no_task_left")
async def test_only_the_last_answer_to_a_request_is_marked_as_final() -> None:
    """Triton's clients end a request at `triton_final_response`."""
    worker = Worker()
    worker.answers = 3

    answers = [a.infer_response async for a in answers_of(requests("a", "b"), worker)]

    assert [(a.id, a.model_version) for a in answers] == [(i, str(n)) for i in "ab" for n in range(3)]
    assert [a.parameters["triton_final_response"].bool_param for a in answers] == [False, False, True] * 2


@pytest.mark.usefixtures("no_task_left")
async def test_an_answer_that_says_that_more_will_come_is_not_held_back() -> None:
    """It goes out before the next one is there; others wait until it is known whether they are the last."""
    more = asyncio.Event()

    async def refined(request: Any, call: Call) -> AsyncGenerator[ModelInferResponse, None]:
        first = ModelInferResponse(id="first")
        first.parameters["triton_final_response"].bool_param = False
        yield first
        await more.wait()
        yield ModelInferResponse(id="last")

    answers = answer_in_order(requests("a"), Call, refined, asyncio.Event(), "test")

    assert (await anext(answers)).infer_response.id == "first"
    more.set()
    last = (await anext(answers)).infer_response
    assert (last.id, last.parameters["triton_final_response"].bool_param) == ("last", True)
    await answers.aclose()


@pytest.mark.usefixtures("no_task_left")
async def test_a_failure_is_one_answer_and_the_stream_goes_on() -> None:
    """Foreseen errors, defects and garbage are in-stream failures with the id of their request; the next one is answered."""

    async def sent() -> AsyncIterator[Any]:
        yield ModelInferRequest(id="1", model_name="bad")
        yield ModelInferRequest(id="2", model_name="defect")
        yield GARBAGE
        yield ModelInferRequest(id="4", model_name="m")

    answers = [a async for a in answers_of(sent(), Worker())]

    assert [a.error_message.split(";")[0] for a in answers] == [
        "no model for 1",
        "internal error",
        "no message",
        "",
    ]
    assert [a.infer_response.id for a in answers] == ["1", "2", "", "4"]
    assert [a.infer_response.parameters["infermesh_code"].string_param for a in answers[:3]] == [
        "NOT_FOUND",
        "INTERNAL",
        "INVALID_ARGUMENT",
    ]


@pytest.mark.usefixtures("no_task_left")
async def test_no_more_is_read_than_the_bound() -> None:
    """A sender who is faster than the work is stopped: requests that are read are bounded."""
    worker, read = Worker(), 0
    worker.gates = {str(n): asyncio.Event() for n in range(1000)}

    async def endless() -> AsyncIterator[Any]:
        nonlocal read
        for number in range(1000):
            read += 1
            yield ModelInferRequest(id=str(number))

    async with aclosing(answers_of(endless(), worker)) as answers:
        first = asyncio.ensure_future(anext(answers))
        for _ in range(2000):
            await asyncio.sleep(0)
        assert MAX_IN_FLIGHT <= worker.most <= MAX_IN_FLIGHT + 2
        assert read <= MAX_IN_FLIGHT + 3
        worker.gates["0"].set()
        assert (await first).infer_response.id == "0"


@pytest.mark.usefixtures("no_task_left")
async def test_answers_that_nobody_takes_are_bounded() -> None:
    """A request with endless answers is held while an earlier one is written."""
    worker = Worker()
    worker.answers = 10_000
    answers = answers_of(requests("a"), worker)

    assert (await anext(answers)).infer_response.model_version == "0"
    for _ in range(500):
        await asyncio.sleep(0)

    assert worker.sent <= MAX_ANSWERS + 4
    await answers.aclose()
    assert worker.working == 0


@pytest.mark.parametrize("raised", [NotFound("x", reason="R", retry_after_s="soon"), asyncio.CancelledError()])
@pytest.mark.usefixtures("no_task_left")
async def test_whatever_ends_a_request_the_stream_goes_on(raised: BaseException) -> None:
    """A failure that can't be written down, and a cancellation that nobody asked for, are answers too."""

    async def worker(request: ModelInferRequest, call: Call) -> AsyncGenerator[ModelInferResponse, None]:
        if request.id == "0":
            raise raised
        yield ModelInferResponse(id=request.id)

    async with asyncio.timeout(5):
        answers = [a async for a in answers_of(requests("0", "1"), worker)]

    assert [a.infer_response.id for a in answers] == ["0", "1"]
    assert answers[0].error_message.startswith("internal error")
    assert answers[0].infer_response.parameters["infermesh_code"].string_param == "INTERNAL"
    assert answers[0].infer_response.parameters["triton_final_response"].bool_param


@pytest.mark.usefixtures("no_task_left")
async def test_a_call_that_can_not_be_read_is_a_failure_in_the_stream() -> None:
    """What goes wrong before the work begins is told in its place."""

    def no_call() -> Call:
        raise ValueError("metadata")

    async with asyncio.timeout(5):
        answers = [a async for a in answer_in_order(requests("0"), no_call, Worker(), asyncio.Event(), "here")]

    assert [a.infer_response.id for a in answers] == ["0"]
    assert answers[0].error_message.startswith("internal error")


async def test_a_hundred_requests_on_one_stream_come_back_in_order(serve: Any, scripted: Any) -> None:
    """Over a real channel, with work that takes different times."""

    async def answer(request: ModelInferRequest, call: Call) -> ModelInferResponse:
        await asyncio.sleep(int(request.id) % 7 / 1000)
        return ModelInferResponse(id=request.id)

    running = await serve(scripted(answer))
    stream = running.stub.ModelStreamInfer()

    async def write() -> None:
        for number in range(100):
            await stream.write(ModelInferRequest(id=str(number)))
        await stream.done_writing()

    writing = asyncio.ensure_future(write())
    ids = [a.infer_response.id async for a in stream]
    await writing

    assert ids == [str(n) for n in range(100)]

"""Every call is counted once, with its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from infermesh.call import Call
from infermesh.deadline import Deadline
from infermesh.errors import ForeignStatus, NotFound
from infermesh.filters import Measured
from infermesh.protocol.open_inference_pb2 import InferParameter, ModelInferRequest, ModelInferResponse

Seen = list[tuple[str, str, str, str, float]]


def label(model: str) -> str:
    return model if model == "m" else ""


@pytest.fixture
def seen() -> Seen:
    return []


@pytest.fixture
def measured(seen: Seen, clock: Callable[[], float]) -> Measured:
    return Measured(lambda *observed: seen.append(observed), label, clock)


def answering(clock: Any, response: ModelInferResponse | BaseException) -> Any:
    async def then(request: ModelInferRequest, call: Call) -> ModelInferResponse:
        clock.now += 0.25
        if isinstance(response, BaseException):
            raise response
        return response

    return then


async def test_an_answer_is_counted_under_the_version_that_gave_it(
    measured: Measured, seen: Seen, clock: Any, request_: ModelInferRequest
) -> None:
    """The version is the response's, not the request's, and the time is what the clock says."""
    await measured(request_, Call(), answering(clock, ModelInferResponse(model_version="10")))

    assert seen == [("m", "10", "", "OK", 0.25)]


@pytest.mark.parametrize(
    ("call", "parameters", "variant"),
    [
        (Call(variant="canary"), {}, "canary"),
        (Call(), {"infermesh_variant": InferParameter(string_param="stable")}, "stable"),
        (Call(variant="canary"), {"infermesh_variant": InferParameter(string_param="stable")}, "canary"),
        (
            Call(),
            {
                "infermesh_variant": InferParameter(string_param="stable"),
                "infermesh_fallback": InferParameter(string_param="cached"),
            },
            "fallback",
        ),
    ],
)
async def test_the_variant_is_the_calls_own_or_the_one_that_answered(
    measured: Measured, seen: Seen, clock: Any, request_: ModelInferRequest, call: Call, parameters: Any, variant: str
) -> None:
    """Below the split the call names it, above it the response does."""
    await measured(request_, call, answering(clock, ModelInferResponse(parameters=parameters)))

    assert seen[0][2] == variant


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("x"), "NOT_FOUND"),
        (ForeignStatus("ABORTED", "x"), "ABORTED"),
        (KeyError("x"), "INTERNAL"),
        (asyncio.CancelledError(), "CANCELLED"),
    ],
)
async def test_every_way_to_fail_is_counted_once_and_passes(
    measured: Measured, seen: Seen, clock: Any, request_: ModelInferRequest, error: BaseException, code: str
) -> None:
    """Errors, defects and callers who go away are observed with their code and raised on."""
    with pytest.raises(type(error)) as raised:
        await measured(request_, Call(variant="v"), answering(clock, error))

    assert raised.value is error
    assert seen == [("m", "", "v", code, 0.25)]


async def test_a_call_that_grpc_ends_at_its_deadline_is_no_caller_who_went_away(
    measured: Measured, seen: Seen, clock: Any, request_: ModelInferRequest
) -> None:
    """grpc cancels the handler at the deadline, which may be before we look at the clock."""
    with pytest.raises(asyncio.CancelledError):
        await measured(request_, Call(Deadline.after(-1)), answering(clock, asyncio.CancelledError()))

    assert seen[0][3] == "DEADLINE_EXCEEDED"


async def test_a_name_that_nobody_knows_is_no_label(measured: Measured, seen: Seen, clock: Any) -> None:
    """What a caller makes up does not become a label value."""
    with pytest.raises(NotFound):
        await measured(ModelInferRequest(model_name="made up"), Call(), answering(clock, NotFound("x")))

    assert seen[0][0] == ""


def test_it_prints_as_its_name(measured: Measured) -> None:
    """A stack's repr shows the filter and not its functions."""
    assert repr(measured) == "Measured"

"""Tests of the lines about refusals."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from infermesh.call import Call, Caller
from infermesh.errors import MeshError, NotFound, PermissionDenied, Unavailable
from infermesh.filters import Logged
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="infermesh.filters.logged")
    return caplog


async def _answers(request: ModelInferRequest, call: Call) -> ModelInferResponse:
    return ModelInferResponse(id=request.id)


async def _refuse(logged: Logged, request: ModelInferRequest, error: MeshError, call: Call | None = None) -> None:
    async def refuses(request: ModelInferRequest, call: Call) -> ModelInferResponse:
        call.caller = Caller(name="demo")  # as authentication does, which stands below
        raise error

    with pytest.raises(type(error)) as raised:
        await logged(request, call or Call(request_id="r1"), refuses)
    assert raised.value is error


async def test_a_refusal_is_one_line_with_who_what_and_why(
    clock: Any, lines: pytest.LogCaptureFixture, request_: ModelInferRequest
) -> None:
    """At INFO and without a stack: code, reason, caller, model and request id, as text and as fields."""
    await _refuse(Logged(clock=clock), request_, PermissionDenied("no", reason="MODEL_FORBIDDEN"))

    (line,) = lines.records
    assert (line.levelno, line.exc_info) == (logging.INFO, None)
    assert line.getMessage() == (
        'ModelInfer PERMISSION_DENIED (MODEL_FORBIDDEN): caller "demo", model "m", request "r1"'
    )
    fields = {name: getattr(line, name) for name in ("rpc", "code", "reason", "caller", "model", "request_id")}
    assert list(fields.values()) == ["ModelInfer", "PERMISSION_DENIED", "MODEL_FORBIDDEN", "demo", "m", "r1"]


async def test_a_failure_below_names_the_hop(
    clock: Any, lines: pytest.LogCaptureFixture, request_: ModelInferRequest
) -> None:
    """What another service answered is told with that service's name."""
    await _refuse(Logged(clock=clock), request_, Unavailable("away", hop="predictor"))

    assert lines.records[0].getMessage().startswith('ModelInfer UNAVAILABLE (UNAVAILABLE) at "predictor": ')


async def test_who_is_not_admitted_to_another_rpc_is_told_too(clock: Any, lines: pytest.LogCaptureFixture) -> None:
    """By whoever refuses it; of an inference, whose refusal comes by the filter itself, there is no second line."""
    logged, call = Logged(clock=clock), Call(caller=Caller(name="demo"), request_id="r1")
    refusal = PermissionDenied("no", reason="SCOPE_MISSING")

    for rpc in ("ModelInfer", "ModelStreamInfer", "RepositoryModelLoad"):
        logged.not_admitted(rpc, "m", call, refusal)

    (line,) = lines.records
    assert line.getMessage().startswith('RepositoryModelLoad PERMISSION_DENIED (SCOPE_MISSING): caller "demo"')


async def test_an_answer_is_no_line(clock: Any, lines: pytest.LogCaptureFixture, request_: ModelInferRequest) -> None:
    """A call that succeeds passes as it is, and nothing is written."""
    assert (await Logged(clock=clock)(request_, Call(), _answers)).id == "1"
    assert not lines.records


async def test_no_key_and_no_line_of_a_callers_own_gets_into_the_log(
    clock: Any, lines: pytest.LogCaptureFixture
) -> None:
    """Metadata is left out, and a name is quoted shortened and escaped, so that nobody writes a line of their own."""
    call = Call(metadata={"x-api-key": "secret-1", "authorization": "Bearer secret-2"}, request_id="r\n1")
    odd = ModelInferRequest(model_name="m\n2026 INFO all is well\x1b[31m" + "x" * 100_000)

    await _refuse(Logged(clock=clock), odd, NotFound("no such model"), call)

    (line,) = lines.records
    text = line.getMessage() + repr(sorted(vars(line).items(), key=str))
    assert "secret" not in text
    assert line.getMessage().isprintable()
    assert len(line.getMessage()) < 400
    assert max(len(str(getattr(line, name))) for name in ("model", "caller", "request_id")) < 200


async def test_past_the_rate_refusals_are_counted_in_the_next_line(
    clock: Any, lines: pytest.LogCaptureFixture, request_: ModelInferRequest
) -> None:
    """Of many refusals in one second ten are written; the first of the next second says how many were not, and once."""
    logged = Logged(lines_per_s=10, clock=clock)

    for _ in range(500):
        await _refuse(logged, request_, NotFound("no such model"))
    written = len(lines.records)
    clock.now += 1.0
    for _ in range(2):
        await _refuse(logged, request_, NotFound("no such model"))

    assert written == 10
    assert [line.left_out for line in lines.records[10:]] == [490, 0]  # type: ignore[attr-defined]
    assert "; 490 more before it are not in the log" in lines.records[10].getMessage()
    assert "more before" not in lines.records[11].getMessage()


async def test_where_info_is_not_logged_nothing_is_counted(
    clock: Any, lines: pytest.LogCaptureFixture, request_: ModelInferRequest
) -> None:
    """With a higher log level a refusal costs the question and no more."""
    lines.set_level(logging.WARNING, logger="infermesh.filters.logged")
    logged = Logged(lines_per_s=1, clock=clock)

    for _ in range(3):
        await _refuse(logged, request_, NotFound("no such model"))
    lines.set_level(logging.INFO, logger="infermesh.filters.logged")
    await _refuse(logged, request_, NotFound("no such model"))

    (line,) = lines.records
    assert "more before" not in line.getMessage()

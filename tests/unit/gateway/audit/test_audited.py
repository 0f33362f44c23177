"""What the audit says of a call: filters and routes as the gateway composes them, over backends that do as they are told."""

from __future__ import annotations

import asyncio
import json

import pytest

from infermesh.call import Call, Caller
from infermesh.errors import InvalidRequest, NotFound, PermissionDenied, Unavailable
from infermesh.filters import Retry, RetryBudget
from infermesh.journal import Journal
from infermesh.protocol.open_inference_pb2 import ModelInferResponse
from infermesh.service import Filter, stack
from services.gateway.audit.audited import Admitted, Attempted, Audited
from services.gateway.audit.line import line_of
from services.gateway.fallback import Fallback

ROUTE = {
    "model": "fraud",
    "backend": "one",
    "aliases": ["old-fraud"],
    "variants": [{"name": "stable", "weight": 1, "version": 3}],
}


class Refusing(Filter):
    """Names the caller, and refuses what it is told to: what authentication does."""

    def __init__(self, error=None):
        self.error = error

    async def admit(self, rpc, model, version, call):
        call.caller = Caller("demo", tenant="acme")
        if self.error is not None:
            raise self.error


def composed(mesh, lines, *refusing, **options):
    """The gateway's order, with a list in the place of the writer."""
    audited = Audited(write=lambda entry: lines.append(json.loads(line_of(entry))), label=mesh.table.label, **options)
    return stack(audited, *refusing, Admitted(), service=mesh.table)


@pytest.fixture
def lines():
    return []


async def test_a_call_that_is_answered_has_one_line(make_mesh, ask, lines):
    """Who, what was asked, what answered, and sizes; the trace is the caller's."""
    mesh = make_mesh([ROUTE])
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    request = ask("old-fraud", id="message")

    response = await composed(mesh, lines, Refusing()).infer(
        request, Call(request_id="r1", trace=trace, peer="ipv4:10.0.0.7:1")
    )

    (line,) = lines
    assert line | {"time": "", "ms": {}} == {
        "schema": 1,
        "time": "",
        "request_id": "r1",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "rpc": "ModelInfer",
        "caller": "demo",
        "tenant": "acme",
        "peer": "ipv4:10.0.0.7:1",
        "model": "old-fraud",
        "route": "fraud",
        "alias": True,
        "picked": "stable",
        "picked_by": "weight",
        "answered": "fraud",
        "version": "3",
        "variant": "stable",
        "code": "OK",
        "reason": "",
        "hop": "",
        "fallback": "",
        "fallback_for": None,
        "attempts": [],
        "shadowed": [],
        "ms": {},
        "bytes": {"request": request.ByteSize(), "response": response.ByteSize()},
    }
    assert 0 < line["ms"]["admission"] <= line["ms"]["whole"]


async def test_a_refusal_has_a_line_with_its_caller(make_mesh, ask, lines):
    """It never reached the routes: all of its time is admission, and nothing was picked."""
    gateway = composed(make_mesh([ROUTE]), lines, Refusing(PermissionDenied("no", reason="MODEL_FORBIDDEN")))

    with pytest.raises(PermissionDenied):
        await gateway.infer(ask("fraud"), Call(request_id="r1"))

    (line,) = lines
    assert (line["code"], line["reason"], line["caller"]) == ("PERMISSION_DENIED", "MODEL_FORBIDDEN", "demo")
    assert (line["picked"], line["variant"], line["answered"], line["bytes"]["response"]) == ("", "", "", 0)
    assert line["ms"]["admission"] == line["ms"]["whole"] > 0


async def test_a_failure_below_has_code_reason_hop_and_variant(make_mesh, ask, lines):
    mesh = make_mesh([ROUTE])
    mesh.backends["one"].state["error"] = InvalidRequest("bad", reason="SHAPE", hop="predictor")

    with pytest.raises(InvalidRequest):
        await composed(mesh, lines).infer(ask("fraud"), Call())

    (line,) = lines
    assert [line[key] for key in ("code", "reason", "hop", "variant")] == [
        "INVALID_ARGUMENT",
        "SHAPE",
        "predictor",
        "stable",
    ]


async def test_a_defect_and_a_caller_who_goes_have_lines(make_mesh, ask, lines):
    mesh = make_mesh([ROUTE])
    state = mesh.backends["one"].state
    state["error"] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await composed(mesh, lines).infer(ask("fraud"), Call())

    del state["error"]
    state["wait"] = asyncio.Event()
    asking = asyncio.ensure_future(composed(mesh, lines).infer(ask("fraud"), Call()))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait({asking})

    assert [line["code"] for line in lines] == ["INTERNAL", "CANCELLED"]


async def test_a_model_without_a_route_has_no_route(make_mesh, ask, lines):
    """And what was asked is cut: a name of a megabyte must not wait in memory, or fill the disk."""
    gateway = composed(make_mesh([ROUTE]), lines)

    with pytest.raises(NotFound, match="no route"):
        await gateway.infer(ask("x" * 1_000_000), Call(request_id="r" * 5000))

    (line,) = lines
    assert (line["code"], line["route"], line["alias"]) == ("NOT_FOUND", "", False)
    assert (line["model"], line["request_id"]) == ("x" * 256, "r" * 128)


async def test_each_attempt_is_told_with_its_address(ask, lines):
    """The retry that helped stands after the failure that it was for; addresses are those of whoever had the connection."""
    answers = [Unavailable("away"), None]
    answers[0].endpoint = "10.0.0.1:8001"

    class Remote(Filter):
        async def __call__(self, request, call, then):
            failure = answers.pop(0)
            if failure is not None:
                raise failure
            call.journal.endpoint = "10.0.0.2:8001"
            return await then(request, call)

    class Answering:
        async def infer(self, request, call):
            return ModelInferResponse(model_name=request.model_name, model_version="1")

    retry = Retry(3, RetryBudget(1, 10), lambda outcome: None)
    service = stack(retry, Attempted("predictor"), Remote(), service=Answering())
    gateway = stack(Audited(write=lambda entry: lines.append(json.loads(line_of(entry))), label=str), service=service)

    await gateway.infer(ask("m"), Call())

    (line,) = lines
    told = [(each["backend"], each["endpoint"], each["code"]) for each in line["attempts"]]
    assert told == [("predictor", "10.0.0.1:8001", "UNAVAILABLE"), ("predictor", "10.0.0.2:8001", "OK")]
    assert line["ms"]["backend"] == pytest.approx(sum(each["ms"] for each in line["attempts"]), abs=0.002)


async def test_a_copy_is_named_and_writes_nothing(make_mesh, ask, lines, settle):
    """The shadow's own failure and attempts are not the call's."""
    mesh = make_mesh([{**ROUTE, "shadows": [{"name": "candidate", "backend": "two", "fraction": 1}]}])
    mesh.backends["two"].state["error"] = Unavailable("away")

    await composed(mesh, lines).infer(ask("fraud"), Call())
    await settle()

    (line,) = lines
    assert (line["shadowed"], line["code"], line["picked"]) == (["candidate"], "OK", "stable")
    ((_, _, copy),) = mesh.backends["two"].asked
    assert copy.shadow and copy.journal is None


async def test_messages_of_a_stream_have_a_line_each(make_mesh, ask, lines):
    """Written when the first answer is there."""
    gateway = composed(make_mesh([ROUTE]), lines)

    for number in range(3):
        answers = gateway.stream(ask("fraud"), Call(request_id=str(number)))
        await anext(answers)
        assert len(lines) == number + 1
        await answers.aclose()

    assert [(line["rpc"], line["request_id"], line["picked"]) for line in lines] == [
        ("ModelStreamInfer", str(number), "stable") for number in range(3)
    ]


@pytest.mark.parametrize(("failures", "expected"), [(True, 100), (False, 0)])
async def test_failures_have_lines_whatever_the_sample(make_mesh, ask, lines, failures, expected):
    """With a sample of nothing, answers have none; failures do, unless they are sampled as well."""
    mesh = make_mesh([ROUTE])
    gateway = composed(mesh, lines, sample=0.0, failures=failures)

    for number in range(100):
        await gateway.infer(ask("fraud"), Call(request_id=str(number)))
    assert lines == []
    mesh.backends["one"].state["error"] = Unavailable("away")
    for number in range(100):
        with pytest.raises(Unavailable):
            await gateway.infer(ask("fraud"), Call(request_id=str(number)))

    assert len(lines) == expected


async def test_no_credential_comes_into_a_line(make_mesh, ask, lines):
    secret = "tell-nobody"
    metadata = {"x-api-key": secret, "authorization": f"Bearer {secret}"}

    await composed(make_mesh([ROUTE]), lines, Refusing()).infer(ask("fraud"), Call(metadata=metadata))

    assert len(lines) == 1
    assert secret not in json.dumps(lines)


async def test_other_rpcs_have_no_journal(make_mesh, lines):
    call = Call()

    await composed(make_mesh([ROUTE]), lines).admit("ModelMetadata", "fraud", "", call)

    assert call.journal is None


async def test_a_fallback_is_named_with_what_it_was_asked_for(make_mesh, ask, lines):
    """The variant that failed was picked; the step that answered is the one that counts."""
    mesh = make_mesh([ROUTE])
    mesh.backends["one"].state["error"] = Unavailable("away", reason="DRAINING")

    class Step:
        name = "constant"

        async def answer(self, request, call):
            return ModelInferResponse(model_name=request.model_name)

    fallback = Fallback(steps=[Step()], reserve_s=0, observe=lambda step, outcome: None)
    audited = Audited(write=lambda entry: lines.append(json.loads(line_of(entry))), label=mesh.table.label)

    await stack(audited, fallback, service=mesh.table).infer(ask("fraud"), Call())

    (line,) = lines
    assert (line["code"], line["fallback"], line["picked"], line["variant"]) == ("OK", "constant", "stable", "")
    assert line["fallback_for"] == {"code": "UNAVAILABLE", "reason": "DRAINING"}


async def test_pauses_between_attempts_are_told_apart(ask):
    """Two attempts of 100 and 50 ms with 250 ms between them; before the first and after the last nothing is a pause."""
    times = iter([5.0, 5.1, 5.35, 5.4])
    attempted, call = Attempted("one", clock=lambda: next(times)), Call(journal=Journal("ModelInfer"))

    async def answering(request, call):
        return ModelInferResponse()

    await attempted(ask("m"), call, answering)
    await attempted(ask("m"), call, answering)

    assert call.journal.waited_s == pytest.approx(0.25)
    assert [each.took_s for each in call.journal.attempts] == pytest.approx([0.1, 0.05])

"""What answers when all else fails: never a lie about what it is, and never for a fault of the caller's."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from infermesh.call import Call, Caller
from infermesh.deadline import Deadline
from infermesh.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    ForeignStatus,
    Internal,
    InvalidRequest,
    MeshError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService, stack
from services.gateway.answer_cache import ENTRY_BYTES, AnswerCache
from services.gateway.constant_answer import ConstantAnswer
from services.gateway.fallback import Asked, Fallback, Step
from services.gateway.fallback_config import CachedConfig, ConstantConfig
from services.gateway.routes import StickyConfig
from services.gateway.sticky import StickyKey


class Backend(InferenceService):
    """Answers with its name, or fails as it is told."""

    def __init__(self, name: str, error: MeshError | None = None, clock: Any = None, takes_s: float = 0.0) -> None:
        self.name, self.error, self.clock, self.takes_s = name, error, clock, takes_s
        self.calls: list[Call] = []

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        self.calls.append(call)
        if self.clock is not None:
            self.clock.now += min(self.takes_s, call.deadline.remaining())
        if self.error is not None:
            raise self.error
        response = pb.ModelInferResponse(model_name=self.name, id=request.id)
        response.outputs.add(name="y", datatype="FP32", shape=[1]).contents.fp32_contents.append(1.0)
        return response


CONSTANT = {
    "outputs": [
        {"name": "label", "datatype": "INT64", "shape": [-1], "data": [7]},
        {"name": "p", "datatype": "FP32", "shape": [-1, 2], "data": [0.25, 0.75]},
        {"name": "why", "datatype": "BYTES", "shape": [1], "data": ["default"]},
    ]
}


def request(rows: int = 1, *, raw: bool = False, outputs: tuple[str, ...] = (), **rest: Any) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name="fraud", id="7", **rest)
    tensor = made.inputs.add(name="x", datatype="FP32", shape=[rows, 1])
    if raw:
        made.raw_input_contents.append(b"\0" * 4 * rows)
    else:
        tensor.contents.fp32_contents.extend([0.0] * rows)
    for name in outputs:
        made.outputs.add(name=name)
    return made


def constant(**config: Any) -> ConstantAnswer:
    return ConstantAnswer(ConstantConfig.model_validate(config or CONSTANT))


def cache(clock: Any = None, sticky: StickyKey | None = None, **config: Any) -> AnswerCache:
    made = CachedConfig.model_validate({"by": "sticky" if sticky else "request", **config})
    return AnswerCache(made, sticky, **({"clock": clock} if clock else {}))


class Parts:
    def __init__(self, error: MeshError | None, *steps: Step, enforce: bool = True, reserve_s: float = 0.0) -> None:
        self.primary = Backend("fraud", error)
        self.seen: list[tuple[str, str]] = []
        fallback = Fallback(steps=steps, reserve_s=reserve_s, enforce=enforce, observe=self.observe)
        self.service = stack(fallback, service=self.primary)

    def observe(self, step: str, outcome: str) -> None:
        self.seen.append((step, outcome))

    async def ask(self, asked: pb.ModelInferRequest | None = None, **call: Any) -> pb.ModelInferResponse:
        return await self.service.infer(asked or request(), Call(**call))


def mark(response: pb.ModelInferResponse) -> str:
    return str(response.parameters["infermesh_fallback"].string_param)


async def test_a_call_that_succeeds_is_left_alone() -> None:
    """No step is asked, and the answer has no mark."""
    parts = Parts(None, constant())

    response = await parts.ask()

    assert "infermesh_fallback" not in response.parameters
    assert parts.seen == []


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("away"),
        Unavailable("open", reason="BREAKER_OPEN", rejected=True),
        Internal("garbage"),
        DeadlineExceeded("too late", reason="NO_TIME", rejected=True),
        ResourceExhausted("full", rejected=True),
        ForeignStatus("UNKNOWN", "?"),
    ],
)
async def test_failures_of_the_mesh_are_helped_and_the_answer_is_marked(error: MeshError) -> None:
    """Away, defect, overloaded or too slow."""
    response = await Parts(error, constant()).ask()

    assert mark(response) == "constant"
    assert (response.model_name, response.id) == ("fraud", "7")


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("bad"),
        PermissionDenied("no"),
        NotFound("no such"),
        FailedPrecondition("no feature"),
        ResourceExhausted("message too large"),
    ],
)
async def test_faults_of_the_caller_are_told(error: MeshError) -> None:
    """No default hides a mistake."""
    parts = Parts(error, constant())

    with pytest.raises(type(error)):
        await parts.ask()
    assert parts.seen == []


async def test_nobody_is_answered_when_no_time_is_left(clock: Any) -> None:
    """The deadline is the end for fallbacks too."""
    parts = Parts(DeadlineExceeded("late"), constant())
    parts.primary.clock, parts.primary.takes_s = clock, 9.0

    with pytest.raises(DeadlineExceeded, match="late"):
        await parts.ask(deadline=Deadline.after(1, clock))
    assert parts.seen == []


async def test_a_reserve_of_the_time_is_kept_for_it(clock: Any) -> None:
    """A primary that hangs has less time than the caller, so that the default still comes in time."""
    parts = Parts(DeadlineExceeded("late"), constant(), reserve_s=0.1)
    parts.primary.clock, parts.primary.takes_s = clock, 9.0

    assert mark(await parts.ask(deadline=Deadline.after(1, clock))) == "constant"
    assert clock.now == pytest.approx(1000.9)


@pytest.mark.parametrize("pin", [{"model_version": "2"}, {}])
async def test_a_call_that_pins_version_or_variant_wants_that_or_nothing(pin: Any) -> None:
    """No other variant, model or default stands in for it."""
    parts = Parts(Unavailable("away"), constant())
    metadata = {} if pin else {"x-infermesh-variant": "canary"}

    with pytest.raises(Unavailable):
        await parts.ask(request(**pin), metadata=metadata)


async def test_steps_are_tried_in_order_until_one_answers() -> None:
    """A variant that fails, a cache that has nothing, another model that answers under the caller's name."""
    variant, other = Backend("v", Unavailable("away too")), Backend("simple")
    steps = [Asked("variant:old", variant, "old"), cache(), Asked("model:simple", other, "fallback", "simple")]
    parts = Parts(Unavailable("away"), *steps)

    response = await parts.ask()

    assert parts.seen == [("variant:old", "failed"), ("cached", "none"), ("model:simple", "answered")]
    assert (mark(response), response.model_name) == ("model:simple", "fraud")
    assert response.parameters["infermesh_model"].string_param == "simple"
    assert variant.calls[0].variant == "old"


async def test_when_no_step_helps_the_first_error_is_told() -> None:
    """Not that of the last step."""
    parts = Parts(Unavailable("the primary is away"), Asked("variant:old", Backend("v", Internal("worse")), "old"))

    with pytest.raises(Unavailable, match="the primary is away"):
        await parts.ask()


async def test_observing_counts_and_tells_the_error() -> None:
    """In observe mode nobody gets a default, and no answer is kept."""
    parts = Parts(Unavailable("away"), constant(), enforce=False)

    with pytest.raises(Unavailable):
        await parts.ask()
    assert parts.seen == [("any", "wanted")]


async def test_a_last_answer_is_given_again_under_the_new_id(clock: Any) -> None:
    """The same question from the same tenant, while it is young; another tenant or question gets none."""
    kept = cache(clock, max_age="10s")
    parts = Parts(None, kept)
    await parts.ask()
    parts.primary.error = Unavailable("away")
    again = request()
    again.id = "8"

    response = await parts.ask(again)

    assert (mark(response), response.id, response.outputs[0].contents.fp32_contents[0]) == ("cached", "8", 1.0)
    for asked, caller in ((request(rows=2), Caller()), (request(), Caller(tenant="b"))):
        with pytest.raises(Unavailable):
            await parts.ask(asked, caller=caller)
    clock.now += 11
    with pytest.raises(Unavailable):
        await parts.ask()
    assert (len(kept), kept.held_bytes) == (0, 0)


async def test_by_sticky_key_the_last_answer_for_the_same_user_is_given() -> None:
    """Other values in the inputs do not matter, another shape or user does; without a key there is none."""
    sticky = StickyKey(StickyConfig(metadata="x-user"))
    parts = Parts(None, cache(sticky=sticky))
    await parts.ask(metadata={"x-user": "u1"})
    parts.primary.error = Unavailable("away")
    other_values = request()
    other_values.inputs[0].contents.fp32_contents[0] = 5.0

    assert mark(await parts.ask(other_values, metadata={"x-user": "u1"})) == "cached"
    for asked, metadata in ((request(rows=2), {"x-user": "u1"}), (request(), {"x-user": "u2"}), (request(), {})):
        with pytest.raises(Unavailable):
            await parts.ask(asked, metadata=metadata)


async def test_100_000_questions_keep_the_cache_within_its_bytes() -> None:
    """The oldest answers go; what is too large is not kept at all."""
    kept = cache(max_bytes="64KiB", max_entry="1KiB")
    answer = pb.ModelInferResponse(model_name="m", id="1")
    for at in range(100_000):
        kept.remember(pb.ModelInferRequest(model_name=f"m{at}"), Call(), answer)
    size = len(kept)
    answer.raw_output_contents.append(b"x" * 2000)
    kept.remember(pb.ModelInferRequest(model_name="large"), Call(), answer)

    assert kept.held_bytes <= 64 * 1024
    assert 50 < size == len(kept) <= 64 * 1024 // ENTRY_BYTES


async def test_a_request_is_not_changed_by_being_remembered() -> None:
    """It belongs to its sender."""
    asked, before = request(), request()

    cache().remember(asked, Call(), pb.ModelInferResponse())

    assert asked == before


@pytest.mark.parametrize("raw", [False, True])
async def test_a_constant_has_the_form_and_the_rows_of_the_request(raw: bool) -> None:
    """Typed to typed, raw to raw; outputs by row once for each row."""
    response = await constant().answer(request(rows=3, raw=raw), Call())

    assert response is not None
    assert [list(each.shape) for each in response.outputs] == [[3], [3, 2], [1]]
    if raw:
        labels, shares, why = response.raw_output_contents
        assert struct.unpack("<3q", labels) == (7, 7, 7)
        assert struct.unpack("<6f", shares) == (0.25, 0.75) * 3
        assert why == b"\x07\0\0\0default"
    else:
        assert list(response.outputs[0].contents.int64_contents) == [7, 7, 7]
        assert list(response.outputs[1].contents.fp32_contents) == [0.25, 0.75] * 3
        assert list(response.outputs[2].contents.bytes_contents) == [b"default"]


async def test_a_constant_answers_what_it_is_asked_for_or_not_at_all() -> None:
    """Outputs in the order asked; an unknown one, negative rows, and rows that nobody has sent are no answer."""
    response = await constant().answer(request(outputs=("why", "label", "why")), Call())
    assert response is not None
    assert [each.name for each in response.outputs] == ["why", "label"]

    forged = request()
    for rows in (-1, 2**40):
        forged.inputs[0].shape[0] = rows
        assert await constant().answer(forged, Call()) is None
    assert await constant().answer(request(outputs=("no-such",)), Call()) is None


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ({"name": "y", "datatype": "FP16", "shape": [1], "data": [1]}, "datatype"),
        ({"name": "y", "datatype": "INT8", "shape": [1], "data": [128]}, "whole numbers from -128 to 127"),
        ({"name": "y", "datatype": "INT8", "shape": [1], "data": [True]}, "whole numbers"),
        ({"name": "y", "datatype": "FP32", "shape": [1], "data": ["a"]}, "expected numbers"),
        ({"name": "y", "datatype": "BOOL", "shape": [1], "data": [1]}, "true or false"),
        ({"name": "y", "datatype": "FP32", "shape": [-1, 2], "data": [1]}, "expected 2 elements"),
        ({"name": "y", "datatype": "FP32", "shape": [2, -1], "data": []}, "first dimension alone"),
    ],
)
def test_a_constant_that_no_client_could_read_is_refused_at_start(output: Any, words: str) -> None:
    """With what would be right."""
    with pytest.raises(ValueError, match=words):
        ConstantConfig.model_validate({"outputs": [output]})

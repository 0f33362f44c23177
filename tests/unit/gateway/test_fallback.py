"""What answers when all else fails: never a lie about what it is, and never for a fault of the caller's."""

from __future__ import annotations

from collections.abc import AsyncIterator
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
from services.gateway.fallback import Asked, Fallback, Step
from services.gateway.fallback_config import CachedConfig
from services.gateway.remembering import Remembering
from services.gateway.routes import StickyConfig
from services.gateway.sticky import StickyKey
from tests.unit.gateway.fallback_parts import constant, request


class Backend(InferenceService):
    """Answers with its name, or fails as it is told."""

    def __init__(self, name: str, error: MeshError | None = None, clock: Any = None, takes_s: float = 0.0) -> None:
        self.name, self.error, self.clock, self.takes_s = name, error, clock, takes_s
        self.calls: list[Call] = []
        self.version = ""

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        self.calls.append(call)
        if self.clock is not None:
            self.clock.now += min(self.takes_s, call.deadline.remaining())
        if self.error is not None:
            raise self.error
        response = pb.ModelInferResponse(model_name=self.name, id=request.id, model_version=self.version)
        response.outputs.add(name="y", datatype="FP32", shape=[1]).contents.fp32_contents.append(1.0)
        return response


def cache(clock: Any = None, sticky: StickyKey | None = None, entity: str = "", **config: Any) -> AnswerCache:
    made = CachedConfig.model_validate({"by": "sticky" if sticky else "request", **config})
    return AnswerCache(made, sticky, entity=entity, **({"clock": clock} if clock else {}))


class Parts:
    def __init__(self, error: MeshError | None, *steps: Step, enforce: bool = True, reserve_s: float = 0.0) -> None:
        self.primary = Backend("fraud", error)
        self.seen: list[tuple[str, str]] = []
        self.covered: list[tuple[str, str, float]] = []
        fallback = Fallback(
            steps=steps,
            reserve_s=reserve_s,
            enforce=enforce,
            observe=self.observe,
            failed=self.failed,
            clock=self.clock,
        )
        caches = [step for step in steps if isinstance(step, AnswerCache)]
        self.service = stack(fallback, service=Remembering(caches, self.primary))

    def clock(self) -> float:
        return self.primary.clock.now if self.primary.clock is not None else 0.0

    def failed(self, variant: str, code: str, seconds: float) -> None:
        self.covered.append((variant, code, seconds))

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


async def test_the_last_answer_of_an_entity_is_given_to_no_other() -> None:
    """Requests of several rows, of several ids in a row, and keys too long to be told apart are neither kept nor answered."""
    sticky = StickyKey(StickyConfig(input="x"))
    kept = cache(sticky=sticky, entity="x")

    def ids(*values: str, shape: tuple[int, ...] = ()) -> pb.ModelInferRequest:
        made = pb.ModelInferRequest(model_name="fraud", id="7")
        tensor = made.inputs.add(name="x", datatype="BYTES", shape=shape or (len(values),))
        tensor.contents.bytes_contents.extend(each.encode() for each in values)
        return made

    parts = Parts(None, kept)
    for asked in (ids("a", "b"), ids("a", "b", shape=(1, 2)), ids("k" * 256 + "alice")):
        await parts.ask(asked)
    assert len(kept) == 0
    await parts.ask(ids("a"))
    parts.primary.error = Unavailable("away")

    assert mark(await parts.ask(ids("a"))) == "cached"
    for asked in (ids("b"), ids("a", "c"), ids("a", "c", shape=(1, 2)), ids("k" * 256 + "bob")):
        with pytest.raises(Unavailable):
            await parts.ask(asked)


@pytest.mark.parametrize("by_sticky", [False, True])
async def test_other_parameters_are_another_question(by_sticky: bool) -> None:
    """Whatever the meaning of the answer may hang on."""
    parts = Parts(None, cache(sticky=StickyKey(StickyConfig(metadata="x-user")) if by_sticky else None))
    metadata = {"x-user": "u1"}
    await parts.ask(metadata=metadata)
    parts.primary.error = Unavailable("away")
    other = request()
    other.parameters["mode"].string_param = "strict"

    assert mark(await parts.ask(metadata=metadata)) == "cached"
    with pytest.raises(Unavailable):
        await parts.ask(other, metadata=metadata)


async def test_after_an_update_nobody_gets_what_the_version_before_said() -> None:
    """Nor after a step back, until the old one has answered that question again."""
    parts = Parts(None, cache())
    parts.primary.version = "1"
    await parts.ask()
    parts.primary.version = "2"
    await parts.ask(request(rows=2))
    parts.primary.error = Unavailable("away")

    with pytest.raises(Unavailable):
        await parts.ask()
    assert (await parts.ask(request(rows=2))).model_version == "2"


async def test_what_one_caller_may_see_is_not_kept_for_others() -> None:
    """Generation and reason are for who may debug; who asked gets them, and the cache does not."""
    kept = cache()
    answer = pb.ModelInferResponse(model_name="fraud")
    answer.parameters["infermesh_generation"].int64_param = 3
    answer.parameters["infermesh_picked_by"].string_param = "rule beta"
    answer.parameters["infermesh_variant"].string_param = "stable"

    kept.remember(request(), Call(), answer)
    again = await kept.answer(request(), Call())

    assert again is not None and list(again.parameters) == ["infermesh_variant"]
    assert len(answer.parameters) == 3


@pytest.mark.parametrize("answers", [1, 3])
async def test_of_a_stream_only_an_answer_that_is_the_whole_is_kept(answers: int) -> None:
    """The first of several answers to a question is not what a unary call is to be told."""
    kept = cache()

    class Streaming(Backend):
        async def stream(self, request: pb.ModelInferRequest, call: Call) -> AsyncIterator[pb.ModelInferResponse]:
            for _ in range(answers):
                yield await self.infer(request, call)

    service = Remembering([kept], Streaming("fraud"))

    seen = [each async for each in service.stream(request(), Call())]

    assert (len(seen), len(kept)) == (answers, answers == 1)


async def test_a_call_that_pins_a_version_or_variant_is_not_remembered() -> None:
    """Its answer is not one that the route would have given."""
    kept = cache()
    service = Remembering([kept], Backend("fraud"))

    await service.infer(request(model_version="2"), Call())
    await service.infer(request(), Call(metadata={"x-infermesh-variant": "canary"}))

    assert len(kept) == 0


async def test_the_variant_that_has_just_failed_is_not_asked_again() -> None:
    """It is passed over, with no outcome; the next step is asked."""
    error = Unavailable("away")
    error.variant = "stable"
    same, other = Backend("fraud"), Backend("fraud")
    parts = Parts(error, Asked("variant:stable", same, "stable"), Asked("variant:old", other, "old"))

    assert mark(await parts.ask()) == "variant:old"
    assert (same.calls, parts.seen) == ([], [("variant:old", "answered")])


async def test_a_failure_that_is_covered_is_told(clock: Any) -> None:
    """With the variant, its code and its time; one that is not covered is told to the caller, and counted from there."""
    error = Internal("broken")
    error.variant = "canary"
    parts = Parts(error, constant())
    parts.primary.clock, parts.primary.takes_s = clock, 0.25

    await parts.ask()
    with pytest.raises(Internal):
        await parts.ask(request(outputs=("no-such",)))

    assert parts.covered == [("canary", "INTERNAL", 0.25)]


async def test_the_caller_is_told_beside_the_answer_what_answered() -> None:
    """In the trailing metadata: the variant of a step, or `fallback`."""
    error = Unavailable("away")
    for step, expected in ((constant(), "fallback"), (Asked("variant:old", Backend("fraud"), "old"), "old")):
        trailing = {"x-infermesh-variant": "stable"}
        await Parts(error, step).ask(trailing=trailing)
        assert trailing == {"x-infermesh-variant": expected}


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

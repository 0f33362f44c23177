"""Tests of how many calls a backend may have at a time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from infermesh.call import Call
from infermesh.errors import InvalidRequest, ResourceExhausted, Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from services.gateway.concurrency import ConcurrencyLimit, shares
from services.gateway.limits_config import ConcurrencyConfig

SHADOW = Call(shadow=True)


class Backend:
    """Answers when it is told to."""

    def __init__(self, limit: ConcurrencyLimit) -> None:
        self.limit = limit
        self.gate = asyncio.Event()

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        await self.gate.wait()
        return pb.ModelInferResponse()

    def ask(self, model: str = "iris", call: Call | None = None, priority: int = 0) -> asyncio.Task[Any]:
        request = pb.ModelInferRequest(model_name=model)
        if priority:
            request.parameters["priority"].uint64_param = priority
        return asyncio.ensure_future(self.limit(request, call or Call(), self.infer))

    async def refuses(self, **asked: Any) -> bool:
        """Whether it refuses at once; else the call is under way from now on."""
        task = self.ask(**asked)
        await asyncio.sleep(0)
        return task.done() and isinstance(task.exception(), ResourceExhausted)


def _backend(seen: list[str], enforce: bool = True, **config: Any) -> Backend:
    settings = ConcurrencyConfig.model_validate({"max_in_flight": 10, **config})
    return Backend(ConcurrencyLimit(backend="one", most=shares(settings, "one"), enforce=enforce, observe=seen.append))


async def test_copies_yield_first_then_explanations_then_predictions() -> None:
    """With 5, 8 and 10 of 10 calls under way copies, explanations and background, and predictions are refused."""
    seen: list[str] = []
    backend = _backend(seen)
    kinds: list[dict[str, Any]] = [{"call": SHADOW}, {"model": "iris-explainer"}, {"priority": 2}, {}]

    first_refused: dict[int, int] = {}
    for under_way in range(11):
        for at, asked in enumerate(kinds):
            if at not in first_refused and await backend.refuses(**asked):
                first_refused[at] = under_way
            elif at not in first_refused:
                backend.limit.in_flight -= 1  # as if it had ended
        backend.limit.in_flight += 1

    assert first_refused == {0: 5, 1: 8, 2: 8, 3: 10}
    assert seen == ["shadow", "explanation", "background", "prediction"]
    backend.gate.set()


async def test_a_refusal_says_why_and_when_to_come_back() -> None:
    """RESOURCE_EXHAUSTED before any work, with a pushback, the backend and its limit."""
    backend = _backend([], max_in_flight=1)
    running = backend.ask()
    await asyncio.sleep(0)

    with pytest.raises(ResourceExhausted, match='model "iris": the backend one has 1 calls') as refused:
        await backend.ask()

    assert (refused.value.reason, refused.value.rejected, refused.value.retry_after_s) == (
        "CONCURRENCY_LIMITED",
        True,
        0.1,
    )
    backend.gate.set()
    await running


async def test_a_place_is_free_when_a_call_has_ended_however_it_did() -> None:
    """Answered, failed or cancelled: nothing is counted for ever."""
    backend = _backend([], max_in_flight=2)

    async def fails(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        raise Unavailable("gone")

    with pytest.raises(Unavailable):
        await backend.limit(pb.ModelInferRequest(), Call(), fails)
    cancelled, answered = backend.ask(), backend.ask()
    await asyncio.sleep(0)
    assert await backend.refuses()
    cancelled.cancel()
    backend.gate.set()
    await asyncio.wait({cancelled, answered})

    assert backend.limit.in_flight == 0


async def test_observe_counts_and_refuses_nobody() -> None:
    """Calls past the limit go on, and are counted."""
    seen: list[str] = []
    backend = _backend(seen, enforce=False, max_in_flight=1)

    assert not any([await backend.refuses() for _ in range(3)])
    assert seen == ["prediction"] * 2
    backend.gate.set()


async def test_a_priority_that_is_none_is_the_callers_fault() -> None:
    """A negative priority is told, and no place is lost."""
    backend = _backend([])
    request = pb.ModelInferRequest(model_name="iris")
    request.parameters["priority"].int64_param = -1

    with pytest.raises(InvalidRequest, match="priority"):
        await backend.limit(request, Call(), backend.infer)

    assert backend.limit.in_flight == 0


def test_each_backend_may_have_its_own_number() -> None:
    """A named backend has its number, others the common one; a share is never nothing, but for copies."""
    config = ConcurrencyConfig.model_validate({"max_in_flight": 100, "backends": {"small": 1}, "shadows": 0.5})

    assert shares(config, "other") == {"prediction": 100, "background": 80, "explanation": 80, "shadow": 50}
    assert shares(config, "small") == {"prediction": 1, "background": 1, "explanation": 1, "shadow": 0}


@pytest.mark.parametrize(
    "wrong", [{"max_in_flight": 0}, {"backends": {"one": 0}}, {"shadows": 1.5}, {"explanations": 0}]
)
def test_numbers_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    """A limit that lets nobody in, and shares over one, are faults of the configuration."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ConcurrencyConfig.model_validate(wrong)

"""One answer from several backends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from infermesh.errors import InvalidRequest, MeshError, NotFound, Unavailable, Unimplemented
from infermesh.merge import all_of, any_of, merged_index, merged_statistics
from infermesh.protocol import open_inference_pb2 as pb


async def says(answer: Any, after_s: float = 0.0) -> Any:
    """A backend's answer, or its error."""
    await asyncio.sleep(after_s)
    if isinstance(answer, BaseException):
        raise answer
    return answer


@pytest.mark.parametrize("merge", [all_of, any_of])
async def test_every_answer_comes_in_the_order_asked(merge: Any) -> None:
    """However long each takes."""
    assert await merge([says("a", 0.01), says("b")]) == ["a", "b"]


async def test_a_model_need_not_be_in_every_backend() -> None:
    """NOT_FOUND from some is nothing beside the answer of another; from all it is the answer."""
    assert await all_of([says(NotFound("not here")), says("b")]) == ["b"]
    with pytest.raises(NotFound, match="first"):
        await all_of([says(NotFound("first")), says(NotFound("second"))])


@pytest.mark.parametrize("error", [Unavailable("away"), InvalidRequest("wrong"), KeyError("defect")], ids=type)
async def test_what_must_happen_everywhere_fails_if_it_fails_somewhere(error: Exception) -> None:
    """Any other error is raised, beside answers and beside NOT_FOUND."""
    with pytest.raises(type(error)):
        await all_of([says("a"), says(error)])


async def test_the_first_error_is_raised_when_all_have_answered() -> None:
    """Nothing is left running behind the caller's back, and the order asked decides, not the time."""
    done: list[str] = []

    async def slow() -> str:
        await asyncio.sleep(0.02)
        done.append("slow")
        return "slow"

    with pytest.raises(Unavailable, match="first"):
        await all_of([says(Unavailable("first"), 0.01), slow(), says(Unavailable("second"))])

    assert done == ["slow"]


@pytest.mark.parametrize("error", [Unavailable("away"), NotFound("not here"), Unimplemented("keeps none")], ids=type)
async def test_those_who_answer_are_enough(error: MeshError) -> None:
    """Whatever the others say."""
    assert await any_of([says(error), says("b")]) == ["b"]


async def test_when_nobody_answers_the_reason_that_says_most_is_raised() -> None:
    """A backend that is away may have had an answer; one that keeps no models never has."""
    with pytest.raises(Unavailable, match="first"):
        await any_of([says(Unimplemented("keeps none")), says(Unavailable("first")), says(Unavailable("second"))])
    with pytest.raises(Unimplemented, match="second"):
        await any_of([says(Unimplemented("first")), says(Unimplemented("second"))])
    with pytest.raises(Unimplemented, match="there are no backends"):
        await any_of([])


async def test_a_defect_is_not_hidden_by_answers() -> None:
    """What is no error of the mesh passes."""
    with pytest.raises(KeyError):
        await any_of([says("a"), says(KeyError("defect"))])


@pytest.mark.parametrize("merge", [all_of, any_of])
async def test_cancelling_the_caller_cancels_what_was_asked(merge: Any) -> None:
    """Nobody works for who has gone away."""
    cancelled = asyncio.Event()
    begun = asyncio.Event()

    async def backend() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    asking = asyncio.ensure_future(merge([backend()]))
    await begun.wait()
    asking.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asking
    assert cancelled.is_set()


def entry(name: str, version: str, state: str, reason: str = "") -> pb.RepositoryIndexResponse:
    index = pb.RepositoryIndexResponse.ModelIndex(name=name, version=version, state=state, reason=reason)
    return pb.RepositoryIndexResponse(models=[index])


def test_a_version_is_in_the_index_once() -> None:
    """Sorted by name and version, each with a backend's own reason."""
    merged = merged_index(
        [
            entry("b", "1", "READY"),
            entry("a", "2", "UNAVAILABLE", "why"),
            entry("a", "1", "READY"),
            entry("b", "1", "READY"),
        ]
    )

    assert [(m.name, m.version, m.state, m.reason) for m in merged.models] == [
        ("a", "1", "READY", ""),
        ("a", "2", "UNAVAILABLE", "why"),
        ("b", "1", "READY", ""),
    ]


@pytest.mark.parametrize("ready_first", [True, False])
def test_ready_somewhere_is_ready(ready_first: bool) -> None:
    """Whichever backend was asked first."""
    answers = [entry("a", "1", "READY"), entry("a", "1", "LOADING"), entry("a", "1", "UNAVAILABLE", "why")]

    merged = merged_index(answers if ready_first else reversed(answers))

    assert [(m.state, m.reason) for m in merged.models] == [("READY", "")]


def test_an_answer_is_not_changed_by_merging() -> None:
    """They belong to who asked; the merged one is a copy."""
    answer = entry("a", "1", "READY")

    merged_index([answer]).models[0].state = "LOADING"

    assert answer.models[0].state == "READY"


def test_statistics_stand_one_after_the_other() -> None:
    """Two backends with the same version count apart."""
    one, two = (
        pb.ModelStatisticsResponse(model_stats=[pb.ModelStatistics(name="m", inference_count=n)]) for n in (1, 2)
    )

    assert [s.inference_count for s in merged_statistics([one, two]).model_stats] == [1, 2]

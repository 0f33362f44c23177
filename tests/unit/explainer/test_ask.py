"""What the explainer asks the model, in which messages, and of which version."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.errors import (
    Unavailable,
)
from tests.unit.explainer.asked_rows import draw, total


async def test_everything_is_asked_in_two_messages_when_it_fits(lab: SimpleNamespace) -> None:
    """Background and rows first, all coalitions of all rows second; what is sent is counted."""
    model = lab.FunctionModel(total)

    answer = await lab.explain(model, draw(5), draw(4, 1))

    assert model.rows_seen == [5 + 4, 4 * 6 * 5]
    assert model.described == 1
    assert answer.parameters["infermesh_rows_sent"] == 9 + 120
    assert answer.parameters["infermesh_evaluations"] == 8


async def test_messages_have_no_more_rows_and_bytes_than_configured(lab: SimpleNamespace) -> None:
    """The smaller of both bounds counts, and answers count like questions."""
    model = lab.FunctionModel(total)
    await lab.explain(model, draw(5), draw(4, 1), {"asking": {"max_rows": 50}})
    assert max(model.rows_seen) == 50
    assert sum(model.rows_seen) == 129

    model = lab.FunctionModel(total)
    await lab.explain(model, draw(5), draw(4, 1), {"asking": {"max_bytes": "600B"}})
    assert max(model.rows_seen) == 600 // 24

    wide = lab.FunctionModel(
        lambda given: {"y": np.repeat(given["x"], 100, axis=1)}, outputs=[("y", "FP64", (-1, 300))]
    )
    await lab.explain(wide, draw(5), draw(1, 1), {"asking": {"max_bytes": "24kB"}})
    assert max(wide.rows_seen) == 24_000 // 2400


async def test_equal_rows_are_asked_about_once(lab: SimpleNamespace) -> None:
    """A feature that has the background's value, rows that come twice, backgrounds that agree: each costs nothing more."""
    model = lab.FunctionModel(total)
    background = {"x": np.array([[0.0, 1.0, 2.0], [0.0, 1.0, 3.0]])}
    rows = {"x": np.array([[0.0, 5.0, 6.0], [0.0, 5.0, 6.0]])}

    answer = await lab.explain(model, background, rows)

    # Of the first feature nothing is ever known; the second and third make (5,2) (5,3) (1,6) (1,2) (1,3) (5,6).
    assert model.rows_seen == [4, 6]
    assert answer.attributions[:, 0] == pytest.approx(0)
    assert answer.attributions[0] == pytest.approx(answer.attributions[1])


async def test_several_messages_are_under_way_but_no_more_than_configured(lab: SimpleNamespace) -> None:
    """Per explanation, and of all explanations together."""
    model = lab.FunctionModel(total)
    asking = {"max_rows": 10, "in_flight": 5, "in_flight_each": 3}
    await lab.explain(model, draw(5), draw(9, 1), {"asking": asking})
    assert model.most_in_flight == 3

    model = lab.FunctionModel(total)
    service = lab.explainer(model, draw(5), asking=asking)
    request = lab.request_of(draw(9, 1))
    await asyncio.gather(*(service.infer(request, Call()) for _ in range(4)))
    assert model.most_in_flight == 5


async def test_the_version_that_answers_first_is_asked_for_from_then_on(lab: SimpleNamespace) -> None:
    """Without a version the first message has none and the others have the number that answered."""
    model = lab.FunctionModel(total, versions=["2", "10"])

    answer = await lab.explain(model, draw(5), draw(4, 1), {"asking": {"max_rows": 20}})

    assert [request.model_version for request in model.requests] == ["", *["10"] * (len(model.requests) - 1)]
    assert answer.response.model_version == "10"
    assert answer.parameters["infermesh_model"] == "model"
    assert answer.parameters["infermesh_model_version"] == "10"


async def test_a_version_that_is_asked_for_is_the_one_that_is_explained(lab: SimpleNamespace) -> None:
    """In the metadata and in every message."""
    model = lab.FunctionModel(total, versions=["2", "10"])
    service = lab.explainer(model, draw(5))
    request = lab.request_of(draw(1, 1))
    request.model_version = "2"

    response = await service.infer(request, Call())

    assert {asked.model_version for asked in model.requests} == {"2"}
    assert response.model_version == "2"


async def test_the_request_of_the_caller_is_not_changed(lab: SimpleNamespace) -> None:
    """A request belongs to its sender."""
    model = lab.FunctionModel(total)
    request = lab.request_of(draw(2, 1), output="y")
    before = request.SerializeToString(deterministic=True)

    await lab.explainer(model, draw(5)).infer(request, Call())

    assert request.SerializeToString(deterministic=True) == before


async def test_the_call_goes_on_to_the_model(lab: SimpleNamespace) -> None:
    """Deadline, request id, trace and variant are those of the caller."""
    model = lab.FunctionModel(total)
    call = Call(request_id="r-1", variant="canary")

    await lab.explain(model, draw(5), draw(1, 1), call=call)

    assert all(asked is call for asked in model.calls)


async def test_parameters_that_are_not_the_explainers_go_on_to_the_model(lab: SimpleNamespace) -> None:
    """Its own and the timeout of the whole stay; a priority and what nobody here knows go with every message."""
    model = lab.FunctionModel(total)

    await lab.explain(
        model, draw(5), draw(1, 1), seed=1, method="exact", timeout=10_000_000, priority=3, flavour="salt"
    )

    for asked in model.requests:
        assert set(asked.parameters) == {"priority", "flavour"}
        assert asked.parameters["flavour"].string_param == "salt"


async def test_a_version_that_changes_midway_is_unavailable(lab: SimpleNamespace) -> None:
    """Half of one version and half of another explains neither: the caller is told to ask again."""
    model = lab.FunctionModel(total, versions=["1", "2"])
    model.answer = lambda request, version, honest=model.answer: honest(request, "2" if request.model_version else "1")

    with pytest.raises(
        Unavailable, match='version 1 was being explained, and version "2" answered; ask again'
    ) as refused:
        await lab.explain(model, draw(5), draw(1, 1))

    assert refused.value.reason == "VERSION_CHANGED"


async def test_a_version_that_goes_midway_is_unavailable_and_not_unknown(lab: SimpleNamespace) -> None:
    """NOT_FOUND would say that the caller asked for what there is not."""
    model = lab.FunctionModel(total, versions=["1"])
    honest = model.answer

    def answer(request, version):
        model.versions[:] = ["2"]
        return honest(request, version)

    model.answer = answer

    with pytest.raises(
        Unavailable, match=r"version 1 was being explained, and it is gone now .*no version 1, it has 2"
    ):
        await lab.explain(model, draw(5), draw(1, 1))


async def test_a_version_that_came_between_metadata_and_answer_is_described_anew(lab: SimpleNamespace) -> None:
    """Names come from the version that is explained."""
    model = lab.FunctionModel(total, versions=["1"], properties={"infermesh.columns.x": ["a", "b", "c"]})
    honest = model.answer

    def answer(request, version):
        model.versions[:] = ["1", "2"]
        model.properties["infermesh.columns.x"] = '["d", "e", "f"]'
        return honest(request, request.model_version or "2")

    model.answer = answer

    answered = await lab.explain(model, draw(5), draw(1, 1))

    assert answered.response.model_version == "2"
    assert answered.feature_names.tolist() == [b"d", b"e", b"f"]


async def test_a_version_with_other_tensors_that_came_in_between_is_unavailable(lab: SimpleNamespace) -> None:
    """What was checked against the one does not hold for the other."""
    model = lab.FunctionModel(total, versions=["1"])
    honest = model.answer

    def answer(request, version):
        model.versions[:] = ["1", "2"]
        model.outputs = [("y", "FP64", (-1, 1)), ("z", "FP64", (-1, 1))]
        return honest(request, request.model_version or "2")

    model.answer = answer

    with pytest.raises(Unavailable, match="version 2 came while it was being explained"):
        await lab.explain(model, draw(5), draw(1, 1))

"""An explanation as an answer of the protocol."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from tests.unit.explainer.explained_rows import OUTPUTS, ROWS


async def test_an_answer_has_all_outputs_with_their_datatypes_and_shapes(lab: SimpleNamespace, service: Any) -> None:
    """In one order, under the name that was asked for, with the id and the version that was explained."""
    request = lab.request_of(ROWS)
    request.id = "e-1"

    response = await service.infer(request, Call())

    assert {o.name: (o.datatype, list(o.shape)) for o in response.outputs} == OUTPUTS
    assert (response.model_name, response.model_version, response.id) == ("model-explainer", "2", "e-1")
    answer = lab.Explained(response)
    assert answer.feature_names.tolist() == [b"a", b"b", b"c"]
    assert answer.output_names.tolist() == [b"total"]
    assert answer.attributions[..., 0] == pytest.approx(ROWS["x"])
    assert answer.predictions.tolist() == [[3.0], [12.0]]


async def test_the_parameters_of_an_answer_say_how_it_came_about(lab: SimpleNamespace, service: Any) -> None:
    """With their types: integers, a double for the time, a flag, texts."""
    response = await service.infer(lab.request_of(ROWS, seed=5), Call())

    kinds = {key: value.WhichOneof("parameter_choice") for key, value in response.parameters.items()}
    assert kinds == {
        "infermesh_model": "string_param",
        "infermesh_model_version": "string_param",
        "infermesh_method": "string_param",
        "infermesh_link": "string_param",
        "infermesh_value": "string_param",
        "infermesh_evaluations": "int64_param",
        "infermesh_rows_sent": "int64_param",
        "infermesh_converged": "bool_param",
        "infermesh_seed": "int64_param",
        "infermesh_milliseconds": "double_param",
    }
    assert response.parameters["infermesh_milliseconds"].double_param > 0


async def test_a_seed_above_an_int64_comes_back_as_it_was(lab: SimpleNamespace, service: Any) -> None:
    """As a uint64."""
    request = lab.request_of(ROWS)
    request.parameters["seed"].uint64_param = 2**64 - 1

    response = await service.infer(request, Call())

    assert response.parameters["infermesh_seed"].uint64_param == 2**64 - 1


async def test_raw_in_is_raw_out_and_typed_in_is_typed_out(lab: SimpleNamespace, service: Any) -> None:
    """With the same values, never a mix."""
    raw = await service.infer(lab.request_of(ROWS), Call())
    typed = await service.infer(lab.request_of(ROWS, raw=False), Call())

    assert len(raw.raw_output_contents) == 7
    assert not any(output.HasField("contents") for output in raw.outputs)
    assert not typed.raw_output_contents
    assert all(output.HasField("contents") for output in typed.outputs)
    for name, array in lab.Explained(raw).outputs.items():
        assert np.array_equal(array, lab.Explained(typed).outputs[name])


async def test_outputs_come_as_they_were_asked_for(lab: SimpleNamespace, service: Any) -> None:
    """In that order, duplicates collapsed."""
    request = lab.request_of(ROWS)
    for name in ("feature_names", "attributions", "feature_names"):
        request.outputs.add(name=name)

    response = await service.infer(request, Call())

    assert [output.name for output in response.outputs] == ["feature_names", "attributions"]


async def test_a_stream_gives_one_answer(lab: SimpleNamespace, service: Any) -> None:
    """That of `infer`."""
    answers = [answer async for answer in service.stream(lab.request_of(ROWS), Call())]

    assert [len(answer.outputs) for answer in answers] == [7]


@pytest.mark.parametrize(
    ("classes", "about", "text"),
    [
        ("fraud", "fraud", b""),
        ("top:2", "fraud", b""),
        ("genuine", "genuine", b"Amount is usual"),
    ],
)
async def test_reasons_are_about_the_class_that_the_texts_are_written_for(
    lab: SimpleNamespace, classes: str, about: str, text: bytes
) -> None:
    """A plainly genuine row has nothing that speaks for fraud, whatever order the classes have; asked about the other class, it
    gets the opposite texts."""

    def function(given: Any) -> Any:
        z = given["x"] @ np.array([[1.0], [0.5]])
        return {"y": np.concatenate([1 / (1 + np.exp(z)), 1 / (1 + np.exp(-z))], axis=1)}

    properties = {
        "infermesh.classes": ["genuine", "fraud"],
        "infermesh.columns.x": ["amount", "speed"],
        "infermesh.reasons": {"amount": {"up": "Amount is unusually high", "down": "Amount is usual"}},
    }
    model = lab.FunctionModel(function, [("x", "FP64", (-1, 2))], [("y", "FP64", (-1, 2))], properties=properties)
    service = lab.explainer(model, {"x": np.zeros((1, 2))})
    request = lab.request_of({"x": np.array([[-5.0, -2.0]])}, classes=classes, method="exact")
    request.outputs.add(name="reasons")

    answer = lab.Explained(await service.infer(request, Call()))

    assert answer.parameters["infermesh_reasons_class"] == about
    assert answer.reasons[0, 0] == text

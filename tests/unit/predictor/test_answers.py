"""Answers that are made from a head are those that are put together from nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from infermesh.protocol import open_inference_pb2 as pb
from infermesh.tensors import add_inputs, add_outputs
from services.predictor.answers import MAX_KNOWN, Answers

Values = list[tuple[str, str, np.ndarray[Any, Any]]]


def request_of(*, raw: bool = True, name: str = "1", model: str = "m") -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, id=name)
    add_inputs(request, {"x": np.ones(1, np.float32)}, raw=raw)
    return request


def expected_of(request: pb.ModelInferRequest, values: Values, *, raw: bool = True) -> pb.ModelInferResponse:
    response = pb.ModelInferResponse(model_name=request.model_name, model_version="3", id=request.id)
    add_outputs(response, values, raw=raw)
    return response


ONE: Values = [("y", "FP32", np.ones((1, 3), np.float32))]
TWO: Values = [*ONE, ("label", "BYTES", np.array([b"cat"], np.object_))]


@pytest.mark.parametrize("raw", [True, False])
def test_an_answer_is_what_its_outputs_are_each_time(raw: bool) -> None:
    answers = Answers("3")
    other: Values = [("y", "FP32", np.zeros((1, 3), np.float32))]
    longer: Values = [("y", "FP32", np.zeros((2, 3), np.float32))]

    for values in (ONE, TWO, other, longer, TWO[::-1], ONE):
        request = request_of(raw=raw, name=str(len(values)))
        assert answers.answer(request, values) == expected_of(request, values, raw=raw)


def test_an_answer_has_the_id_and_the_model_of_its_own_request() -> None:
    answers = Answers("3")
    answers.answer(request_of(name="first", model="a"), ONE)

    response = answers.answer(request_of(name="", model="b"), ONE)

    assert (response.id, response.model_name, response.model_version) == ("", "b", "3")


def test_one_answer_is_not_changed_by_the_next() -> None:
    answers = Answers("3")
    first = answers.answer(request_of(), ONE)
    kept = first.SerializeToString()

    second = answers.answer(request_of(name="2"), ONE)
    second.parameters["p"].string_param = "v"

    assert first.SerializeToString() == kept
    assert not answers.answer(request_of(), ONE).parameters


def test_an_output_that_can_not_travel_typed_makes_the_answer_raw() -> None:
    half: Values = [("h", "FP16", np.ones(2, np.float16))]

    response = Answers("3").answer(request_of(raw=False), half)

    assert response.raw_output_contents[0] == half[0][2].tobytes()


def test_heads_have_a_bound() -> None:
    answers = Answers("3")

    for rows in range(1, MAX_KNOWN + 10):
        values: Values = [("y", "FP32", np.full(rows, rows, np.float32))]
        assert answers.answer(request_of(), values) == expected_of(request_of(), values)

    assert len(answers._heads) <= MAX_KNOWN

"""Golden values: right answers pass, wrong ones are told."""

from __future__ import annotations

import numpy as np
import pytest

from infermesh.cli.failure import Failure
from infermesh.cli.golden import Golden
from infermesh.protocol.open_inference_pb2 import ModelInferResponse
from infermesh.tensors import add_outputs, read_inputs

MODELS = {"iris": {"1", "2"}, "breast-cancer": {"1"}, "fraud-detector": {"1", "2", "3"}, "credit-score": {"1", "2"}}


def answered(version: str, probabilities: object) -> ModelInferResponse:
    response = ModelInferResponse(model_version=version)
    add_outputs(response, [("probabilities", "FP32", np.array(probabilities, np.float32))], raw=True)
    return response


@pytest.mark.parametrize("model", MODELS)
def test_every_version_has_a_right_answer(model):
    """One row for each sample model, and what each of its versions answers to it."""
    golden = Golden.of(model)

    assert set(golden.right) == MODELS[model]
    assert all(array.shape[0] == 1 and array.sum() == pytest.approx(1) for array in golden.right.values())
    for version, right in golden.right.items():
        assert golden.check(answered(version, right)).tolist() == pytest.approx(right[0].tolist(), abs=1e-7)


def test_a_wrong_answer_is_told_beside_the_right_one():
    """A probability that is 2e-5 off, another version's answer and another shape are wrong answers."""
    golden = Golden.of("iris")
    right = golden.right["2"]

    with pytest.raises(
        Failure, match=r"iris version 2 answered probabilities 0\.02002, .*; the samples promise 0\.02, "
    ):
        golden.check(answered("2", np.add(right, [2e-5, 0, 0])))
    with pytest.raises(Failure, match="iris version 1 answered"):
        golden.check(answered("1", right))
    with pytest.raises(Failure, match="iris version 2 answered"):
        golden.check(answered("2", np.repeat(right, 2, axis=0)))
    with pytest.raises(Failure, match="iris version 2 answered probabilities nan"):
        golden.check(answered("2", right * np.nan))


def test_an_answer_that_can_not_be_judged_is_no_right_one():
    """A version without golden values, and an answer without probabilities, are told."""
    golden = Golden.of("iris")

    with pytest.raises(Failure, match="iris: version 9 answered; the samples have golden values of 1, 2"):
        golden.check(answered("9", golden.right["2"]))
    with pytest.raises(Failure, match="iris: its answer has no probabilities; it has nothing"):
        golden.check(ModelInferResponse(model_version="2"))


def test_a_request_with_another_card():
    """One input can be changed; the others stay, and so does the golden row."""
    golden = Golden.of("fraud-detector")

    changed, kept = read_inputs(golden.request(card_id="c-0001")), read_inputs(golden.request())

    assert changed["card_id"].tolist() == [[b"c-0001"]]
    assert kept["card_id"].tolist() == [[golden.values["card_id"].encode()]]
    assert changed["amount"].tolist() == kept["amount"].tolist()

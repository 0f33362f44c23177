"""What is said where there are no reasons, and which class they are about."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from infermesh.cli.explain import reason_lines
from infermesh.cli.explain_page import page
from infermesh.cli.explain_words import shown_column
from infermesh.cli.explanation import Explanation
from infermesh.protocol.open_inference_pb2 import ModelInferResponse
from infermesh.tensors import add_outputs


def response(error: float, reasons: tuple[str, ...] = ("", ""), about: str = "") -> ModelInferResponse:
    """Of one row, whose features all raised the second of two classes."""
    attributions = np.array([[[-0.25, 0.25], [-0.5, 0.5]]])
    made = ModelInferResponse(model_name="credit-explainer", model_version="2")
    made.parameters["infermesh_method"].string_param = "permutation"
    if about:
        made.parameters["infermesh_reasons_class"].string_param = about
    texts = {
        "feature_names": ["debt", "income"],
        "output_names": ["repaid", "defaulted"],
        "reasons": [reasons],
    }
    numbers = {
        "attributions": attributions,
        "base_values": np.zeros((1, 2)),
        "predictions": attributions.sum(axis=1),
        "std_error": np.full(attributions.shape, error),
    }
    outputs = [(name, "FP64", array) for name, array in numbers.items()]
    outputs += [(name, "BYTES", np.char.encode(np.array(each)).astype(object)) for name, each in texts.items()]
    add_outputs(made, outputs, raw=True)
    return made


def said(answer: ModelInferResponse) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(reason_lines(Explanation.read(answer), 0, 1))
    return captured.get().strip()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (0.0, "no feature counted against it"),
        (0.7, "no feature counted against it by more than its standard error"),
        (np.inf, "not known: the errors are not, of so few evaluations; ask with more"),
    ],
)
def test_no_reason_is_said_to_be_none_only_where_that_is_known(error: float, words: str) -> None:
    """Of a single pair of permutations nobody knows what is noise, so that nothing is a reason: that is not the same as that
    nothing counted against somebody."""
    answer = response(error)

    assert said(answer) == words
    assert f"<li>{words}</li>" in page(answer, Explanation.read(answer), "defaulted", "")


def test_reasons_that_there_are_stand_alone() -> None:
    """Whatever the errors of other features are."""
    assert said(response(np.inf, ("Debt is too high", ""))) == "1. Debt is too high"


def test_bars_are_of_the_class_that_reasons_are_about() -> None:
    """As the answer tells it: with `top:2` the likeliest class is first, and the reasons may be about either."""
    answer = response(0.0, about="repaid")

    assert shown_column(Explanation.read(answer), "top:2", reasons=True, answer=answer) == "repaid"
    assert shown_column(Explanation.read(answer), "top:2", reasons=False, answer=answer) == ""
    assert shown_column(Explanation.read(answer), "", reasons=True, answer=response(0.0)) == "defaulted"
    assert shown_column(Explanation.read(answer), "", reasons=True, answer=response(0.0, about="?")) == "defaulted"

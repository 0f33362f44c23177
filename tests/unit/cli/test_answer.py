"""Answers and explanations as people see them."""

from __future__ import annotations

import json
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from infermesh.cli.answer import answer_view, as_json, headline
from infermesh.cli.bars import share_bar, signed_bar
from infermesh.cli.explanation import Explanation, chart
from infermesh.cli.failure import Failure
from infermesh.protocol.open_inference_pb2 import ModelInferResponse
from infermesh.tensors import add_outputs


def shown(view) -> str:
    console = Console(width=100, file=StringIO())
    console.print(view)
    return console.file.getvalue()


def response(*outputs, **fields) -> ModelInferResponse:
    answer = ModelInferResponse(model_name="m", model_version="2", **fields)
    add_outputs(answer, outputs, raw=True)
    return answer


def test_headline_names_who_answered():
    """Model, version, variant and latency stand in one line."""
    answer = response()
    answer.parameters["infermesh_variant"].string_param = "canary"

    assert headline(answer, 0.0123).plain == "m  version 2  variant canary  12.3 ms"


def test_headline_warns_of_features_that_stood_in():
    """An answer on defaults does not look like one on real features."""
    answer = response()
    answer.parameters["infermesh_features"].string_param = "defaulted"

    assert "features defaulted" in headline(answer, 0.001).plain


def test_classes_are_named():
    """A classifier's columns carry its classes' names, and the label is one of them."""
    answer = response(
        ("label", "INT64", np.array([1])), ("probabilities", "FP32", np.array([[0.25, 0.75]], np.float32))
    )

    text = shown(answer_view(answer, {"infermesh.classes": '["genuine", "fraud"]'}))

    rows = [line.split() for line in text.splitlines()]
    assert ["label", "genuine", "fraud"] in rows
    assert any(row[:3] == ["fraud", "0.2500", "0.7500"] for row in rows)


def test_wide_outputs_are_shown_by_shape():
    """An output with many columns shows its shape and first values."""
    text = shown(answer_view(response(("embedding", "FP32", np.zeros((2, 100), np.float32))), {}))

    assert "[2, 100]" in text
    assert "0, 0, 0, 0, 0, 0, 0, 0, …" in text


def test_many_rows_are_cut_and_said_to_be():
    """Past fifty rows the table says how many there are more."""
    text = shown(answer_view(response(("y", "INT64", np.arange(60))), {}))

    assert "… and 10 more rows" in text


def test_json_has_every_element():
    """The JSON form has texts as texts, BF16 as numbers, and the parameters."""
    answer = response(
        ("s", "BYTES", np.array([b"a", b"\xff"], object)), ("b", "BF16", np.array([0x3FC0, 0xC000], np.uint16)), id="7"
    )
    answer.parameters["infermesh_variant"].string_param = "stable"

    value = json.loads(as_json(answer))

    assert value["id"] == "7"
    assert value["parameters"] == {"infermesh_variant": "stable"}
    assert value["outputs"][0]["data"] == ["a", "\\xff"]
    assert value["outputs"][1]["data"] == [1.5, -2.0]


@pytest.mark.parametrize(("share", "filled"), [(0.0, 0), (0.5, 10), (1.0, 20), (7.0, 20), (-1.0, 0)])
def test_share_bar_fills_its_share(share, filled):
    """A bar is as long as its share, and never longer than its place."""
    bar = share_bar(share, 20).plain

    assert bar.count("█") == filled
    assert len(bar) == 20


@pytest.mark.parametrize("value", [-2.0, -0.3, 0.0, 0.3, 2.0])
def test_signed_bar_grows_from_the_middle(value):
    """What is negative stands to the left of the line, the rest to the right; the width is always the same."""
    bar = signed_bar(value, 2.0, 10).plain
    left, right = bar.split("│")

    assert (len(left), len(right)) == (10, 10)
    assert bool(left.strip()) == (value < 0)
    assert bool(right.strip()) == (value > 0)


def explanation() -> ModelInferResponse:
    amounts = np.array([[[-0.1, 0.1], [0.3, -0.3], [0.0, 0.0]]])
    return response(
        ("attributions", "FP64", amounts),
        ("base_values", "FP64", np.array([[0.6, 0.4]])),
        ("predictions", "FP64", np.array([[0.8, 0.2]])),
        ("feature_names", "BYTES", np.array([b"amount", b"hour", b"country"], object)),
        ("output_names", "BYTES", np.array([b"genuine", b"fraud"], object)),
    )


def test_chart_has_the_largest_first():
    """Features stand in the order of their size, signed, between base value and prediction."""
    text = shown(chart(Explanation.read(explanation()), 1, 0, {"hour": "2.5"}))
    lines = [line.split() for line in text.splitlines()]

    assert lines[0][:5] == ["fraud:", "base", "value", "0.4000", "-0.2000"]
    assert [line[0] for line in lines[2:]] == ["hour", "amount", "country"]
    assert lines[2][1] == "2.5"
    assert lines[2][-1] == "-0.3000"


def test_chart_sums_up_the_rest():
    """Past twelve features the others stand as one sum, so that the bars still add up."""
    answer = response(
        ("attributions", "FP64", np.linspace(1, 2, 30).reshape(1, 30, 1)),
        ("base_values", "FP64", np.zeros((1, 1))),
        ("predictions", "FP64", np.full((1, 1), 45.0)),
        ("feature_names", "BYTES", np.array([f"f{i}".encode() for i in range(30)], object)),
        ("output_names", "BYTES", np.array([b"y"], object)),
    )

    text = shown(chart(Explanation.read(answer), 0))

    shown_amounts = [float(line.split()[-1]) for line in text.splitlines()[2:]]
    assert "18 others together" in text
    assert len(shown_amounts) == 13
    assert sum(shown_amounts) == pytest.approx(45.0, abs=0.01)


def test_output_by_name():
    """The output is chosen by name; without one it is the likeliest."""
    read = Explanation.read(explanation())

    assert read.output() == 0
    assert read.output("fraud") == 1
    with pytest.raises(Failure, match="expected one of genuine, fraud"):
        read.output("label")


def test_an_answer_that_is_no_explanation():
    """A model that only looks like an explainer is found out."""
    with pytest.raises(Failure, match="no explanation: output 'attributions'"):
        Explanation.read(response(("y", "INT64", np.arange(2))))

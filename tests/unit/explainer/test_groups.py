"""Features that are one player."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.errors import InvalidRequest
from infermesh.protocol import open_inference_pb2 as pb

WEIGHTS = np.array([1.0, 2.0, 4.0, 8.0])
ROWS = {"card": np.ones((1, 3)), "hour": np.ones((1, 1))}
NOTHING = {"card": np.zeros((1, 3)), "hour": np.zeros((1, 1))}


@pytest.fixture
def model(lab: SimpleNamespace) -> Any:
    """A product of all and a sum: two inputs, three columns of one of them."""
    return make(lab)


def make(lab: SimpleNamespace, **properties: Any) -> Any:
    def function(given):
        x = np.concatenate([given["card"], given["hour"]], axis=1)
        return {"y": (x * WEIGHTS).sum(axis=1, keepdims=True) + 24 * x.prod(axis=1, keepdims=True)}

    columns = {"infermesh.columns.card": ["age", "limit", "kind"]}
    inputs = [("card", "FP64", (-1, 3)), ("hour", "FP64", (-1, 1))]
    return lab.FunctionModel(function, inputs, properties={**columns, **properties})


@pytest.mark.parametrize("method", ["exact", "permutation", "kernel"])
@pytest.mark.parametrize(
    ("groups", "names", "attributions"),
    [
        ("none", [b"age", b"limit", b"kind", b"hour"], [7, 8, 10, 14]),
        ("inputs", [b"card", b"hour"], [19, 20]),
        ('{"plastic": ["limit", "age"]}', [b"plastic", b"kind", b"hour"], [11, 12, 16]),
        ('{"all": ["hour", 0, "kind", 1]}', [b"all"], [39]),
        ("[[1, 3]]", [b"age", b"limit+hour", b"kind"], [9, 18, 12]),
        ("[]", [b"age", b"limit", b"kind", b"hour"], [7, 8, 10, 14]),
    ],
)
async def test_features_of_a_group_join_together(
    lab: SimpleNamespace, model: Any, groups: str, names: list, attributions: list, method: str
) -> None:
    """A product of all is shared by the players alike, however many features each has; the group stands where its first is."""
    answer = await lab.explain(model, NOTHING, ROWS, groups=groups, method=method, max_evals=1000)

    assert answer.feature_names.tolist() == names
    error = 1e-9 + 5 * answer.std_error[0, :, 0]  # which only permutations of more than two players have
    assert (np.abs(answer.attributions[0, :, 0] - attributions) <= error).all()
    assert answer.additivity_error.max() < 1e-9


async def test_groups_that_the_model_declares_are_used_unless_the_request_says_others(lab: SimpleNamespace) -> None:
    """And the metadata tell them."""
    declared = make(lab, **{"infermesh.groups": {"plastic": ["age", "limit"]}})
    service = lab.explainer(declared, NOTHING)

    alone = lab.Explained(await service.infer(lab.request_of(ROWS), Call()))
    other = lab.Explained(await service.infer(lab.request_of(ROWS, groups="none"), Call()))
    metadata = await service.metadata(pb.ModelMetadataRequest(name="model-explainer"), Call())

    assert alone.feature_names.tolist() == [b"plastic", b"kind", b"hour"]
    assert len(other.feature_names) == 4
    assert json.loads(metadata.properties["infermesh.features"]) == ["plastic", "kind", "hour"]
    assert list(metadata.outputs[0].shape) == [-1, 3, -1]
    assert json.loads(metadata.properties["infermesh.groups"]) == {"plastic": ["age", "limit"]}


@pytest.mark.parametrize("unusable", ["not JSON", '{"a": ["nobody"]}', "[[0], [0]]", "17", '{"\\ud800": [0, 1]}'])
async def test_groups_that_a_model_declares_and_that_do_not_fit_are_not_used(
    lab: SimpleNamespace, unusable: str
) -> None:
    """No request could put them right."""
    answer = await lab.explain(make(lab, **{"infermesh.groups": unusable}), NOTHING, ROWS)

    assert len(answer.feature_names) == 4


async def test_texts_in_a_group_are_features_like_numbers(lab: SimpleNamespace) -> None:
    """Two inputs of different datatypes in one group."""
    model = lab.FunctionModel(
        lambda given: {"y": given["n"] + np.array([[len(w)] for w in given["word"][:, 0]], float)},
        [("n", "FP64", (-1, 1)), ("word", "BYTES", (-1, 1))],
    )
    words = [np.array([[word]], object) for word in (b"", b"abc")]

    answer = await lab.explain(
        model, {"n": np.zeros((1, 1)), "word": words[0]}, {"n": np.ones((1, 1)), "word": words[1]}, groups="[[0, 1]]"
    )

    assert answer.feature_names.tolist() == [b"n+word"]
    assert answer.attributions.tolist() == [[[4.0]]]


async def test_a_group_whose_name_can_not_be_answered_is_refused(lab: SimpleNamespace) -> None:
    """Half a surrogate pair is JSON, and no text."""
    with pytest.raises(InvalidRequest, match="groups"):
        await lab.explain(make(lab), NOTHING, ROWS, groups='{"\\ud800": [0, 1]}')

"""Names of classes for indices, and for the likeliest column."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from infermesh.call import Call
from infermesh.errors import FailedPrecondition, Internal
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.tensors import add_outputs, datatype_of, read_outputs
from services.transformer.after.answer import Answer, Words
from services.transformer.after.classes import NameClasses
from services.transformer.after.declared import Classes

NAMES = ["genuine", "fraud"]


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("datatype", [np.int64, np.uint8, np.bool_])
async def test_indices_become_names_in_their_place(answered: Any, raw: bool, datatype: Any) -> None:
    """Whatever their shape and datatype; what is beside them stays as it is, and where it is."""
    labels, other = np.array([[1], [0], [1]], datatype), np.array([1.5, 2.5], np.float32)

    outputs = await answered({"label": labels, "x": other}, {"classes": {"of": "label", "names": NAMES}}, raw=raw)

    assert list(outputs) == ["label", "x"]
    assert outputs["label"].tolist() == [[b"fraud"], [b"genuine"], [b"fraud"]]
    assert outputs["x"].tobytes() == other.tobytes()


async def test_the_likeliest_class_is_a_further_output(answered: Any, scores: Any) -> None:
    """The first of equals counts, and the probabilities stay."""
    step = {"classes": {"of": "p", "names": NAMES, "as": "class"}}

    outputs = await answered({"p": scores}, step)

    assert list(outputs) == ["p", "class"]
    assert outputs["class"].tolist() == [b"genuine", b"genuine", b"fraud"]
    assert np.array_equal(outputs["p"], scores)


async def test_names_are_the_models_where_none_are_given(
    after_of: Callable[..., Any], model_of: Callable[..., Any], scores: Any
) -> None:
    """They are asked for once a minute for each version, and follow a model that is loaded anew."""
    now = [0.0]
    after = after_of({"classes": {"of": "p", "as": "class"}}, clock=lambda: now[0])
    model = model_of({"p": scores}, classes=NAMES)

    async def last() -> bytes:
        response = await after.infer(model, pb.ModelInferRequest(model_name="m"), Call())
        return bytes(read_outputs(response)["class"][-1])

    assert [await last(), await last(), model.asked_for_metadata] == [b"fraud", b"fraud", 1]
    model.classes = ["good", "bad"]
    now[0] = 61.0
    assert [await last(), model.asked_for_metadata] == [b"bad", 2]


@pytest.mark.parametrize("classes", [None, ["a", "a"], [1, 2], ["a"]])
async def test_names_that_can_not_be_used(answered: Any, scores: Any, classes: Any) -> None:
    """A model without names, with the same twice, with numbers or with too few is never answered by a wrong one."""
    with pytest.raises(Internal, match='model "m": output "p": ') as failed:
        await answered({"p": scores}, {"classes": {"of": "p"}}, classes=classes)

    assert failed.value.reason == "ANSWER_MISFIT"


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([0, 2]), "expected indices from 0 to 1, as there are names, got 2"),
        (np.array([-1]), "got -1"),
        (np.array([[0.1, 0.2, 0.7]]), r"expected \[N, 2\], a column for each name, got \[1, 3\]"),
        (np.array([0.3]), r"got \[1\]"),
        (np.array([b"x"], np.object_), "expected integers or floats, got BYTES"),
    ],
)
async def test_an_answer_that_does_not_fit(answered: Any, array: Any, words: str) -> None:
    """An index without a name, another width, another datatype: INTERNAL, since model and file disagree."""
    with pytest.raises(Internal, match=words):
        await answered({"p": array}, {"classes": {"of": "p", "names": NAMES}})


async def test_a_row_with_nan_has_no_likeliest_class(answered: Any, scores: Any) -> None:
    """numpy's own arg-max would name the NaN."""
    scores[1, 0] = np.nan

    with pytest.raises(
        FailedPrecondition, match='output "p": row 1: NaN, of which no class is the likeliest'
    ) as failed:
        await answered({"p": scores}, {"classes": {"of": "p", "names": NAMES}})

    assert failed.value.reason == "ANSWER_VALUE"


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]),
        st.tuples(st.integers(0, 6), st.just(3)),
        elements=st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 0.25, 0.5, np.inf]),
    )
)
def test_the_likeliest_is_that_of_a_loop(array: Any) -> None:
    """Python's max over each row, which takes the first of equals, names the same classes."""
    response = pb.ModelInferResponse()
    add_outputs(response, [("p", datatype_of(array).name, array)], raw=True)
    answer = Answer(response, {"p"}, Words(()), model="m")

    NameClasses(Classes(of="p", names=["a", "b", "c"])).apply(answer)

    expected = ["abc"[max(range(3), key=lambda at, row=row: row[at])].encode() for row in array.tolist()]
    assert read_outputs(answer.write(()))["p"].tolist() == expected

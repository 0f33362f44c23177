"""Decisions by thresholds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infermesh.call import Call
from infermesh.errors import FailedPrecondition, Internal
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.telemetry import Metrics
from services.transformer.after.metrics import Decisions
from services.transformer.after.threshold import reached

AT, WORDS = [0.2, 0.8], ["approve", "review", "decline"]
STEP = {"of": "p", "column": 1, "at": AT, "decisions": WORDS}


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("datatype", [np.float32, np.float64])
async def test_a_threshold_is_reached_by_what_is_equal_to_it(answered: Any, raw: bool, datatype: Any) -> None:
    """Just below, equal and just above, in the datatype of the output; infinities are numbers too."""
    low, high = (datatype(each) for each in AT)
    down, up = datatype(-np.inf), datatype(np.inf)
    column = [down, np.nextafter(low, down), low, np.nextafter(high, down), high, up]
    scores = np.stack([np.zeros(6, datatype), np.array(column, datatype)], axis=1)

    outputs = await answered({"p": scores}, {"threshold": STEP}, raw=raw)

    assert list(outputs) == ["p", "decision"]
    assert outputs["decision"].tolist() == [b"approve", b"approve", b"review", b"review", b"decline", b"decline"]


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
async def test_a_score_alone_needs_no_column(answered: Any, shape: tuple[int, ...]) -> None:
    """[N] and [N, 1] are decided upon alike; the output has the name that is given to it."""
    step = {"threshold": {"of": "s", "at": [0.5], "decisions": ["no", "yes"], "as": "approved"}}

    outputs = await answered({"s": np.array([0.4, 0.5, 0.6], np.float32).reshape(shape)}, step)

    assert outputs["approved"].tolist() == [b"no", b"yes", b"yes"]


@pytest.mark.parametrize("names", [{"names": ["genuine", "fraud"]}, {}])
async def test_a_column_goes_by_the_name_of_its_class(answered: Any, scores: Any, names: dict[str, Any]) -> None:
    """Of the step's own names, or of those in the model's property."""
    step = {"threshold": {**STEP, "column": "fraud", **names}}

    outputs = await answered({"p": scores}, step, classes=["genuine", "fraud"])

    assert outputs["decision"].tolist() == [b"approve", b"review", b"decline"]


@pytest.mark.parametrize(
    ("datatype", "faults"),
    [
        (np.float16, ["after.0.threshold.at: 0.7 and 0.7001 are one number in FP16: between them nothing is decided"]),
        (np.float32, []),
        (np.int64, ["after.0.threshold.at: 0.7 and 0.7001 are one number in INT64: between them nothing is decided"]),
    ],
)
async def test_thresholds_that_the_output_can_not_tell_apart_are_a_fault(
    after_of: Any, model_of: Any, datatype: Any, faults: list[str]
) -> None:
    """A word that no row could ever get is told when the model's metadata are known."""
    step = {"threshold": {"of": "p", "at": [0.7, 0.7001, 5.0], "decisions": ["a", "b", "c", "d"]}}
    described = await model_of({"p": np.zeros(1, datatype)}).metadata(pb.ModelMetadataRequest(name="m"), Call())

    assert after_of(step).faults(described) == faults


@pytest.mark.parametrize(
    ("given", "classes", "words"),
    [
        ({"column": "fraud"}, None, "expected a class fraud in the model's property infermesh.classes"),
        ({"column": "fraud"}, ["genuine", "fraud", "other"], "a column for each of the model's 3 classes, got 2"),
        ({"column": "b", "names": ["a", "b", "c"]}, None, "a column for each of 3 names, got 2"),
        ({"column": 2}, None, "expected a column 2, got 2 columns"),
        ({"column": None}, None, "expected one column, got 2"),
        ({"of": "q"}, None, '"q": is not in the model\'s answer; there are p, t, d3'),
        ({"of": "t"}, None, r"expected numbers \[N\] or \[N, C\], got BYTES"),
        ({"of": "d3"}, None, r"got FP32 \[1, 2, 2\]"),
    ],
)
async def test_an_answer_that_does_not_fit(
    answered: Any, scores: Any, given: dict[str, Any], classes: Any, words: str
) -> None:
    """Names, columns, datatypes and shapes that are not what the file says are INTERNAL, and no decision is made."""
    outputs = {"p": scores, "t": np.array([b"x"], np.object_), "d3": np.zeros((1, 2, 2), np.float32)}

    with pytest.raises(Internal, match=words):
        await answered(outputs, {"threshold": {**STEP, **given}}, classes=classes)


async def test_of_nan_no_decision_is_made(answered: Any, scores: Any) -> None:
    """A NaN in the column is refused with its row; one in another column is no concern of the decision."""
    scores[0, 0] = np.nan
    outputs = await answered({"p": scores}, {"threshold": STEP})
    assert outputs["decision"].tolist() == [b"approve", b"review", b"decline"]

    scores[2, 1] = np.nan
    with pytest.raises(FailedPrecondition, match="row 2: NaN, of which no decision can be made"):
        await answered({"p": scores}, {"threshold": STEP})


async def test_decisions_are_counted_by_row(
    after_of: Callable[..., Any], model_of: Callable[..., Any], scores: Any
) -> None:
    """Every word has a series from the start; an answer that fails at a later step has decided nothing."""
    metrics = Metrics("transformer")
    decisions = Decisions("transformer")
    metrics.registry.register(decisions)
    after = after_of({"threshold": STEP}, {"classes": {"of": "label", "names": ["a"]}}, decisions=decisions)

    def counted() -> list[float | None]:
        name, labels = "infermesh_transformer_decisions_total", {"service": "transformer", "model": "m"}
        return [metrics.registry.get_sample_value(name, {**labels, "decision": word}) for word in WORDS]

    async def ask(label: int) -> None:
        model = model_of({"p": scores, "label": np.full(3, label)})
        await after.infer(model, pb.ModelInferRequest(model_name="m"), Call())

    assert counted() == [0, 0, 0]
    await ask(0)
    await ask(0)
    with pytest.raises(Internal, match="expected indices"):
        await ask(1)
    assert counted() == [2, 2, 2]


FLOATS = st.floats(-2, 2, width=32)


@given(
    st.lists(st.floats(-2, 2), min_size=1, max_size=5, unique=True).map(sorted),
    st.lists(FLOATS, max_size=20),
    st.sampled_from([("FP16", np.float16), ("FP32", np.float32), ("FP64", np.float64)]),
)
@example([0.7], [0.7], ("FP32", np.float32))
@example([0.1, 0.1000000001], [0.1], ("FP16", np.float16))
def test_floats_are_decided_as_by_a_loop(at: list[float], scores: list[float], of: tuple[str, Any]) -> None:
    """Each score against each threshold in the output's datatype, one by one, reaches as many."""
    datatype, kind = of
    array = np.array(scores, kind)

    found = reached(np.array(at), datatype, array)

    assert found.tolist() == [sum(bool(score >= kind(threshold)) for threshold in at) for score in array]


@given(
    st.lists(st.floats(-(2.0**65), 2.0**65), min_size=1, max_size=5, unique=True).map(sorted),
    st.sampled_from(["INT8", "INT32", "INT64", "UINT8", "UINT64"]),
    st.data(),
)
def test_integers_are_decided_exactly(at: list[float], datatype: str, data: st.DataObject) -> None:
    """As Python compares whole numbers with floats, which rounds nothing; thresholds may be past what the datatype holds."""
    info = np.iinfo(np.dtype(datatype.lower()))
    near = [int(each) + more for each in at for more in (-1, 0, 1)]
    near = [each for each in near if info.min <= each <= info.max] or [0]
    values = data.draw(
        st.lists(st.one_of(st.integers(int(info.min), int(info.max)), st.sampled_from(near)), max_size=10)
    )

    found = reached(np.array(at), datatype, np.array(values, info.dtype))

    assert found.tolist() == [sum(value >= threshold for threshold in at) for value in values]

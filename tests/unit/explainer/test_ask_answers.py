"""What the explainer takes as the model's answer, and what it makes of failures."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

import services.explainer.ask as module
from infermesh.call import Call
from infermesh.errors import (
    FailedPrecondition,
    Internal,
    InvalidRequest,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.tensors import add_outputs, read_inputs
from tests.unit.explainer.asked_rows import draw, total


@pytest.mark.parametrize(("value", "said"), [(np.nan, "NaN"), (np.inf, "an infinity"), (-np.inf, "an infinity")])
async def test_an_answer_that_is_no_number_is_a_failed_precondition(
    lab: SimpleNamespace, value: float, said: str
) -> None:
    """Model, version and output are named; nothing is attributed."""
    model = lab.FunctionModel(lambda given: {"y": np.where(given["x"][:, :1] > 5, value, 0.0)})

    with pytest.raises(FailedPrecondition, match=f'"model" version 1: output "y": the model answered {said}'):
        await lab.explain(model, {"x": np.zeros((2, 3))}, {"x": np.full((1, 3), 9.0)})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda y: y[:-1], r"expected \[9, 1\], a row for each row that was asked about, got \[8, 1\]"),
        (lambda y: np.hstack([y, y]), r"expected \[9, 1\], .* got \[9, 2\]"),
        (lambda y: y.sum(), r"expected \[9, 1\], .* got \[\]"),
    ],
)
async def test_answers_of_another_shape_than_promised_are_refused(lab: SimpleNamespace, wrong, said: str) -> None:
    """Fewer rows, more columns, a scalar: each is told with the shape that was expected."""
    model = lab.FunctionModel(lambda given: {"y": np.asarray(wrong(total(given)["y"]))})

    with pytest.raises(FailedPrecondition, match=said):
        await lab.explain(model, draw(5), draw(4, 1))


async def test_an_answer_that_can_not_be_read_is_not_the_callers_fault(lab: SimpleNamespace) -> None:
    """INTERNAL, not INVALID_ARGUMENT, for a response without the output or with too few bytes."""
    model = lab.FunctionModel(total)
    model.answer = lambda request, version: pb.ModelInferResponse(model_version="1")
    with pytest.raises(Internal, match='output "y": the answer can\'t be read'):
        await lab.explain(model, draw(5), draw(4, 1))

    broken = pb.ModelInferResponse(model_version="1", raw_output_contents=[b"1234567"])
    broken.outputs.add(name="y", datatype="FP64", shape=[9, 1])
    model.answer = lambda request, version: broken
    with pytest.raises(Internal, match="expected 72 bytes"):
        await lab.explain(model, draw(5), draw(4, 1))


@pytest.mark.parametrize("error", [Unavailable("away"), InvalidRequest("not UTF-8"), NotFound("no such model")])
async def test_errors_of_the_model_are_passed_on_as_they_are(lab: SimpleNamespace, error: Exception) -> None:
    """Code and text of the lower hop."""
    model = lab.FunctionModel(total)

    def answer(request, version):
        raise error

    model.answer = answer

    with pytest.raises(type(error)) as raised:
        await lab.explain(model, draw(5), draw(4, 1))
    assert raised.value is error


async def test_the_first_failure_ends_what_else_is_under_way(lab: SimpleNamespace) -> None:
    """No task goes on asking after the error has been raised."""
    model = lab.FunctionModel(total)
    honest = model.answer

    def answer(request, version):
        if len(model.requests) >= 6:
            raise Unavailable("away")
        return honest(request, version)

    model.answer = answer
    with pytest.raises(Unavailable):
        await lab.explain(model, draw(50), draw(20, 1), {"asking": {"max_rows": 20}})
    asked = len(model.requests)
    for _ in range(20):
        await asyncio.sleep(0)

    assert len(model.requests) == asked
    assert model.in_flight == 0


async def test_cancelling_ends_all_asking(lab: SimpleNamespace) -> None:
    """A caller who goes away takes every message that is under way or planned with it."""
    model = lab.FunctionModel(total)
    service = lab.explainer(model, draw(50), asking={"max_rows": 100})
    honest, four_under_way = model.infer, asyncio.Event()

    async def infer(request, call):
        if model.requests:
            model.hold = asyncio.Event()  # nobody sets it
            if model.in_flight == 3:
                four_under_way.set()
        return await honest(request, call)

    model.infer = infer
    task = asyncio.create_task(service.infer(lab.request_of(draw(20, 1)), Call()))
    await four_under_way.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert model.in_flight == 0
    assert len(model.requests) == 5


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64"])
async def test_every_floating_output_is_read_as_fp64(lab: SimpleNamespace, datatype: str) -> None:
    """Half precision and bfloat16 too; what numpy can't hold is widened by its bits."""

    def function(given):
        y = given["x"].sum(axis=1, keepdims=True)
        if datatype == "BF16":
            return {"y": (y.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)}
        return {"y": y.astype({"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}[datatype])}

    model = lab.FunctionModel(function, outputs=[("y", datatype, (-1, 1))])

    answer = await lab.explain(model, {"x": np.zeros((1, 3))}, {"x": np.array([[1.0, 2.0, -0.5]])})

    assert answer.attributions[0, :, 0].tolist() == [1.0, 2.0, -0.5]
    assert answer.attributions.dtype == np.float64


async def test_a_vector_and_a_deeper_output_have_their_columns(lab: SimpleNamespace) -> None:
    """[-1] is one column, [-1, 2, 2] are four in row-major order."""
    vector = lab.FunctionModel(lambda given: {"y": given["x"].sum(axis=1)}, outputs=[("y", "FP64", (-1,))])
    deep = lab.FunctionModel(
        lambda given: {"y": given["x"][:, [0, 1, 2, 0]].reshape(-1, 2, 2)}, outputs=[("y", "FP64", (-1, -1, 2))]
    )

    one = await lab.explain(vector, draw(5), draw(2, 1))
    four = await lab.explain(deep, draw(5), draw(2, 1))

    assert one.attributions.shape == (2, 3, 1)
    assert one.output_names.tolist() == [b"y"]
    assert four.attributions.shape == (2, 3, 4)
    assert four.output_names.tolist() == [b"y[0]", b"y[1]", b"y[2]", b"y[3]"]


async def test_a_backend_that_sends_more_outputs_than_asked_for_is_read_by_name(lab: SimpleNamespace) -> None:
    """The datatype is that of the explained output, wherever it stands among the others."""
    model = lab.FunctionModel(
        lambda given: {
            "half": np.full((len(given["x"]), 1), 0x3F80, np.uint16),
            "y": given["x"].sum(axis=1, keepdims=True),
        },
        outputs=[("y", "FP32", (-1, 1)), ("half", "BF16", (-1, 1))],
    )

    def answer(request, version):
        values = model.function(read_inputs(request))
        response = pb.ModelInferResponse(model_name="model", model_version=version)
        outputs = [("half", "BF16", values["half"]), ("y", "FP32", values["y"].astype(np.float32))]
        add_outputs(response, outputs, raw=True)
        return response

    model.answer = answer

    answered = await lab.explain(model, {"x": np.zeros((1, 3))}, {"x": np.array([[1.0, 2.0, -0.5]])})

    assert answered.attributions[0, :, 0].tolist() == [1.0, 2.0, -0.5]


async def test_an_output_of_another_datatype_than_the_metadata_say_is_the_backends_fault(lab: SimpleNamespace) -> None:
    """INTERNAL with the backend, what was promised and what came."""
    model = lab.FunctionModel(
        lambda given: {"y": given["x"].sum(axis=1, keepdims=True)}, outputs=[("y", "FP64", (-1, 1))]
    )
    honest = model.answer

    def answer(request, version):
        response = honest(request, version)
        response.outputs[0].datatype = "INT64"
        return response

    model.answer = answer

    with pytest.raises(Internal, match='output "y": predictor answered INT64, its metadata say FP64') as refused:
        await lab.explain(model, draw(5), draw(4, 1))

    assert refused.value.reason == "BACKEND_GARBAGE"


@pytest.mark.parametrize("width", [5000, -1])
async def test_an_output_too_wide_for_all_rows_is_refused_and_not_held(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """What all rows get is held as FP64 to pick classes from: past the bound fewer rows are asked for, at the latest after the
    first message."""
    monkeypatch.setattr(module, "MOST_VALUES", 100_000)
    model = lab.FunctionModel(
        lambda given: {"y": np.ones((len(given["x"]), 5000))}, outputs=[("y", "FP64", (-1, width))]
    )

    with pytest.raises(ResourceExhausted, match=r'"y": of 5000 columns expected at most 20 rows .* got 45') as refused:
        await lab.explain(model, draw(5), draw(40, 1), {"asking": {"max_rows": 10}}, classes="top:1")

    assert refused.value.reason == "OUTPUT_TOO_LARGE"
    assert len(model.requests) <= 1
    assert (await lab.explain(model, draw(5), draw(15, 1), classes="top:1")).attributions.shape == (15, 3, 1)

"""How the model is asked: few large messages, one version, and clear words when an answer is none."""

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


def total(given):
    return {"y": given["x"].sum(axis=1, keepdims=True)}


def draw(rows: int, seed: int = 0, columns: int = 3) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(rows, columns))}


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

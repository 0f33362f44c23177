"""What the explainer refuses, with which code and words."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.errors import (
    FailedPrecondition,
    InvalidRequest,
    MeshError,
    NotFound,
    ResourceExhausted,
)
from infermesh.protocol import open_inference_pb2 as pb
from services.explainer import explain
from tests.unit.explainer.explained_rows import ROWS


def changed(lab: SimpleNamespace, change: Any) -> pb.ModelInferRequest:
    request = lab.request_of(ROWS)
    change(request)
    return request


def _set(**fields: Any) -> Any:
    def change(request: pb.ModelInferRequest) -> None:
        for name, value in fields.items():
            setattr(request, name, value)

    return change


def _input(**fields: Any) -> Any:
    def change(request: pb.ModelInferRequest) -> None:
        for name, value in fields.items():
            if name == "shape":
                del request.inputs[0].shape[:]
                request.inputs[0].shape.extend(value)
            else:
                setattr(request.inputs[0], name, value)

    return change


def _add_input(request: pb.ModelInferRequest) -> None:
    request.inputs.add(name="surplus", datatype="FP64", shape=[1])
    request.raw_input_contents.append(bytes(8))


def _drop_input(request: pb.ModelInferRequest) -> None:
    del request.inputs[:]
    del request.raw_input_contents[:]


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (_set(model_name=""), "INVALID_ARGUMENT", "expected the name of a model"),
        (
            _set(model_name="model"),
            "NOT_FOUND",
            'model "model": no such model; the explainer of a model has its name with',
        ),
        (_set(model_name="-explainer"), "NOT_FOUND", 'model "-explainer"'),
        (_set(model_name="other-explainer"), "NOT_FOUND", 'model "other": no such model'),
        (_set(model_version="9"), "NOT_FOUND", 'model "model": no version 9'),
        (_input(name="X"), "INVALID_ARGUMENT", 'input "X": no such input; expected x FP64 [-1, 3]'),
        (_add_input, "INVALID_ARGUMENT", 'input "surplus": no such input'),
        (_drop_input, "INVALID_ARGUMENT", 'model "model": input "x": missing; expected x FP64 [-1, 3]'),
        (_input(datatype="INT64"), "INVALID_ARGUMENT", 'input "x": expected FP64 [-1, 3], got INT64 [2, 3]'),
        (_input(datatype="FP99"), "INVALID_ARGUMENT", "datatype: expected one of BOOL"),
        (_input(shape=[6]), "INVALID_ARGUMENT", 'input "x": expected FP64 [-1, 3], got shape [6]'),
        (_input(shape=[3, 2]), "INVALID_ARGUMENT", 'input "x": expected FP64 [-1, 3], got shape [3, 2]'),
        (_input(shape=[-2, 3]), "INVALID_ARGUMENT", "expected dimensions of 0 or more"),
        (_input(shape=[3, 3]), "INVALID_ARGUMENT", "expected 72 bytes for FP64 [3, 3], got 48"),
        (
            lambda r: r.outputs.add(name="shap"),
            "INVALID_ARGUMENT",
            'output "shap": expected one of attributions, base_values',
        ),
        (
            lambda r: r.inputs[0].contents.SetInParent(),
            "INVALID_ARGUMENT",
            'model "model-explainer": input "x": expected either raw',
        ),
        (lambda r: r.inputs[0].parameters["p"].SetInParent(), "INVALID_ARGUMENT", 'parameter "p": expected a value'),
    ],
)
async def test_a_bad_request_is_refused_with_code_and_words(
    lab: SimpleNamespace, service: Any, model: Any, change: Any, code: str, said: str
) -> None:
    """As protocol and predictor do; the model is not asked, and a good request right after is served."""
    with pytest.raises(MeshError) as refused:
        await service.infer(changed(lab, change), Call())

    assert refused.value.code == code
    assert said in refused.value.message
    assert not model.requests
    assert len((await service.infer(lab.request_of(ROWS), Call())).outputs) == 7


async def test_model_and_version_are_checked_before_the_message(lab: SimpleNamespace, service: Any) -> None:
    """Of several faults the first counts."""
    request = changed(lab, _input(datatype="FP99"))

    request.model_version = "9"
    with pytest.raises(NotFound, match="no version 9"):
        await service.infer(request, Call())
    request.model_name = "other-explainer"
    with pytest.raises(NotFound, match='"other"'):
        await service.infer(request, Call())


async def test_inputs_have_as_many_rows_as_each_other(lab: SimpleNamespace) -> None:
    """A row of the request is a row of each input."""
    model = lab.FunctionModel(
        lambda given: {"y": given["a"] + given["b"]}, [("a", "FP64", (-1, 1)), ("b", "FP64", (-1, 1))]
    )

    with pytest.raises(InvalidRequest, match='input "b": expected 2 rows, as input "a" has, got 3'):
        await lab.explain(
            model, {"a": np.ones((1, 1)), "b": np.ones((1, 1))}, {"a": np.ones((2, 1)), "b": np.ones((3, 1))}
        )


async def test_inputs_may_come_in_any_order(lab: SimpleNamespace) -> None:
    """They are matched by name, and features keep the model's order."""
    model = lab.FunctionModel(
        lambda given: {"y": given["a"] + 10 * given["b"]}, [("a", "FP64", (-1, 1)), ("b", "FP64", (-1, 1))]
    )

    answer = await lab.explain(
        model, {"a": np.zeros((1, 1)), "b": np.zeros((1, 1))}, {"b": np.ones((1, 1)), "a": np.ones((1, 1))}
    )

    assert answer.feature_names.tolist() == [b"a", b"b"]
    assert answer.attributions[0, :, 0] == pytest.approx([1.0, 10.0])


async def test_inputs_of_any_width_are_as_wide_as_the_request_makes_them(lab: SimpleNamespace) -> None:
    """The number of features is the request's, if the background is as wide."""
    model = lab.FunctionModel(
        lambda given: {"y": given["x"].sum(axis=1)}, [("x", "FP64", (-1, -1))], [("y", "FP64", (-1,))]
    )

    answer = await lab.explain(model, {"x": np.zeros((1, 4))}, {"x": np.ones((1, 4))})

    assert answer.feature_names.tolist() == [b"x[0]", b"x[1]", b"x[2]", b"x[3]"]
    with pytest.raises(FailedPrecondition, match=r"expected \"x\" as FP64 \[-1, 5\], it has FP64 \[-1, 4\]"):
        await lab.explain(model, {"x": np.zeros((1, 4))}, {"x": np.ones((1, 5))})


@pytest.mark.parametrize("shape", [(1, 3), (3,), ()])
async def test_a_model_of_fixed_rows_can_not_be_explained(lab: SimpleNamespace, shape: tuple[int, ...]) -> None:
    """Coalitions are rows: a model that takes one at a time would need a call for each."""
    model = lab.FunctionModel(lambda given: {"y": np.ones((1, 1))}, [("x", "FP64", shape)])

    with pytest.raises(FailedPrecondition, match='input "x": explaining needs a first dimension of any number of rows'):
        await lab.explain(model, {"x": np.zeros((1, 3))}, {"x": np.ones(shape)})


async def test_bounds_on_rows_features_and_the_answer_are_kept(lab: SimpleNamespace) -> None:
    """Each refusal names the bound and what came."""

    def wide(columns: int) -> Any:
        return lab.FunctionModel(
            lambda given: {"y": given["x"]}, [("x", "FP64", (-1, columns))], [("y", "FP64", (-1, columns))]
        )

    ten = ({"x": np.zeros((1, 10))}, {"x": np.ones((20, 10))})
    with pytest.raises(InvalidRequest, match="expected at most 19 rows to explain, got 20"):
        await lab.explain(wide(10), *ten, {"limits": {"rows": 19}})
    with pytest.raises(FailedPrecondition, match="expected 1 to 9 features to tell apart, its inputs have 10 columns"):
        await lab.explain(wide(10), *ten, {"limits": {"features": 9}})
    with pytest.raises(FailedPrecondition, match="its inputs have 0 columns"):
        await lab.explain(wide(0), {"x": np.zeros((1, 0))}, {"x": np.ones((1, 0))})
    with pytest.raises(
        ResourceExhausted, match="20 rows, 10 features and 10 classes would have 0 MiB, the limit is 0 MiB"
    ):
        await lab.explain(wide(10), *ten, {"server": {"max_message": "32kB"}})


async def test_texts_that_are_asked_for_count_in_the_size_of_the_answer(lab: SimpleNamespace) -> None:
    """The request's own texts among them, which an answer gives back."""
    model = lab.FunctionModel(
        lambda given: {"y": np.array([[len(w)] for w in given["word"][:, 0]], float)}, [("word", "BYTES", (-1, 1))]
    )
    background, rows = ({"word": np.array([[text]] * count, object)} for text, count in ((b"", 1), (b"x" * 1000, 30)))
    service = lab.explainer(model, background, server={"max_message": "16kB"})
    request = lab.request_of(rows, reasons=1)

    await service.infer(request, Call())
    request.outputs.add(name="feature_values")

    with pytest.raises(ResourceExhausted, match="30 rows, 1 features and 1 classes"):
        await service.infer(request, Call())


async def test_an_answer_that_would_be_too_large_is_refused_before_the_model_is_asked(lab: SimpleNamespace) -> None:
    """When all columns are explained and the model says how many; one of any width is asked once."""
    asked = []
    for width in (10_000, -1):
        model = lab.FunctionModel(
            lambda given: {"y": np.ones((len(given["x"]), 10_000))}, outputs=[("y", "FP64", (-1, width))]
        )
        with pytest.raises(ResourceExhausted, match="1 rows, 3 features and 10000 classes"):
            await lab.explain(
                model, {"x": np.zeros((1, 3))}, {"x": np.ones((1, 3))}, {"server": {"max_message": "500kB"}}
            )
        asked.append(len(model.requests))

    assert asked == [0, 1]


async def test_rows_are_counted_before_their_elements_are_read(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts are read one by one, which for too many of them would be work for nothing."""
    model = lab.FunctionModel(lambda given: {}, [("word", "BYTES", (-1,))])
    request = pb.ModelInferRequest(model_name="model-explainer", raw_input_contents=[bytes(4 * 10_001)])
    request.inputs.add(name="word", datatype="BYTES", shape=[10_001])

    def read(request: pb.ModelInferRequest) -> Any:
        raise AssertionError("read")

    monkeypatch.setattr("services.explainer.explain.read_inputs", read)
    with pytest.raises(
        InvalidRequest, match='input "word": expected at most 10000 rows to explain, got 10001'
    ) as refused:
        await lab.explainer(model).infer(request, Call())

    assert refused.value.reason == "TOO_MANY_ROWS"


@pytest.mark.parametrize("raw", [True, False])
async def test_many_texts_are_read_in_a_thread_and_few_are_not(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, raw: bool
) -> None:
    """A thousand rows of a hundred words do not hold the event loop; numbers that are viewed as they are take no thread's way."""
    honest, readers = explain.read_inputs, []

    def read(request: pb.ModelInferRequest) -> Any:
        readers.append(threading.get_ident() == threading.main_thread().ident)
        return honest(request)

    monkeypatch.setattr(explain, "read_inputs", read)
    words = lab.FunctionModel(lambda given: {}, [("word", "BYTES", (-1, 100))], [("y", "INT64", (-1,))])
    numbers = lab.FunctionModel(lambda given: {}, [("x", "FP32", (-1, 100))], [("y", "INT64", (-1,))])

    for model, rows in (
        (words, {"word": np.full((1000, 100), b"x", object)}),
        (words, {"word": np.full((2, 100), b"x", object)}),
        (numbers, {"x": np.zeros((1000, 100), np.float32)}),
    ):
        with pytest.raises(FailedPrecondition, match="none of its outputs"):
            await lab.explainer(model).infer(lab.request_of(rows, raw=raw), Call())

    assert readers == [False, True, raw]

"""The explainer as a server of the protocol."""

from __future__ import annotations

import asyncio
import json
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
    Unavailable,
    Unimplemented,
)
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import stack
from services.explainer import explain
from services.explainer.masked_rows import MaskedRows
from services.explainer.threads import INLINE_ELEMENTS
from services.explainer.value import BLOCK_ROWS

OUTPUTS = {
    "attributions": ("FP64", [2, 3, 1]),
    "base_values": ("FP64", [2, 1]),
    "predictions": ("FP64", [2, 1]),
    "std_error": ("FP64", [2, 3, 1]),
    "additivity_error": ("FP64", [2, 1]),
    "feature_names": ("BYTES", [3]),
    "output_names": ("BYTES", [1]),
}
ROWS = {"x": np.arange(6.0).reshape(2, 3)}


@pytest.fixture
def model(lab: SimpleNamespace) -> Any:
    """The sum of three columns."""
    return lab.FunctionModel(
        lambda given: {"y": given["x"].sum(axis=1, keepdims=True)},
        properties={"infermesh.columns.x": ["a", "b", "c"], "infermesh.classes": ["total"]},
        versions=["1", "2"],
    )


@pytest.fixture
def service(lab: SimpleNamespace, model: Any) -> Any:
    return lab.explainer(model, {"x": np.zeros((1, 3))})


# ---- answers ---------------------------------------------------------------------------------------------------------


async def test_an_answer_has_all_outputs_with_their_datatypes_and_shapes(lab: SimpleNamespace, service: Any) -> None:
    """In one order, under the name that was asked for, with the id and the version that was explained."""
    request = lab.request_of(ROWS)
    request.id = "e-1"

    response = await service.infer(request, Call())

    assert {o.name: (o.datatype, list(o.shape)) for o in response.outputs} == OUTPUTS
    assert (response.model_name, response.model_version, response.id) == ("model-explainer", "2", "e-1")
    answer = lab.Explained(response)
    assert answer.feature_names.tolist() == [b"a", b"b", b"c"]
    assert answer.output_names.tolist() == [b"total"]
    assert answer.attributions[..., 0] == pytest.approx(ROWS["x"])
    assert answer.predictions.tolist() == [[3.0], [12.0]]


async def test_the_parameters_of_an_answer_say_how_it_came_about(lab: SimpleNamespace, service: Any) -> None:
    """With their types: integers, a double for the time, a flag, texts."""
    response = await service.infer(lab.request_of(ROWS, seed=5), Call())

    kinds = {key: value.WhichOneof("parameter_choice") for key, value in response.parameters.items()}
    assert kinds == {
        "infermesh_model": "string_param",
        "infermesh_model_version": "string_param",
        "infermesh_method": "string_param",
        "infermesh_evaluations": "int64_param",
        "infermesh_rows_sent": "int64_param",
        "infermesh_converged": "bool_param",
        "infermesh_seed": "int64_param",
        "infermesh_milliseconds": "double_param",
    }
    assert response.parameters["infermesh_milliseconds"].double_param > 0


async def test_a_seed_above_an_int64_comes_back_as_it_was(lab: SimpleNamespace, service: Any) -> None:
    """As a uint64."""
    request = lab.request_of(ROWS)
    request.parameters["seed"].uint64_param = 2**64 - 1

    response = await service.infer(request, Call())

    assert response.parameters["infermesh_seed"].uint64_param == 2**64 - 1


async def test_raw_in_is_raw_out_and_typed_in_is_typed_out(lab: SimpleNamespace, service: Any) -> None:
    """With the same values, never a mix."""
    raw = await service.infer(lab.request_of(ROWS), Call())
    typed = await service.infer(lab.request_of(ROWS, raw=False), Call())

    assert len(raw.raw_output_contents) == 7
    assert not any(output.HasField("contents") for output in raw.outputs)
    assert not typed.raw_output_contents
    assert all(output.HasField("contents") for output in typed.outputs)
    for name, array in lab.Explained(raw).outputs.items():
        assert np.array_equal(array, lab.Explained(typed).outputs[name])


async def test_outputs_come_as_they_were_asked_for(lab: SimpleNamespace, service: Any) -> None:
    """In that order, duplicates collapsed."""
    request = lab.request_of(ROWS)
    for name in ("feature_names", "attributions", "feature_names"):
        request.outputs.add(name=name)

    response = await service.infer(request, Call())

    assert [output.name for output in response.outputs] == ["feature_names", "attributions"]


async def test_a_stream_gives_one_answer(lab: SimpleNamespace, service: Any) -> None:
    """That of `infer`."""
    answers = [answer async for answer in service.stream(lab.request_of(ROWS), Call())]

    assert [len(answer.outputs) for answer in answers] == [7]


# ---- refusals ------------------------------------------------------------------------------------------------------------


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


# ---- load -----------------------------------------------------------------------------------------------------------------


async def test_explanations_past_the_bound_wait_and_past_the_queue_are_refused(
    lab: SimpleNamespace, model: Any
) -> None:
    """Two at work, three in the queue, the sixth RESOURCE_EXHAUSTED with pushback; all of the five are answered."""
    service = lab.explainer(model, {"x": np.zeros((1, 3))}, limits={"concurrent": 2, "queue": 3})
    model.hold = asyncio.Event()
    tasks = [asyncio.create_task(service.infer(lab.request_of(ROWS), Call())) for _ in range(5)]
    for _ in range(20):
        await asyncio.sleep(0)
    at_work = model.in_flight

    with pytest.raises(ResourceExhausted, match="3 explanations are waiting, which is the bound") as refused:
        await service.infer(lab.request_of(ROWS), Call())
    model.hold.set()
    answers = await asyncio.gather(*tasks)

    assert at_work == 2
    assert refused.value.rejected
    assert refused.value.retry_after_s
    assert [len(answer.outputs) for answer in answers] == [7] * 5


async def test_a_caller_who_leaves_the_queue_leaves_nothing_behind(lab: SimpleNamespace, model: Any) -> None:
    """Neither a place in the queue nor a turn."""
    service = lab.explainer(model, {"x": np.zeros((1, 3))}, limits={"concurrent": 1, "queue": 1})
    model.hold = asyncio.Event()
    first = asyncio.create_task(service.infer(lab.request_of(ROWS), Call()))
    for _ in range(3):
        waiting = asyncio.create_task(service.infer(lab.request_of(ROWS), Call()))
        for _ in range(10):
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    model.hold = None

    assert len((await service.infer(lab.request_of(ROWS), Call())).outputs) == 7


async def test_large_arithmetic_is_done_in_threads_and_in_small_pieces(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 4096 coalitions of rows in work, neither the keys nor the contents are made on the event loop's thread, and no piece
    is larger than a block; a tiny request takes no thread's way."""
    here, pieces = threading.get_ident(), []
    honest = {name: getattr(MaskedRows, name) for name in ("distinct", "masked")}

    def distinct(self: MaskedRows, masks: Any, rows: range) -> Any:
        pieces.append((threading.get_ident(), len(masks) * len(rows) * self.backgrounds))
        return honest["distinct"](self, masks, rows)

    def masked(self: MaskedRows, rows: Any, masks: Any, backgrounds: Any) -> Any:
        pieces.append((threading.get_ident(), len(rows)))
        return honest["masked"](self, rows, masks, backgrounds)

    monkeypatch.setattr(MaskedRows, "distinct", distinct)
    monkeypatch.setattr(MaskedRows, "masked", masked)
    model = lab.FunctionModel(lambda given: {"y": given["x"].sum(axis=1, keepdims=True)}, [("x", "FP64", (-1, 12))])
    draw = np.random.default_rng(0)

    await lab.explain(model, {"x": draw.normal(size=(40, 12))}, {"x": draw.normal(size=(2, 12))}, method="exact")
    assert sum(rows for _, rows in pieces) >= 2 * 4094 * 40
    assert max(rows for _, rows in pieces) <= BLOCK_ROWS
    assert {thread == here for thread, rows in pieces if 12 * rows > INLINE_ELEMENTS} == {False}

    pieces.clear()
    await lab.explain(model, {"x": np.zeros((1, 12))}, {"x": np.ones((1, 12))}, method="permutation", max_evals=24)
    assert {thread for thread, _ in pieces} == {here}


# ---- metadata, readiness, repository ---------------------------------------------------------------------------------------


async def test_metadata_tells_inputs_outputs_and_choices(service: Any) -> None:
    """The model's inputs and versions, the explainer's outputs, and what the parameters may be."""
    metadata = await service.metadata(pb.ModelMetadataRequest(name="model-explainer"), Call())

    assert metadata.name == "model-explainer"
    assert list(metadata.versions) == ["1", "2"]
    assert metadata.platform == "infermesh_explainer"
    assert [(i.name, i.datatype, list(i.shape)) for i in metadata.inputs] == [("x", "FP64", [-1, 3])]
    assert {o.name: (o.datatype, list(o.shape)) for o in metadata.outputs} == {
        "attributions": ("FP64", [-1, 3, -1]),
        "base_values": ("FP64", [-1, -1]),
        "predictions": ("FP64", [-1, -1]),
        "std_error": ("FP64", [-1, 3, -1]),
        "additivity_error": ("FP64", [-1, -1]),
        "feature_names": ("BYTES", [3]),
        "output_names": ("BYTES", [-1]),
    }
    told = dict(metadata.properties)
    assert json.loads(told["infermesh.methods"]) == ["auto", "exact", "permutation"]
    assert json.loads(told["infermesh.features"]) == ["a", "b", "c"]
    assert json.loads(told["infermesh.backgrounds"]) == ["default", "zeros"]
    assert json.loads(told["infermesh.classes"]) == ["total"]
    assert told["infermesh.model"] == "model"
    assert told["infermesh.output"] == "y"
    assert (told["infermesh.background"], told["infermesh.background.rows"]) == ("default", "1")
    assert "infermesh.refused" not in told


async def test_metadata_of_a_model_that_can_not_be_explained_say_why(lab: SimpleNamespace) -> None:
    """They are answered all the same."""
    model = lab.FunctionModel(lambda given: {}, outputs=[("label", "INT64", (-1,))])
    metadata = await lab.explainer(model).metadata(pb.ModelMetadataRequest(name="model-explainer"), Call())
    assert "none of its outputs is a floating one" in metadata.properties["infermesh.refused"]

    bare = lab.explainer(lab.FunctionModel(lambda given: {}), None)
    metadata = await bare.metadata(pb.ModelMetadataRequest(name="model-explainer"), Call())
    assert "it has no background rows" in metadata.properties["infermesh.refused"]


async def test_metadata_of_a_model_of_any_width_leave_the_number_of_features_open(lab: SimpleNamespace) -> None:
    """-1 where the request decides."""
    model = lab.FunctionModel(lambda given: {}, [("x", "FP64", (-1, -1))])

    metadata = await lab.explainer(model).metadata(pb.ModelMetadataRequest(name="model-explainer"), Call())

    assert list(metadata.outputs[0].shape) == [-1, -1, -1]


async def test_metadata_of_a_model_of_too_many_features_do_not_name_them(lab: SimpleNamespace) -> None:
    """Its shapes are told, and that it can't be explained; an image's 150,528 names are nobody's use."""
    model = lab.FunctionModel(lambda given: {}, [("image", "FP32", (-1, 3, 224, 224))])
    service = lab.explainer(model)

    metadata = await service.metadata(pb.ModelMetadataRequest(name="model-explainer"), Call())

    assert list(metadata.outputs[0].shape) == [-1, 150_528, -1]
    assert "expected 1 to 1024 features to tell apart" in metadata.properties["infermesh.refused"]
    assert "infermesh.features" not in metadata.properties
    assert metadata.ByteSize() < 2000


@pytest.mark.parametrize("rpc", ["metadata", "ready", "config", "statistics"])
async def test_names_of_no_explainer_are_not_found_in_every_rpc(service: Any, rpc: str) -> None:
    """The name is quoted."""
    asked = {
        "metadata": lambda: service.metadata(pb.ModelMetadataRequest(name="model"), Call()),
        "ready": lambda: service.ready("model"),
        "config": lambda: service.config(pb.ModelConfigRequest(name="model"), Call()),
        "statistics": lambda: service.statistics(pb.ModelStatisticsRequest(name="model"), Call()),
    }

    with pytest.raises(NotFound, match='model "model": no such model'):
        await asked[rpc]()


async def test_readiness_is_its_own_and_a_models_is_the_backends(
    lab: SimpleNamespace, service: Any, model: Any
) -> None:
    """Ready without a model whatever the backend does; with one as the backend says, errors and all."""
    assert await service.ready()
    assert await service.ready("model-explainer")
    with pytest.raises(NotFound):
        await service.ready("model-explainer", "9")

    async def away(model: str = "", version: str = "") -> bool:
        return False

    model.ready = away
    assert await service.ready()
    assert not await service.ready("model-explainer")


async def test_the_index_is_the_backends_with_explainers_names(service: Any, model: Any) -> None:
    """States and reasons stay; the wish for ready ones only is passed on."""
    asked = []

    async def index(request: pb.RepositoryIndexRequest, call: Call) -> pb.RepositoryIndexResponse:
        asked.append(request.ready)
        response = pb.RepositoryIndexResponse()
        response.models.add(name="model", version="1", state="UNAVAILABLE", reason="no file")
        return response

    model.index = index
    (one,) = (await service.index(pb.RepositoryIndexRequest(ready=True), Call())).models

    assert (one.name, one.version, one.state, one.reason) == ("model-explainer", "1", "UNAVAILABLE", "no file")
    assert asked == [True]


async def test_the_configuration_is_the_models_with_the_explainers_name_and_outputs(service: Any, model: Any) -> None:
    """Inputs as the model has them, no batch dimension to add, and the seven outputs of an explanation."""

    async def config(request: pb.ModelConfigRequest, call: Call) -> pb.ModelConfigResponse:
        assert request.name == "model"
        inputs = [pb.ModelInput(name="x", data_type=pb.TYPE_FP64, dims=[-1, 3])]
        return pb.ModelConfigResponse(config=pb.ModelConfig(name="model", input=inputs))

    model.config = config

    told = (await service.config(pb.ModelConfigRequest(name="model-explainer"), Call())).config
    assert told.name == "model-explainer"
    assert told.max_batch_size == 0
    assert [(i.name, i.data_type, list(i.dims)) for i in told.input] == [("x", pb.TYPE_FP64, [-1, 3])]
    assert [o.name for o in told.output] == list(OUTPUTS)
    assert {o.name: o.data_type for o in told.output}["feature_names"] == pb.TYPE_STRING


async def test_statistics_count_explanations_and_not_what_the_model_did_for_them(
    lab: SimpleNamespace, service: Any, model: Any
) -> None:
    """Those that succeeded with their rows, and those that failed, for each version that the backend has."""

    async def statistics(request: pb.ModelStatisticsRequest, call: Call) -> pb.ModelStatisticsResponse:
        assert request.name in ("model", "")
        had = [pb.ModelStatistics(name="model", version=version, inference_count=7) for version in ("2", "1")]
        return pb.ModelStatisticsResponse(model_stats=had)

    model.statistics = statistics
    for _ in range(3):
        await service.infer(lab.request_of({"x": np.ones((2, 3))}), Call())
    with pytest.raises(InvalidRequest):
        await service.infer(lab.request_of(ROWS, method="guess"), Call())

    for name in ("model-explainer", ""):
        told, other = (await service.statistics(pb.ModelStatisticsRequest(name=name), Call())).model_stats
        assert (told.name, told.version) == ("model-explainer", "2")
        assert (told.inference_count, told.execution_count) == (6, 3)
        assert (told.inference_stats.success.count, told.inference_stats.fail.count) == (3, 1)
        assert 0 < told.inference_stats.compute_infer.ns <= told.inference_stats.success.ns
        assert told.last_inference > 0
        assert (other.version, other.inference_count, other.last_inference) == ("1", 0, 0)


async def test_loading_and_unloading_are_not_offered(service: Any) -> None:
    """With a sentence that says where to do it."""
    with pytest.raises(Unimplemented, match='holds no models; load "model" where it is served'):
        await service.load(pb.RepositoryModelLoadRequest(model_name="model-explainer"), Call())
    with pytest.raises(Unimplemented, match='holds no models; unload "model" where it is served'):
        await service.unload(pb.RepositoryModelUnloadRequest(model_name="model-explainer"), Call())


async def test_a_backend_without_a_repository_has_no_index(lab: SimpleNamespace) -> None:
    """A service that only infers can be explained too."""

    class Bare:
        def __init__(self, inner: Any) -> None:
            self.infer, self.metadata, self.ready = inner.infer, inner.metadata, inner.ready

    inner = lab.FunctionModel(lambda given: {"y": given["x"].sum(axis=1, keepdims=True)})
    service = lab.explainer(Bare(inner), {"x": np.zeros((1, 3))})

    assert len((await service.infer(lab.request_of(ROWS), Call())).outputs) == 7
    with pytest.raises(Unimplemented):
        await service.index(pb.RepositoryIndexRequest(), Call())


async def test_only_models_that_the_backend_knows_become_labels(lab: SimpleNamespace, service: Any) -> None:
    """What a caller made up is counted under the empty label."""
    assert service.label("model-explainer") == ""
    await service.infer(lab.request_of(ROWS), Call())
    with pytest.raises(NotFound):
        await service.infer(lab.request_of(ROWS, model="other"), Call())

    assert service.label("model-explainer") == "model-explainer"
    assert service.label("other-explainer") == ""
    assert service.label("model") == ""


async def test_a_backend_that_is_away_is_unavailable(lab: SimpleNamespace, model: Any) -> None:
    """From the first question on, with the backend's own words."""

    async def metadata(request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        raise Unavailable("predictor: connection refused", hop="predictor")

    model.metadata = metadata
    service = stack(service=lab.explainer(model, {"x": np.zeros((1, 3))}))

    with pytest.raises(Unavailable, match="connection refused") as away:
        await service.infer(lab.request_of(ROWS), Call())
    assert away.value.hop == "predictor"

"""What the predictor answers and what it refuses."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from infermesh.call import Call
from infermesh.deadline import Deadline
from infermesh.errors import DeadlineExceeded, Internal, InvalidRequest, MeshError
from infermesh.filters import WithinDeadline
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import stack
from infermesh.tensors import DATATYPES, read_outputs

KINDS = {
    "BOOL": TensorProto.BOOL,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
}


def bits(name: str) -> Any:
    """Values of a datatype with all its extremes: for floats NaNs with payloads, infinities and -0.0."""
    datatype = DATATYPES[name]
    if name == "BOOL":
        return np.array([True, False, True])
    if name == "BF16":
        return np.array([0x0000, 0x8000, 0x7F80, 0xFF80, 0x7FC1, 0x3F80, 0x0001], np.uint16)
    if name.startswith("FP"):
        payload = {
            "FP16": np.array([0x7E01], np.uint16),
            "FP32": np.array([0x7FC00123], np.uint32),
            "FP64": np.array([0x7FF8000000000123], np.uint64),
        }[name]
        limits = np.finfo(datatype.dtype)
        return np.concatenate(
            [
                np.array([0.0, -0.0, np.inf, -np.inf, limits.max, limits.tiny], datatype.dtype),
                payload.view(datatype.dtype),
            ]
        )
    limits = np.iinfo(datatype.dtype)
    return np.array([limits.min, limits.max, 0, 1], datatype.dtype)


@pytest.mark.parametrize("inline", ["0s", "1s"], ids=["in a thread", "inline"])
@pytest.mark.parametrize("name", KINDS)
async def test_every_datatype_comes_back_bit_for_bit(
    serve: Any, put: Any, models: Any, ask: Any, name: str, inline: str
) -> None:
    """Raw and typed, through ONNX Runtime and back, also no elements at all."""
    put("m", 1, models.echo(KINDS[name]))
    predictor = await serve(inline_below=inline)

    for array in (bits(name), bits(name)[:1], bits(name)[:0]):
        for raw in (True, False) if DATATYPES[name].field else (True,):
            answer = await predictor.infer(ask("m", x=array, raw=raw, datatypes={"x": name}), Call())

            assert answer.outputs[0].datatype == name
            assert bool(answer.raw_output_contents) is raw or not array.size
            assert read_outputs(answer)["y"].tobytes() == array.tobytes()


@pytest.mark.parametrize("inline", ["0s", "1s"], ids=["in a thread", "inline"])
async def test_strings_come_back_as_they_went(serve: Any, put: Any, models: Any, ask: Any, inline: str) -> None:
    """UTF-8 of any length, empty ones and NULs inside; what is not UTF-8 is refused, not altered."""
    put("m", 1, models.echo(TensorProto.STRING))
    predictor = await serve(inline_below=inline)
    texts = np.array([b"", "é😀".encode(), b"x" * 100_000], object)

    for raw in (True, False):
        for sent in (texts, texts[:1], texts[:0]):
            answer = await predictor.infer(ask("m", x=sent, raw=raw), Call())
            assert read_outputs(answer)["y"].tolist() == sent.tolist()

    with pytest.raises(
        InvalidRequest, match='model "m": input "x": BYTES: an ONNX string is UTF-8, element 1 is not: "'
    ) as refused:
        await predictor.infer(ask("m", x=np.array([b"ok", b"\xff\xfe"], object)), Call())
    assert refused.value.reason == "BYTES_NOT_UTF8"


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0, 3), (2, 1, 3)])
async def test_shapes_are_kept(serve: Any, put: Any, models: Any, ask: Any, shape: tuple[int, ...]) -> None:
    """Scalars, empty dimensions and higher ranks."""
    put("m", 1, models.echo(TensorProto.FLOAT, [f"d{i}" for i in range(len(shape))]))
    predictor = await serve()

    answer = await predictor.infer(ask("m", x=np.ones(shape, np.float32)), Call())

    assert tuple(answer.outputs[0].shape) == shape


def two_inputs(models: Any) -> bytes:
    kinds = {"a": (TensorProto.FLOAT, ["rows", 2]), "b": (TensorProto.FLOAT, ["rows", 2])}
    half = {"half": (TensorProto.FLOAT16, ["rows", 2])}
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Cast", ["a"], ["half"], to=TensorProto.FLOAT16),
    ]
    return bytes(models.model(nodes, kinds, {"sum": (TensorProto.FLOAT, ["rows", 2]), **half}))


ONES = np.ones((3, 2), np.float32)
FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "missing": ({"a": ONES}, "INPUT_MISSING", r'input "b": missing; expected a FP32 \[-1, 2\], b FP32 \[-1, 2\]'),
    "unexpected": ({"a": ONES, "b": ONES, "c": ONES}, "INPUT_UNEXPECTED", 'input "c": no such input; expected a FP32'),
    "datatype": (
        {"a": ONES, "b": ONES.astype(np.int32)},
        "INPUT_DATATYPE",
        r'"b": expected FP32 \[-1, 2\], got INT32 \[3, 2\]',
    ),
    "rank": ({"a": ONES, "b": ONES[0]}, "INPUT_SHAPE", r'"b": expected FP32 \[-1, 2\], got shape \[2\]'),
    "dimension": ({"a": ONES, "b": ONES[:, :1]}, "INPUT_SHAPE", r'"b": expected FP32 \[-1, 2\], got shape \[3, 1\]'),
    "rows that differ": (
        {"a": ONES, "b": ONES[:2]},
        "INPUT_SHAPE",
        r'"b": expected 3 in dimension 0 \(rows\), as input "a" has, got shape \[2, 2\]',
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_inputs_that_are_not_the_models_are_refused_by_name(
    serve: Any, put: Any, models: Any, ask: Any, fault: str
) -> None:
    """INVALID_ARGUMENT says which input, what the model takes and what came; the next good request is served."""
    put("m", 1, two_inputs(models))
    predictor = await serve()
    arrays, reason, words = FAULTS[fault]

    with pytest.raises(InvalidRequest, match=words) as refused:
        await predictor.infer(ask("m", **arrays), Call())

    assert refused.value.reason == reason
    assert read_outputs(await predictor.infer(ask("m", a=ONES, b=ONES), Call()))["sum"].tolist() == (2 * ONES).tolist()


async def test_bf16_and_uint16_are_told_apart(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """They are the same numpy type, and not the same datatype."""
    put("m", 1, models.echo(TensorProto.BFLOAT16))
    predictor = await serve()

    with pytest.raises(InvalidRequest, match=r"expected BF16 \[-1\], got UINT16"):
        await predictor.infer(ask("m", x=np.zeros(1, np.uint16)), Call())


async def test_an_output_that_can_not_travel_typed_makes_all_of_them_raw(
    serve: Any, put: Any, models: Any, ask: Any
) -> None:
    """Never a mix: a typed request is answered raw when FP16 is among its outputs, typed when it is not asked for."""
    put("m", 1, two_inputs(models))
    predictor = await serve()
    request = ask("m", a=ONES, b=ONES, raw=False)

    both = await predictor.infer(request, Call())
    request.outputs.add(name="sum")
    one = await predictor.infer(request, Call())

    assert len(both.raw_output_contents) == 2 and not any(o.HasField("contents") for o in both.outputs)
    assert not one.raw_output_contents and one.outputs[0].HasField("contents")


async def test_an_unknown_output_is_refused_with_those_there_are(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """The outputs are listed, in the model's order."""
    put("m", 1, two_inputs(models))
    predictor = await serve()
    request = ask("m", a=ONES, b=ONES)
    request.outputs.add(name="product")

    with pytest.raises(InvalidRequest, match='output "product": expected one of sum, half'):
        await predictor.infer(request, Call())


async def test_an_unset_parameter_is_refused(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """Parameters are checked before the tensors are read."""
    put("m", 1, models.add(1))
    predictor = await serve()
    request = ask("m", x=np.ones(1, np.float32))
    request.parameters["p"].SetInParent()

    with pytest.raises(InvalidRequest, match='parameter "p": expected a value'):
        await predictor.infer(request, Call())


@pytest.mark.parametrize("inline", ["0s", "1s"], ids=["in a thread", "inline"])
async def test_who_is_at_fault_when_a_run_fails(serve: Any, put: Any, models: Any, ask: Any, inline: str) -> None:
    """An input that the model refuses is the caller's, with ONNX Runtime's words; a model that fails is ours, as INTERNAL."""
    table = np.arange(4, dtype=np.float32)
    index = {"i": (TensorProto.INT64, ["rows"])}
    out = {"y": (TensorProto.FLOAT, ["rows"])}
    put("refuses", 1, models.model([helper.make_node("Gather", ["t", "i"], ["y"])], index, out, t=table))
    put("fails", 1, models.model([helper.make_node("GatherElements", ["t", "i"], ["y"])], index, out, t=table))
    predictor = await serve(inline_below=inline)

    with pytest.raises(InvalidRequest, match=r"the model refused its input: .*out of data bounds") as refused:
        await predictor.infer(ask("refuses", i=np.array([9])), Call())
    with pytest.raises(Internal, match="the model failed on this input") as failed:
        await predictor.infer(ask("fails", i=np.array([9])), Call())

    assert (refused.value.reason, failed.value.reason) == ("MODEL_REFUSED", "MODEL_FAILED")
    for name in ("refuses", "fails"):
        assert read_outputs(await predictor.infer(ask(name, i=np.array([3])), Call()))["y"].tolist() == [3.0]


async def test_the_request_is_not_changed(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """Strings too are converted in a copy."""
    put("m", 1, models.echo(TensorProto.STRING))
    predictor = await serve()
    request = ask("m", x=np.array([b"a"], object), raw=False)
    before = request.SerializeToString()

    await predictor.infer(request, Call())

    assert request.SerializeToString() == before


def counted(predictor: Any, version: str = "1") -> Any:
    return predictor.repository.resolve("m", version).statistics.message("m", version).inference_stats


async def test_every_request_is_under_exactly_one_outcome(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """Successes and failures add up to the requests that reached the version; rows and runs are counted beside."""
    put("m", 1, models.slow())
    predictor = await serve()
    good = ask("m", n=np.array([1]))
    requests = [good] * 5 + [ask("m", n=np.ones(3, np.int64))] * 3 + [ask("m", x=np.array([1]))] * 2

    results = await asyncio.gather(*(predictor.infer(r, Call()) for r in requests), return_exceptions=True)
    cancelled = asyncio.ensure_future(predictor.infer(ask("m", n=np.array([10**9])), Call()))
    while not predictor.repository.resolve("m", "").running:
        await asyncio.sleep(0.001)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled

    assert sum(isinstance(r, MeshError) for r in results) == 5
    stats = counted(predictor)
    assert (stats.success.count, stats.fail.count) == (5, 6)
    assert (stats.queue.count, stats.compute_input.count, stats.compute_infer.count, stats.compute_output.count) == (
        5,
        5,
        5,
        5,
    )
    whole = predictor.repository.resolve("m", "").statistics.message("m", "1")
    assert (whole.inference_count, whole.execution_count) == (5, 5)
    assert stats.success.ns >= stats.queue.ns + stats.compute_infer.ns > 0


async def test_statistics_are_of_the_models_that_are_asked_for(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """All models, one model's versions, or one version; unknown ones are an error."""
    put("m", 1, models.add(1))
    put("m", 2, models.add(2))
    put("other", 1, models.add(3))
    predictor = await serve()
    await predictor.infer(ask("m", x=np.ones(4, np.float32), version="1"), Call())

    async def names(name: str, version: str) -> list[tuple[str, str]]:
        answer = await predictor.statistics(pb.ModelStatisticsRequest(name=name, version=version), Call())
        return [(s.name, s.version) for s in answer.model_stats]

    assert await names("", "") == [("m", "1"), ("m", "2"), ("other", "1")]
    assert await names("m", "") == [("m", "1"), ("m", "2")]
    assert await names("m", "1") == [("m", "1")]
    assert predictor.repository.resolve("m", "1").statistics.message("m", "1").inference_count == 4
    with pytest.raises(MeshError, match="no such model"):
        await names("unknown", "")


async def test_metadata_and_configuration_tell_the_same_model(serve: Any, put: Any, models: Any) -> None:
    """Names, datatypes and shapes in OIP's and in Triton's words; whole shapes, so no batch dimension is added."""
    put("m", 1, two_inputs(models))
    put("s", 1, models.echo(TensorProto.STRING))
    predictor = await serve(instances=2)

    told = await predictor.metadata(pb.ModelMetadataRequest(name="m"), Call())
    config = (await predictor.config(pb.ModelConfigRequest(name="m"), Call())).config
    strings = (await predictor.config(pb.ModelConfigRequest(name="s"), Call())).config

    assert [(t.name, t.datatype, list(t.shape)) for t in told.inputs] == [
        ("a", "FP32", [-1, 2]),
        ("b", "FP32", [-1, 2]),
    ]
    assert [(t.name, t.datatype) for t in told.outputs] == [("sum", "FP32"), ("half", "FP16")]
    assert (told.name, told.platform, list(told.versions)) == ("m", "onnxruntime_onnx", ["1"])
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [
        ("a", pb.TYPE_FP32, [-1, 2]),
        ("b", pb.TYPE_FP32, [-1, 2]),
    ]
    assert [o.data_type for o in config.output] == [pb.TYPE_FP32, pb.TYPE_FP16]
    assert (config.max_batch_size, config.instance_group[0].count) == (0, 2)
    assert strings.input[0].data_type == pb.TYPE_STRING


async def test_a_typed_request_with_no_elements_is_answered(serve: Any, put: Any, models: Any) -> None:
    """Zero elements may leave contents unset."""
    put("m", 1, models.add(1))
    predictor = await serve()
    request = pb.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype="FP32", shape=[0])

    answer = await stack(service=predictor).infer(request, Call())

    assert list(answer.outputs[0].shape) == [0]


async def test_its_repr_says_where_its_models_are(serve: Any, tmp_path: Any) -> None:
    """What a stack prints at the start."""
    assert repr(await serve()) == f"Predictor({tmp_path})"


@pytest.mark.parametrize("inline", ["0s", "1s"], ids=["in a thread", "inline"])
async def test_a_shape_that_only_the_graph_can_refuse_is_the_callers_fault(
    serve: Any, put: Any, models: Any, ask: Any, inline: str
) -> None:
    """Where the signature allows any size past the first dimension and the graph does not, the size that was sent is at fault."""
    weights = np.ones((3, 2), np.float32)
    out = {"y": (TensorProto.FLOAT, [None, 2])}
    product = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    put("m", 1, models.model(product, {"x": (TensorProto.FLOAT, [None, None])}, out, w=weights))
    predictor = await serve(inline_below=inline)

    with pytest.raises(InvalidRequest, match="the model refused its input") as refused:
        await predictor.infer(ask("m", x=np.ones((1, 5), np.float32)), Call())

    assert refused.value.reason == "MODEL_REFUSED"
    with pytest.raises(Internal):  # as in the warm-up: nothing says that the shape is to blame
        await predictor.infer(ask("m", x=np.ones((7, 1), np.float32)), Call())
    answer = await predictor.infer(ask("m", x=np.ones((1, 3), np.float32)), Call())
    assert read_outputs(answer)["y"].tolist() == [[3.0, 3.0]]


async def test_a_call_that_is_ended_at_its_deadline_is_counted_as_that(
    serve: Any, put: Any, models: Any, ask: Any
) -> None:
    """From above it is a cancellation, and no caller who went away."""
    put("m", 1, models.slow())
    predictor = await serve(queue={"refuse_late": False})

    with pytest.raises(DeadlineExceeded):
        await stack(WithinDeadline(30), service=predictor).infer(
            ask("m", n=np.array([10**9])), Call(deadline=Deadline.after(0.05))
        )

    failures = predictor.repository.resolve("m", "").statistics.failures
    assert {code: total.count for code, total in failures.items()} == {"DEADLINE_EXCEEDED": 1}

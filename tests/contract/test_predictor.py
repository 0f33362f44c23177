"""The real predictor, in this process and behind a channel: the same answers and the same errors."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.errors import FailedPrecondition, InvalidRequest, NotFound, Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import stack
from infermesh.tensors import add_inputs, read_outputs
from services.predictor.config import PredictorConfig
from services.predictor.predictor import Predictor
from services.predictor.repository.repository import Repository
from services.predictor.source import open_source

ROW = np.array([[5.1, 3.5, 1.4, 0.2]], np.float32)


@pytest.fixture
async def service(placed: Any, predictor: Any) -> Any:
    return await placed(stack(service=predictor))


def iris(*, raw: bool = True, rows: Any = ROW, **fields: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(**{"model_name": "iris", "id": "7", **fields})
    add_inputs(request, {"features": rows}, raw=raw)
    return request


@pytest.mark.parametrize("raw", [True, False])
async def test_it_answers_as_it_was_asked(service: Any, raw: bool) -> None:
    """Raw requests raw and typed ones typed, by the newest version, under the name and id that were asked."""
    answer = await service.infer(iris(raw=raw), Call())

    assert (answer.model_name, answer.model_version, answer.id) == ("iris", "2", "7")
    assert bool(answer.raw_output_contents) is raw
    outputs = read_outputs(answer)
    assert outputs["label"].tolist() == [0]
    np.testing.assert_allclose(outputs["probabilities"].sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("version", ["1", "2"])
async def test_both_versions_answer_differently(service: Any, version: str) -> None:
    """The version that is named is the one that answers."""
    answer = await service.infer(iris(model_version=version, rows=np.array([[6.0, 2.7, 5.1, 1.6]], np.float32)), Call())
    other = await service.infer(iris(rows=np.array([[6.0, 2.7, 5.1, 1.6]], np.float32)), Call())

    assert answer.model_version == version
    same = read_outputs(answer)["probabilities"].tolist() == read_outputs(other)["probabilities"].tolist()
    assert same is (version == "2")


async def test_outputs_come_in_the_order_asked_for(service: Any) -> None:
    """Each once, and only those."""
    request = iris()
    for name in ("probabilities", "label", "probabilities"):
        request.outputs.add(name=name)

    assert [o.name for o in (await service.infer(request, Call())).outputs] == ["probabilities", "label"]


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        (iris(model_name="rose"), NotFound, 'model "rose": no such model'),
        (iris(model_version="9"), NotFound, 'model "iris": no version 9, it has 1, 2'),
        (iris(model_version="newest"), InvalidRequest, 'version: expected a number, got "newest"'),
        (iris(model_name=""), InvalidRequest, "model name: expected the name of a model"),
        (iris(rows=ROW[:, :3]), InvalidRequest, r'input "features": expected FP32 \[-1, 4\], got shape \[1, 3\]'),
        (iris(rows=ROW.astype(np.float64)), InvalidRequest, r"expected FP32 \[-1, 4\], got FP64"),
        (pb.ModelInferRequest(model_name="iris"), InvalidRequest, 'input "features": missing; expected features FP32'),
    ],
    ids=["model", "version", "label", "name", "shape", "datatype", "missing"],
)
async def test_a_refusal_reads_the_same_everywhere(
    service: Any, predictor: Any, told: Any, request_: Any, error: type[Exception], words: str
) -> None:
    """Class, text and reason are those of the predictor itself."""
    with pytest.raises(error, match=words) as here:
        await predictor.infer(request_, Call())
    with pytest.raises(error, match=words) as there:
        await service.infer(request_, Call())

    assert told(there.value) == told(here.value)


async def test_its_metadata_is_true_to_what_it_takes(service: Any) -> None:
    """Names, datatypes and shapes of the session, and all versions that are loaded."""
    told_ = await service.metadata(pb.ModelMetadataRequest(name="fraud-detector"), Call())

    assert list(told_.versions) == ["1", "2", "3"]
    assert {(t.name, t.datatype, tuple(t.shape)) for t in told_.inputs} == {
        ("amount", "FP32", (-1, 1)),
        ("merchant_category", "BYTES", (-1, 1)),
        ("hour", "FP32", (-1, 1)),
        ("country", "BYTES", (-1, 1)),
        ("card_features", "FP32", (-1, 8)),
    }
    assert json.loads(told_.properties["infermesh.classes"]) == ["genuine", "fraud"]


async def test_a_model_is_unloaded_and_loaded_again(service: Any) -> None:
    """Between the two it is not ready and its calls are UNAVAILABLE; afterwards it answers as before."""
    await service.unload(pb.RepositoryModelUnloadRequest(model_name="iris"), Call())

    assert not await service.ready("iris")
    with pytest.raises(Unavailable, match="is not loaded: unloaded"):
        await service.infer(iris(), Call())
    states = {(m.name, m.version): m.state for m in (await service.index(pb.RepositoryIndexRequest(), Call())).models}
    assert states["iris", "1"] == states["iris", "2"] == "UNAVAILABLE"
    assert states["fraud-detector", "1"] == "READY"

    await service.load(pb.RepositoryModelLoadRequest(model_name="iris"), Call())

    assert await service.ready("iris", "1")
    assert (await service.infer(iris(), Call())).model_version == "2"


@pytest.mark.parametrize("name", ["rose", "../iris", "a/b", ".", "x" * 5000])
async def test_what_is_not_in_the_repository_can_not_be_loaded(service: Any, name: str) -> None:
    """NOT_FOUND for a name that is no folder of the repository, whatever it looks like."""
    with pytest.raises(NotFound, match="not in the repository"):
        await service.load(pb.RepositoryModelLoadRequest(model_name=name), Call())
    with pytest.raises(NotFound):
        await service.unload(pb.RepositoryModelUnloadRequest(model_name=name), Call())


async def test_calls_at_once_get_their_own_answers(service: Any) -> None:
    """Two hundred calls with rows of their own, typed and raw, never cross."""
    rng = np.random.default_rng(7)
    rows = rng.uniform(0, 7, (200, 1, 4)).astype(np.float32)
    expected = read_outputs(await service.infer(iris(rows=rows.reshape(200, 4)), Call()))["probabilities"]

    answers = await asyncio.gather(
        *(service.infer(iris(rows=row, id=str(n), raw=n % 2 == 0), Call()) for n, row in enumerate(rows))
    )

    assert [a.id for a in answers] == [str(n) for n in range(200)]
    np.testing.assert_array_equal(np.vstack([read_outputs(a)["probabilities"] for a in answers]), expected)


async def test_statistics_and_configuration_are_told(service: Any) -> None:
    """What was answered is counted under the version that did; the configuration says how it runs."""
    await service.infer(iris(), Call())

    statistics = await service.statistics(pb.ModelStatisticsRequest(name="iris", version="2"), Call())
    config = await service.config(pb.ModelConfigRequest(name="iris"), Call())

    assert [(s.name, s.version, s.inference_stats.success.count) for s in statistics.model_stats] == [("iris", "2", 1)]
    assert (config.config.backend, config.config.max_batch_size) == ("onnxruntime", 0)


async def test_a_load_that_fails_names_the_version(placed: Any, tmp_path: Path) -> None:
    """FAILED_PRECONDITION with the reason of each version that can't be loaded."""
    (tmp_path / "bad/1").mkdir(parents=True)
    (tmp_path / "bad/1/model.onnx").write_bytes(b"no model")
    repository = Repository(PredictorConfig(repository={"root": tmp_path}), open_source(str(tmp_path)))
    await repository.load_all()
    service = await placed(stack(service=Predictor(repository)))

    with pytest.raises(FailedPrecondition, match=r'model "bad": version 1: model\.onnx is no ONNX model'):
        await service.load(pb.RepositoryModelLoadRequest(model_name="bad"), Call())

    repository.close()

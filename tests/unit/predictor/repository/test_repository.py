"""Loading and finding model versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from infermesh.call import Call
from infermesh.errors import FailedPrecondition, InvalidRequest, NotFound, Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.tensors import read_outputs
from tests.unit.predictor.repository.repository_state import answered, index

X = np.array([1, 2], np.float32)


async def test_the_newest_version_is_the_highest_number(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """10 is newer than 9 and 2, whatever the names sort like; a version that is named answers."""
    for version in (2, 9, 10):
        put("m", version, models.add(version))
    predictor = await serve()

    assert await answered(predictor, ask("m", x=X)) == ("10", [11, 12])
    assert await answered(predictor, ask("m", x=X, version="9")) == ("9", [10, 11])
    assert await answered(predictor, ask("m", x=X, version="002")) == ("2", [3, 4])
    metadata = await predictor.metadata(pb.ModelMetadataRequest(name="m"), Call())
    assert list(metadata.versions) == ["2", "9", "10"]


@pytest.mark.parametrize(
    ("name", "version", "error", "words"),
    [
        ("", "", InvalidRequest, "model name: expected"),
        ("other", "", NotFound, 'model "other": no such model'),
        ("other", "newest", NotFound, "no such model"),  # the model comes before the version
        ("m", "3", NotFound, 'model "m": no version 3, it has 1'),
        ("m", "newest", InvalidRequest, 'expected a number, got "newest"'),
        ("m", "2", Unavailable, 'model "m" version 2: is not loaded: model.onnx is no ONNX model'),
        ("broken", "", Unavailable, 'model "broken": is not loaded: model.onnx is no ONNX model'),
        ("empty", "", Unavailable, "no version folder in empty/"),
    ],
)
async def test_what_can_not_answer_says_why(
    serve: Any,
    put: Any,
    models: Any,
    ask: Any,
    tmp_path: Path,
    name: str,
    version: str,
    error: type[Exception],
    words: str,
) -> None:
    """Unknown names, versions and labels, and versions that did not load, are told apart, before any work is started."""
    put("m", 1, models.add(1))
    put("m", 2, b"no model")
    put("broken", 1, b"no model")
    (tmp_path / "empty").mkdir()
    predictor = await serve()

    with pytest.raises(error, match=words) as refused:
        await predictor.infer(ask(name, x=X, version=version), Call())

    assert refused.value.rejected  # type: ignore[attr-defined]


async def test_the_index_has_every_version_with_its_reason(serve: Any, put: Any, models: Any, tmp_path: Path) -> None:
    """What failed is there with why, what is no version too; hidden folders and files are nobody's models."""
    put("m", 1, models.add(1))
    put("m", 2, b"no model")
    (tmp_path / "m/3").mkdir()
    put("m", "stable", models.add(1))
    put("m", "01", models.add(1))
    put("m", "9" * 19, models.add(1))
    (tmp_path / "m/.cache").mkdir()
    (tmp_path / "_tools").mkdir()
    (tmp_path / "README.md").write_text("x")
    predictor = await serve()

    found = index(predictor)

    assert found.pop(("m", "1")) == ("READY", "")
    assert found.pop(("m", "2"))[1].startswith("model.onnx is no ONNX model")
    assert found == {
        ("m", "3"): ("UNAVAILABLE", "no model.onnx in m/3/"),
        ("m", "stable"): ("UNAVAILABLE", "the name of a version folder is a number"),
        ("m", "01"): ("UNAVAILABLE", "the name of a version folder is a number without zeros before it: 1"),
        ("m", "9" * 19): ("UNAVAILABLE", "the name of a version folder is a number of at most 18 digits"),
    }
    assert [m.version for m in predictor.repository.index(only_ready=True).models] == ["1"]


async def test_a_bad_model_keeps_nobody_from_serving(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """Ready means that every model has been tried; under strict readiness one failure keeps the service out."""
    put("good", 1, models.add(1))
    put("bad", 1, b"no model")

    predictor = await serve()
    strict = await serve(strict=True)

    assert await predictor.ready()
    assert not await strict.ready()
    for each in (predictor, strict):
        assert await answered(each, ask("good", x=X)) == ("1", [2, 3])
        assert await each.ready("good")
        assert not await each.ready("bad")


async def test_unloading_is_no_failure_under_strict_readiness(serve: Any, put: Any, models: Any) -> None:
    """An operator who drops a model does not take the replica out."""
    put("m", 1, models.add(1))
    predictor = await serve(strict=True)

    await predictor.repository.unload("m")

    assert await predictor.ready()
    assert index(predictor) == {("m", "1"): ("UNAVAILABLE", "unloaded")}


async def test_only_the_models_that_are_named_are_loaded_at_start(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """The others can be loaded by RPC; a name without a folder is in the index with its reason."""
    put("a", 1, models.add(1))
    put("b", 1, models.add(2))
    predictor = await serve(models=["a", "missing"])
    assert index(predictor) == {
        ("a", "1"): ("READY", ""),
        ("missing", ""): ("UNAVAILABLE", "no version folder in missing/"),
    }

    await predictor.repository.load("b")

    assert await answered(predictor, ask("b", x=X)) == ("1", [3, 4])


async def test_a_root_that_is_no_folder_fails_the_start(serve: Any, tmp_path: Path) -> None:
    """A mistyped path is said at once, not served as an empty repository."""
    with pytest.raises(FileNotFoundError, match=r"repository.root: .*nowhere is no folder"):
        await serve(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["", "other", "../m", "a/b", "..", ".hidden", "_m", "x" * 5000, "a\0b", "m/1"])
async def test_nothing_outside_the_repository_can_be_loaded(serve: Any, put: Any, models: Any, name: str) -> None:
    """A name is a folder of the root or it is NOT_FOUND; an empty one is wrong."""
    put("m", 1, models.add(1))
    predictor = await serve()

    with pytest.raises(InvalidRequest if not name else NotFound):
        await predictor.load(pb.RepositoryModelLoadRequest(model_name=name), Call())
    with pytest.raises(InvalidRequest if not name else NotFound):
        await predictor.unload(pb.RepositoryModelUnloadRequest(model_name=name), Call())
    assert predictor.repository.label(name) == ""


async def test_a_type_that_the_protocol_does_not_have_is_a_reason(serve: Any, put: Any, models: Any) -> None:
    """A model with such an input is not loaded, and the index says which."""
    put("m", 1, models.echo(TensorProto.COMPLEX64))
    predictor = await serve()

    assert index(predictor)["m", "1"][0] == "UNAVAILABLE"


@pytest.mark.parametrize("version", ["2", "02", "0002"])
async def test_a_version_that_failed_is_found_in_every_spelling(
    serve: Any, put: Any, models: Any, ask: Any, version: str
) -> None:
    """Versions are numbers: a failed one is not ready, and not unknown, however many zeros are before it."""
    put("m", 1, models.add(1))
    put("m", 2, b"no model")
    predictor = await serve()

    with pytest.raises(Unavailable, match=r'model "m" version 2: is not loaded: model.onnx is no ONNX model'):
        await predictor.infer(ask("m", x=X, version=version), Call())

    assert not await predictor.ready("m", version)


def bf16_and_strings(models: Any, *, to: int) -> bytes:
    return bytes(
        models.model(
            [helper.make_node("Identity", ["s"], ["t"]), helper.make_node("Cast", ["b"], ["c"], to=to)],
            {"s": (TensorProto.STRING, ["rows"]), "b": (TensorProto.BFLOAT16, ["rows"])},
            {"t": (TensorProto.STRING, ["rows"]), "c": (to, ["rows"])},
        )
    )


@pytest.mark.parametrize("inline", ["0s", "1s"], ids=["in a thread", "inline"])
async def test_bf16_and_strings_go_in_together(serve: Any, put: Any, models: Any, ask: Any, inline: str) -> None:
    """A model that takes both answers, inline and in a thread."""
    put("m", 1, bf16_and_strings(models, to=TensorProto.FLOAT))
    predictor = await serve(inline_below=inline)
    arrays = {"s": np.array([b"a", "é".encode()], object), "b": np.array([0x3F80, 0x4000], np.uint16)}

    answer = await predictor.infer(ask("m", datatypes={"b": "BF16"}, **arrays), Call())

    assert {name: array.tolist() for name, array in read_outputs(answer).items()} == {
        "t": [b"a", "é".encode()],
        "c": [1, 2],
    }


async def test_what_onnx_runtime_can_not_be_asked_for_is_not_loaded(serve: Any, put: Any, models: Any) -> None:
    """Strings in and BF16 out would fail on every call: the index says so, with the names."""
    put("m", 1, bf16_and_strings(models, to=TensorProto.BFLOAT16))
    predictor = await serve()

    assert index(predictor)["m", "1"] == (
        "UNAVAILABLE",
        "input s is a string and output c is bfloat16: the Python interface of ONNX Runtime can't do both in one run",
    )


async def test_strict_readiness_is_about_the_models_of_the_start(serve: Any, put: Any, models: Any) -> None:
    """A load that fails later takes no working replica out; a model that failed at the start does until it loads."""
    put("good", 1, models.add(1))
    predictor = await serve(models=["good"], strict=True)
    put("new", 1, b"no model")
    put("good", 1, b"half a file")

    for name in ("new", "good"):
        with pytest.raises(FailedPrecondition):
            await predictor.repository.load(name)

    assert await predictor.ready()
    started_badly = await serve(models=["good", "new"], strict=True)
    put("good", 1, models.add(1))
    await started_badly.repository.load("good")
    assert not await started_badly.ready()
    put("new", 1, models.add(1))
    await started_badly.repository.load("new")
    assert await started_badly.ready()

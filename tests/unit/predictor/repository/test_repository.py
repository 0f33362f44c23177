"""Loading, finding and dropping model versions."""

from __future__ import annotations

import asyncio
import gc
import shutil
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from prometheus_client import CollectorRegistry, generate_latest

from infermesh.call import Call
from infermesh.errors import FailedPrecondition, InvalidRequest, NotFound, Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.tensors import read_outputs
from services.predictor.metrics import VersionsCollector

X = np.array([1, 2], np.float32)


def index(predictor: Any) -> dict[tuple[str, str], tuple[str, str]]:
    return {(m.name, m.version): (m.state, m.reason) for m in predictor.repository.index().models}


async def answered(predictor: Any, request: Any) -> tuple[str, list[float]]:
    response = await predictor.infer(request, Call())
    return response.model_version, read_outputs(response)["y"].tolist()


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


async def test_reloading_takes_what_the_folder_holds_now(
    serve: Any, put: Any, models: Any, ask: Any, tmp_path: Path
) -> None:
    """New versions come, changed ones change, versions that are gone go."""
    put("m", 1, models.add(1))
    put("m", 2, models.add(2))
    predictor = await serve()
    put("m", 1, models.add(100))
    put("m", 3, models.add(3))
    shutil.rmtree(tmp_path / "m/2")

    await predictor.repository.load("m")

    assert index(predictor) == {("m", "1"): ("READY", ""), ("m", "3"): ("READY", "")}
    assert await answered(predictor, ask("m", x=X, version="1")) == ("1", [101, 102])
    with pytest.raises(NotFound, match="no version 2, it has 1, 3"):
        await predictor.infer(ask("m", x=X, version="2"), Call())


async def test_a_bad_new_file_leaves_the_old_version_serving(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """The load fails with the reason, the index shows it, and calls go on as before."""
    put("m", 1, models.add(1))
    predictor = await serve()
    put("m", 1, b"half a file")

    with pytest.raises(FailedPrecondition, match=r'model "m": version 1: model.onnx is no ONNX model'):
        await predictor.repository.load("m")

    assert await answered(predictor, ask("m", x=X)) == ("1", [2, 3])
    state, reason = index(predictor)["m", "1"]
    assert state == "READY" and reason.startswith("model.onnx is no ONNX model")
    put("m", 1, models.add(5))
    await predictor.repository.load("m")
    assert index(predictor)["m", "1"] == ("READY", "")


@pytest.mark.parametrize("inline", ["0s", "200us"])
async def test_no_call_fails_while_a_model_is_reloaded(
    serve: Any, put: Any, models: Any, ask: Any, inline: str
) -> None:
    """Callers who never pause see old or new answers and no error, over many reloads, inline and in threads."""
    put("m", 1, models.add(0))
    predictor = await serve(inline_below=inline)
    reloading, seen = True, set()

    async def caller() -> int:
        count = 0
        while reloading:
            seen.add((await answered(predictor, ask("m", x=X)))[1][0])
            count += 1
            await asyncio.sleep(0)
        return count

    callers = [asyncio.ensure_future(caller()) for _ in range(8)]
    for number in range(1, 21):
        put("m", 1, models.add(number))
        await predictor.repository.load("m")
        seen.add((await answered(predictor, ask("m", x=X)))[1][0])
    reloading = False
    counts = await asyncio.gather(*callers)

    assert sum(counts) > 100
    assert {1.0, 21.0} <= seen <= {float(n) for n in range(1, 22)}


async def test_calls_that_wait_are_answered_by_the_version_that_was_replaced(
    serve: Any, put: Any, models: Any, ask: Any
) -> None:
    """What an old version has accepted it answers, also what still stands in its queue; then its threads end."""
    put("m", 1, models.slow())
    predictor = await serve()
    old = predictor.repository.resolve("m", "")
    turns = np.array([3000])
    calls = [asyncio.ensure_future(predictor.infer(ask("m", n=turns), Call())) for _ in range(4)]
    while old.waiting < 3:
        await asyncio.sleep(0.001)

    await predictor.repository.load("m")
    assert predictor.repository.resolve("m", "") is not old
    await predictor.repository.unload("m")

    answers = await asyncio.gather(*calls)
    assert [read_outputs(a)["done"].tolist() for a in answers] == [[3000]] * 4


async def test_an_unload_after_a_load_is_what_holds(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """Loads and unloads of a model happen in the order in which they came."""
    put("m", 1, models.add(1))
    predictor = await serve()

    await asyncio.gather(predictor.repository.load("m"), predictor.repository.unload("m"))

    with pytest.raises(Unavailable, match="unloaded"):
        await predictor.infer(ask("m", x=X), Call())
    await asyncio.gather(predictor.repository.unload("m"), predictor.repository.load("m"))
    assert await predictor.ready("m")


async def test_who_asks_for_a_load_and_goes_away_leaves_no_model_loading(
    serve: Any, put: Any, models: Any, ask: Any
) -> None:
    """A cancelled load changes nothing: the model is not said to be loading for ever, and the next load works."""
    put("m", 1, models.add(1))
    predictor = await serve(models=[])
    loading = asyncio.ensure_future(predictor.repository.load("m"))
    while ("m", "1") not in index(predictor):
        await asyncio.sleep(0)
    assert index(predictor)["m", "1"] == ("LOADING", "")

    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading

    assert index(predictor) == {}
    with pytest.raises(NotFound, match='model "m": no such model'):  # nobody holds it, as before
        await predictor.infer(ask("m", x=X), Call())
    await predictor.repository.load("m")
    assert await answered(predictor, ask("m", x=X)) == ("1", [2, 3])


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


async def test_loaded_models_are_metrics(serve: Any, put: Any, models: Any) -> None:
    """The size of every loaded version's file is told when somebody scrapes."""
    put("m", 1, models.add(1))
    put("m", 2, b"no model")
    predictor = await serve()
    registry = CollectorRegistry()
    registry.register(VersionsCollector(predictor.repository, "predictor"))

    size = len(models.add(1))
    line = f'infermesh_model_file_bytes{{model="m",service="predictor",version="1"}} {float(size)}'
    assert line in generate_latest(registry).decode()
    assert 'version="2"' not in generate_latest(registry).decode()


@pytest.mark.parametrize("inline", ["0s", "1s"], ids=["in a thread", "inline"])
async def test_a_version_that_was_replaced_is_freed(serve: Any, put: Any, models: Any, ask: Any, inline: str) -> None:
    """A model of the start-up set goes with its session when it is reloaded, though the collector no longer looks at it."""
    put("m", 1, models.add(1))
    predictor = await serve(inline_below=inline)
    await answered(predictor, ask("m", x=X))
    gc.collect()
    gc.freeze()
    try:
        old = weakref.ref(predictor.repository.resolve("m", ""))
        session = weakref.ref(old().session)  # type: ignore[union-attr]

        await predictor.repository.load("m")
        await answered(predictor, ask("m", x=X))

        async with asyncio.timeout(5):
            while old() is not None or session() is not None:
                await asyncio.sleep(0.01)
    finally:
        gc.unfreeze()


async def test_a_scrape_in_the_middle_of_loads_is_answered(serve: Any, put: Any, models: Any, tmp_path: Path) -> None:
    """Metrics are read in a thread of their own while models come and go on the loop."""
    put("m", 1, models.add(1))
    predictor = await serve()
    registry = CollectorRegistry()
    registry.register(VersionsCollector(predictor.repository, "predictor"))
    names = [f"m{number}" for number in range(300)]
    for name in names:
        (tmp_path / name).mkdir()
    loading = True
    scrapes = 0

    def scrape() -> None:
        nonlocal scrapes
        while loading:
            generate_latest(registry)
            scrapes += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that threads meet in the middle of things
    scraping = asyncio.ensure_future(asyncio.to_thread(scrape))
    try:
        for name in names:
            with pytest.raises(FailedPrecondition):
                await predictor.repository.load(name)
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            while scrapes < 10 and not scraping.done():
                await asyncio.sleep(0.001)
    finally:
        loading = False
        sys.setswitchinterval(interval)
    await scraping

    assert scrapes >= 10


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


async def test_a_model_that_is_dropped_is_no_metric_any_more(serve: Any, put: Any, models: Any) -> None:
    """A scrape after an unload has nothing of it; after the next load it is back."""
    put("m", 1, models.add(1))
    predictor = await serve()
    registry = CollectorRegistry()
    registry.register(VersionsCollector(predictor.repository, "predictor"))

    await predictor.repository.unload("m")
    gone = generate_latest(registry).decode()
    await predictor.repository.load("m")

    assert 'model="m"' not in gone
    assert 'model="m"' in generate_latest(registry).decode()


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

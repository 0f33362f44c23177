"""Versions that are loaded again, replaced or dropped while calls go on, and what is counted of them."""

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
from prometheus_client import CollectorRegistry, generate_latest

from infermesh.call import Call
from infermesh.errors import FailedPrecondition, NotFound, Unavailable
from infermesh.tensors import read_outputs
from services.predictor.metrics import VersionsCollector
from tests.unit.predictor.repository.repository_state import answered, index

X = np.array([1, 2], np.float32)


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

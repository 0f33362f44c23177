"""Loads that hang, are cancelled, or find their root away; and models that are only loaded when they are asked for."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.errors import FailedPrecondition, NotFound, Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.tensors import read_outputs
from services.predictor.load_failed import LoadFailed
from services.predictor.model_version import ModelVersion
from services.predictor.repository import load_version as load_version_module
from services.predictor.repository.watch import Watch, kept_up
from services.predictor.source import Counts, Folder, Look, SourceAway
from services.predictor.source.several import Several
from tests.unit.predictor.repository.repository_state import answered, index, until

X = np.array([1, 2], np.float32)


class Slow(Folder):
    """A folder one model of which is not handed out before it is told to."""

    def __init__(self, root: Path, slow: str) -> None:
        super().__init__(str(root))
        self.slow, self.go_on, self.asked = slow, threading.Event(), 0

    def version_folder(self, model: str, version: str) -> Path:
        if model == self.slow:
            self.asked += 1
            self.go_on.wait(20)
        return super().version_folder(model, version)


class Away(Folder):
    """A folder that behaves as a bucket: away for as long as it is told to."""

    listing = looking = fetching = False
    tellings: frozenset[Path] = frozenset()

    def models(self) -> list[str]:
        if self.listing:
            raise SourceAway("s3://models: connection refused")
        return super().models()

    def look(self, model: str) -> Look | None:
        if self.looking:
            raise SourceAway("s3://models: connection refused")
        return super().look(model)

    def version_folder(self, model: str, version: str) -> Path:
        if self.fetching:
            raise SourceAway("s3://models: reset by peer")
        return super().version_folder(model, version)

    def used(self, folders: frozenset[Path]) -> None:
        self.tellings = folders


async def test_a_model_that_hangs_while_it_is_loaded_holds_up_nobody(
    serve: Any, put: Any, models: Any, ask: Any, tmp_path: Path
) -> None:
    """Past `load_timeout` it counts as tried, and the index says so; when its load ends after all, it takes over."""
    for name in ("a", "hangs", "z"):
        put(name, 1, models.add(1))
    source = Slow(tmp_path, "hangs")

    predictor = await serve(source=source, strict=True, repository={"load_timeout": "1s"})

    states = index(predictor)
    assert states["a", "1"] == states["z", "1"] == ("READY", "")
    assert states["hangs", "1"] == ("LOADING", "still loading after 1s")
    assert predictor.repository.tried and not await predictor.ready()
    with pytest.raises(Unavailable, match='model "hangs" version 1: is not loaded: still loading after 1s'):
        await predictor.infer(ask("hangs", x=X, version="1"), Call())

    source.go_on.set()
    await until(lambda: index(predictor)["hangs", "1"] == ("READY", ""))
    assert await answered(predictor, ask("hangs", x=X)) == ("1", [2, 3])
    assert await predictor.ready()


async def test_a_late_version_does_not_take_over_from_a_newer_load(
    serve: Any, put: Any, models: Any, ask: Any, tmp_path: Path
) -> None:
    """What hung while it was read is closed when a later load of the same version, or an unload, has been made since."""
    put("m", 1, models.add(1))
    source = Slow(tmp_path, "m")
    predictor = await serve(source=source, repository={"load_timeout": "1s"})
    hangs, source.go_on = source.go_on, threading.Event()
    source.go_on.set()

    await predictor.repository.load("m")
    newer = predictor.repository.resolve("m", "")
    hangs.set()
    await until(lambda: predictor.repository._loader._loads.given_up == 0)

    assert predictor.repository.resolve("m", "") is newer


async def test_an_unload_ends_the_hope_of_a_late_version(
    serve: Any, put: Any, models: Any, ask: Any, tmp_path: Path
) -> None:
    """A model that was unloaded while it hung stays unloaded when its load ends."""
    put("m", 1, models.add(1))
    source = Slow(tmp_path, "m")
    predictor = await serve(source=source, repository={"load_timeout": "20ms"})

    await predictor.repository.unload("m")
    source.go_on.set()
    await until(lambda: predictor.repository._loader._loads.given_up == 0)

    assert index(predictor) == {("m", "1"): ("UNAVAILABLE", "unloaded")}


async def test_a_load_whose_caller_goes_leaves_no_version_behind(
    serve: Any, put: Any, models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions that were made for a load that was cancelled are closed, those before it and those after, and freed."""
    made: list[weakref.ref[ModelVersion]] = []
    closed: list[int] = []

    class Counted(ModelVersion):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(weakref.ref(self))

        def close(self, *, end_runs: bool = False) -> None:
            closed.append(self.version)
            super().close(end_runs=end_runs)

    monkeypatch.setattr(load_version_module, "ModelVersion", Counted)
    put("m", 1, models.add(1))
    put("m", 2, models.add(2))

    class SlowSecond(Slow):
        def version_folder(self, model: str, version: str) -> Path:
            return super().version_folder(model if version == "2" else "quick", version).parents[1] / model / version

    source = SlowSecond(tmp_path, "m")
    predictor = await serve(source=source, models=[])
    load = asyncio.ensure_future(predictor.repository.load("m"))
    await until(lambda: len(made) == 1 and source.asked == 1)
    for _ in range(3):  # the first one has reached the load
        await asyncio.sleep(0.001)

    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load
    assert index(predictor) == {}
    source.go_on.set()
    await until(lambda: len(closed) == 2)

    assert sorted(closed) == [1, 2]
    await predictor.repository.load("m")
    assert {state for state, _ in index(predictor).values()} == {"READY"}
    gc.collect()
    assert sum(each() is not None for each in made) == 2


async def test_a_root_that_is_away_at_the_start_is_asked_again(
    serve: Any, put: Any, models: Any, ask: Any, tmp_path: Path
) -> None:
    """A bucket that is away makes the service unready, not dead; what it has is loaded when it is back."""
    put("m", 1, models.add(1))
    source = Away(str(tmp_path))
    source.listing = True
    predictor = await serve(source=source, strict=True, repository={"poll": "2ms"})
    assert not await predictor.ready()

    async with kept_up(predictor.repository):
        await until(lambda: predictor.repository.counts.away >= 3)
        assert index(predictor) == {}
        source.listing, source.looking = False, True
        await until(lambda: bool(index(predictor)))
        assert index(predictor) == {("m", ""): ("UNAVAILABLE", "s3://models: connection refused")}
        assert not predictor.repository.ready
        source.looking = False
        await until(lambda: predictor.repository.ready)

    assert index(predictor) == {("m", "1"): ("READY", "")}
    assert await answered(predictor, ask("m", x=X)) == ("1", [2, 3])


async def test_one_root_of_two_that_is_away_hides_nothing_of_the_other(
    serve: Any, put: Any, models: Any, ask: Any, tmp_path: Path
) -> None:
    """What the other has is loaded at once; the service is ready when the one that was away has been asked."""
    put("here/m", 1, models.add(1))
    put("bucket/n", 1, models.add(2))
    bucket = Away(str(tmp_path / "bucket"))
    bucket.listing = bucket.looking = True
    source = Several([Folder(str(tmp_path / "here")), bucket], Counts())
    predictor = await serve(source=source, repository={"poll": "2ms"})
    assert index(predictor) == {("m", "1"): ("READY", "")}
    assert not await predictor.ready()

    async with kept_up(predictor.repository):
        bucket.listing = bucket.looking = False
        await until(lambda: predictor.repository.ready)

    assert index(predictor) == {("m", "1"): ("READY", ""), ("n", "1"): ("READY", "")}


@pytest.mark.parametrize("mode", ["all", "watch"])
async def test_what_could_not_be_fetched_is_fetched_when_the_root_is_back(
    serve: Any, put: Any, models: Any, tmp_path: Path, mode: str
) -> None:
    """A version whose files the bucket did not hand out counts as tried, and is loaded when it does."""
    put("m", 1, models.add(1))
    source = Away(str(tmp_path))
    source.fetching = True
    predictor = await serve(source=source, repository={"mode": mode, "poll": "2ms", "settle": "0s"})
    assert await predictor.ready()
    assert index(predictor) == {("m", "1"): ("UNAVAILABLE", "s3://models: reset by peer")}

    async with kept_up(predictor.repository):
        source.fetching = False
        await until(lambda: index(predictor) == {("m", "1"): ("READY", "")})


async def test_away_models_are_not_asked_for_more_often_than_poll(
    serve: Any, put: Any, models: Any, tmp_path: Path
) -> None:
    """Rounds that come for another reason do not hammer a bucket that is away."""
    put("m", 1, models.add(1))
    source = Away(str(tmp_path))
    source.fetching = True
    predictor = await serve(source=source, repository={"mode": "watch", "poll": "10s", "settle": "0s"})
    now = 0.0
    watch = Watch(predictor.repository, lambda: None, clock=lambda: now)

    counts = []
    for at in (0.0, 1.0, 2.0, 10.0, 11.0):
        now = at
        await watch.round()
        await watch.done()
        counts.append(predictor.repository.counts.failures)

    assert counts == [2, 2, 2, 3, 3]


async def test_a_load_from_a_root_that_is_away_is_unavailable(
    serve: Any, put: Any, models: Any, ask: Any, tmp_path: Path
) -> None:
    """The caller may try again; what is loaded serves on as it was, and no name of a caller's gets into the index."""
    put("m", 1, models.add(1))
    source = Away(str(tmp_path))
    predictor = await serve(source=source)
    source.looking = True

    for name in ("m", "nobody"):
        with pytest.raises(Unavailable, match="connection refused"):
            await predictor.repository.load(name)

    assert index(predictor) == {("m", "1"): ("READY", "")}
    assert await answered(predictor, ask("m", x=X)) == ("1", [2, 3])


async def test_the_source_is_told_which_folders_are_in_use(serve: Any, put: Any, models: Any, tmp_path: Path) -> None:
    """Those of the versions that answer, after every change: the others may go when room is needed."""
    one, two = put("m", 1, models.add(1)), put("m", 2, models.add(2))
    source = Away(str(tmp_path))
    predictor = await serve(source=source)
    await until(lambda: source.tellings == {one, two})

    await predictor.repository.unload("m")
    gc.collect()
    put("n", 1, models.add(1))
    await predictor.repository.load("n")

    await until(lambda: source.tellings == {tmp_path / "n/1"})


async def test_under_explicit_nothing_is_loaded_and_all_is_listed(
    serve: Any, put: Any, models: Any, ask: Any, tmp_path: Path
) -> None:
    """The index has what could be loaded, also what came since; a call for it says that it is not loaded."""
    put("m", 1, models.add(1))
    put("n", 1, models.add(1))
    predictor = await serve(repository={"mode": "explicit"})
    assert await predictor.ready()
    assert index(predictor) == {("m", ""): ("UNAVAILABLE", "not loaded"), ("n", ""): ("UNAVAILABLE", "not loaded")}
    for version in ("", "1", "stable"):
        with pytest.raises(Unavailable, match="is not loaded"):
            await predictor.infer(ask("m", x=X, version=version), Call())
    with pytest.raises(NotFound, match="no such model"):
        await predictor.infer(ask("o", x=X), Call())

    await predictor.repository.load("m")
    put("o", 1, models.add(1))
    (tmp_path / "n/1/model.onnx").unlink()
    (tmp_path / "n/1").rmdir()
    (tmp_path / "n").rmdir()
    listed = await predictor.repository.index_now()

    assert {(m.name, m.version, m.state) for m in listed.models} == {
        ("m", "1", "READY"),
        ("o", "", "UNAVAILABLE"),
    }
    assert [m.name for m in (await predictor.repository.index_now(only_ready=True)).models] == ["m"]


async def test_under_explicit_the_models_that_are_named_are_loaded(serve: Any, put: Any, models: Any) -> None:
    """`models` is the start-up set."""
    put("m", 1, models.add(1))
    put("n", 1, models.add(1))
    predictor = await serve(models=["n"], repository={"mode": "explicit"})

    assert index(predictor) == {("m", ""): ("UNAVAILABLE", "not loaded"), ("n", "1"): ("READY", "")}


async def test_a_version_that_finishes_its_calls_is_unloading(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """After an unload the index says UNLOADING until its last call is answered."""
    put("m", 1, models.slow())
    predictor = await serve()
    call = asyncio.ensure_future(predictor.infer(ask("m", n=np.array([20_000])), Call()))
    await until(lambda: predictor.repository.resolve("m", "").running == 1)

    await predictor.repository.unload("m")

    assert index(predictor) == {("m", "1"): ("UNLOADING", "unloaded")}
    assert read_outputs(await call)["done"].tolist() == [20_000]
    await until(lambda: index(predictor) == {("m", "1"): ("UNAVAILABLE", "unloaded")})


async def test_the_index_of_another_repository_is_empty(serve: Any, put: Any, models: Any, tmp_path: Path) -> None:
    """`repository_name` is a root; one that is not served has no models here."""
    put("m", 1, models.add(1))
    predictor = await serve()

    assert len(predictor.repository.index(root=str(tmp_path)).models) == 1
    assert not predictor.repository.index(root="s3://elsewhere").models


async def test_names_of_callers_leave_nothing_behind(serve: Any, put: Any, models: Any) -> None:
    """A thousand loads of models that there are not hold no memory: no entry, no lock."""
    put("m", 1, models.add(1))
    predictor = await serve()

    for number in range(1000):
        with pytest.raises(NotFound):
            await predictor.repository.load(f"nobody-{number}")

    assert list(predictor.repository._models) == ["m"]
    assert len(predictor.repository._locks) == 0


async def test_a_load_reports_what_the_root_can_not_tell(serve: Any, put: Any, models: Any, tmp_path: Path) -> None:
    """A model that stands in two roots is a failed precondition, with the source's words."""
    put("m", 1, models.add(1))

    class Twice(Folder):
        def look(self, model: str) -> Look | None:
            raise LoadFailed("model m is in /a and in /b: remove one of them")

    predictor = await serve(source=Twice(str(tmp_path)))

    assert index(predictor) == {("m", ""): ("UNAVAILABLE", "model m is in /a and in /b: remove one of them")}
    with pytest.raises(FailedPrecondition, match="is in /a and in /b"):
        await predictor.load(pb.RepositoryModelLoadRequest(model_name="m"), Call())

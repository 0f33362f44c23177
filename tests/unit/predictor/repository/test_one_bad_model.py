"""One model whose folder can't be read is that model's fault: the others are served, and the service is ready."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.errors import Unavailable
from infermesh.tensors import read_outputs
from services.predictor.repository.watch import kept_up
from services.predictor.source import Counts, Folder, Look, SourceAway
from services.predictor.source.several import Several
from tests.unit.predictor.repository.repository_state import index, until

X = np.array([1, 2], np.float32)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Folders that this user may not read; a right that is missing does not stop root, who runs some tests."""
    folders: set[str] = set()
    scandir = os.scandir

    def scan(path: Any = ".") -> Any:
        if str(path) in folders:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    return folders


@pytest.mark.parametrize("mode", ["all", "watch"])
async def test_a_model_that_can_not_be_read_counts_as_tried(
    serve: Any, put: Any, models: Any, tmp_path: Path, refused: set[str], mode: str
) -> None:
    """The service is ready without it, its reason is in the index, and it is loaded when it can be read."""
    put("good", 1, models.add(1))
    put("bad", 1, models.add(1))
    refused.add(str(tmp_path / "bad"))
    predictor = await serve(repository={"mode": mode, "poll": "2ms", "settle": "0s"})

    assert await predictor.ready()
    assert index(predictor)["good", "1"] == ("READY", "")
    assert index(predictor)["bad", ""] == ("UNAVAILABLE", f"{tmp_path}/bad can't be read: Permission denied")
    async with kept_up(predictor.repository):
        refused.clear()
        await until(lambda: index(predictor).get(("bad", "1")) == ("READY", ""))


async def test_under_strict_readiness_it_keeps_the_service_unready(
    serve: Any, put: Any, models: Any, tmp_path: Path, refused: set[str]
) -> None:
    """It has been tried, and was not loaded; when it is, the service is ready."""
    put("bad", 1, models.add(1))
    refused.add(str(tmp_path / "bad"))
    predictor = await serve(strict=True)
    assert predictor.repository.tried and not await predictor.ready()

    refused.clear()
    await predictor.repository.load("bad")

    assert await predictor.ready()


async def test_a_bad_model_is_said_once(
    serve: Any, put: Any, models: Any, tmp_path: Path, refused: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Rounds that find it still unreadable neither fill the log nor say that the whole repository is away, or back."""
    put("good", 1, models.add(1))
    put("bad", 1, models.add(1))
    predictor = await serve(repository={"mode": "watch", "poll": "2ms", "settle": "0s"})
    caplog.set_level("INFO")
    caplog.clear()
    refused.add(str(tmp_path / "bad"))

    async with kept_up(predictor.repository):
        await until(lambda: predictor.repository.counts.away >= 5)

    said = [record.message for record in caplog.records if "asked" in record.message or "back" in record.message]
    assert said == ["a model can't be asked for: what is loaded of it serves on"]
    assert index(predictor) == {("bad", "1"): ("READY", ""), ("good", "1"): ("READY", "")}


async def test_a_root_that_goes_away_between_listing_and_looks_is_not_tried(
    serve: Any, put: Any, models: Any, tmp_path: Path
) -> None:
    """When the listing fails too, it is the root that is away: the service is not ready with nothing."""
    put("m", 1, models.add(1))

    class Going(Folder):
        listings = 0

        def models(self) -> list[str]:
            self.listings += 1
            if self.listings == 2:
                raise SourceAway("s3://models: connection refused")
            return super().models()

        def look(self, model: str) -> Look | None:
            if self.listings < 2:
                raise SourceAway("s3://models: connection refused")
            return super().look(model)

    predictor = await serve(source=Going(str(tmp_path)))
    assert not await predictor.ready()

    await predictor.repository.load_all()

    assert await predictor.ready()
    assert index(predictor) == {("m", "1"): ("READY", "")}


async def test_a_local_root_that_can_not_be_read_hides_no_other(
    serve: Any, put: Any, models: Any, tmp_path: Path, refused: set[str]
) -> None:
    """A mounted folder without the right to read it is a root that is away, as a bucket is."""
    put("one/m", 1, models.add(1))
    put("two/n", 1, models.add(1))
    refused.add(str(tmp_path / "one"))
    source = Several([Folder(str(tmp_path / "one")), Folder(str(tmp_path / "two"))], Counts())

    predictor = await serve(source=source)

    assert index(predictor) == {("n", "1"): ("READY", "")}
    assert not predictor.repository.tried
    refused.clear()
    await predictor.repository.load_all()
    assert predictor.repository.tried and ("m", "1") in index(predictor)


async def test_a_file_system_that_fails_is_a_root_that_is_away(
    serve: Any, put: Any, models: Any, ask: Any, tmp_path: Path, refused: set[str]
) -> None:
    """A stale mount or a missing right is no defect of ours: what is loaded serves on, a load is UNAVAILABLE with the reason."""
    put("m", 1, models.add(1))
    predictor = await serve()
    refused.add(str(tmp_path / "m"))

    with pytest.raises(Unavailable, match="m can't be read: Permission denied"):
        await predictor.repository.load("m")

    answer = await predictor.infer(ask("m", x=X), Call())
    assert read_outputs(answer)["y"].tolist() == [2, 3]


@pytest.mark.parametrize("mode", ["all", "explicit"])
async def test_a_load_that_is_cancelled_leaves_no_model(serve: Any, put: Any, models: Any, mode: str) -> None:
    """A model of which nothing is known yet is not held without a row in the index."""
    predictor = await serve(repository={"mode": mode})
    put("new", 1, models.add(1))
    load = asyncio.ensure_future(predictor.repository.load("new"))
    await until(lambda: "new" in predictor.repository._models)

    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load

    assert list(predictor.repository._models) == []
    listed = await predictor.repository.index_now()
    assert [(m.name, m.reason) for m in listed.models] == ([("new", "not loaded")] if mode == "explicit" else [])


async def test_models_that_nobody_has_loaded_share_their_settings(serve: Any, tmp_path: Path) -> None:
    """Thousands of them are listed without settings made for each, and with turns of the loop between."""
    for number in range(300):
        (tmp_path / f"m{number:03}").mkdir()
    predictor = await serve(repository={"mode": "explicit"})
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    listed = await predictor.repository.index_now()
    counting.cancel()

    assert [m.name for m in listed.models] == [f"m{number:03}" for number in range(300)]
    assert len({id(model.settings) for model in predictor.repository.models()}) == 1
    assert turns >= 3

"""Models that follow their root while they are served."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.errors import NotFound
from services.predictor.load_failed import LoadFailed
from services.predictor.repository.watch import Watch, kept_up
from services.predictor.source import Folder, Look, SourceAway
from tests.unit.predictor.repository.repository_state import answered, index, until

X = np.array([1, 2], np.float32)
WATCH = {"mode": "watch", "poll": "20ms", "settle": "1ms"}


@pytest.fixture
async def follow(serve: Any) -> AsyncIterator[Any]:
    """`await follow(poll="20ms")`: a predictor whose models follow the folder."""
    contexts = []

    async def follow(root: Any = None, *, source: Any = None, models: Any = None, **repository: Any) -> Any:
        predictor = await serve(root, source=source, models=models, repository={**WATCH, **repository})
        context = kept_up(predictor.repository)
        await context.__aenter__()
        contexts.append(context)
        return predictor

    yield follow
    for context in contexts:
        await context.__aexit__(None, None, None)


class Fragile(Folder):
    """A folder that can be away, or have a model in two places."""

    is_away = False
    doubled = ""
    looks = 0

    def models(self) -> list[str]:
        if self.is_away:
            raise SourceAway("the bucket does not answer")
        return super().models()

    def look(self, model: str) -> Look | None:
        self.looks += 1
        if self.is_away:
            raise SourceAway("the bucket does not answer")
        if model == self.doubled:
            raise LoadFailed("it is in two roots")
        return super().look(model)


async def test_models_and_versions_come_change_and_go(
    follow: Any, put: Any, models: Any, ask: Any, tmp_path: Path
) -> None:
    """What is new in the folder is loaded, what was changed is swapped, what is gone is dropped, from the index too."""
    put("m", 1, models.add(1))
    put("other", 1, models.add(1))
    predictor = await follow()

    put("m", 2, models.add(2))
    put("new", 7, models.add(7))
    await until(lambda: {("m", "2"), ("new", "7")} <= index(predictor).keys())
    await until(lambda: {state for state, _ in index(predictor).values()} == {"READY"})
    assert await answered(predictor, ask("m", x=X)) == ("2", [3, 4])
    assert await answered(predictor, ask("new", x=X)) == ("7", [8, 9])

    old = predictor.repository.resolve("m", "2")
    put("m", 2, models.add(20))
    await until(lambda: predictor.repository.resolve("m", "2") is not old)
    assert await answered(predictor, ask("m", x=X)) == ("2", [21, 22])

    shutil.rmtree(tmp_path / "m/1")
    shutil.rmtree(tmp_path / "other")
    await until(lambda: index(predictor).keys() == {("m", "2"), ("new", "7")})
    with pytest.raises(NotFound, match='model "other": no such model'):
        await predictor.infer(ask("other", x=X), Call())
    assert predictor.repository.label("other") == ""


async def test_only_what_was_changed_is_loaded_again(
    follow: Any, put: Any, models: Any, ask: Any, tmp_path: Path
) -> None:
    """A version whose files did not change keeps its session, whatever happens beside it; labels and policy move without a
    load; other settings of the model load it again."""
    put("m", 1, models.add(1))
    put("m", 2, models.add(2))
    put("other", 1, models.add(1))
    predictor = await follow()
    resolve = predictor.repository.resolve
    one, two, other = resolve("m", "1"), resolve("m", "2"), resolve("other", "1")

    put("m", 2, models.add(3))
    await until(lambda: resolve("m", "2") is not two)
    (tmp_path / "m/config.yaml").write_text("labels: {stable: 1}\nversions: {specific: [1, 2]}")
    await until(lambda: predictor.repository.labels("m") == {"stable": 1})
    assert resolve("m", "stable") is one
    assert resolve("other", "1") is other

    (tmp_path / "m/config.yaml").write_text("execution: {instances: 3}")
    await until(lambda: resolve("m", "1") is not one)
    assert resolve("m", "1").settings.execution.instances == 3
    assert resolve("other", "1") is other


async def test_a_bad_version_says_why_and_leaves_the_others(follow: Any, put: Any, models: Any, ask: Any) -> None:
    """Its reason is in the index, once; it is not tried again until its files change, and then it is."""
    put("m", 1, models.add(1))
    predictor = await follow()

    put("m", 2, b"no model")
    await until(lambda: index(predictor).get(("m", "2"), ("", ""))[0] == "UNAVAILABLE")
    failures, looks = predictor.repository.counts.failures, predictor.repository.counts.loads
    put("other", 1, models.add(1))
    await until(lambda: index(predictor).get(("other", "1")) == ("READY", ""))

    assert await answered(predictor, ask("m", x=X)) == ("1", [2, 3])
    assert (predictor.repository.counts.failures, predictor.repository.counts.loads) == (failures, looks + 1)
    put("m", 2, models.add(2))
    await until(lambda: index(predictor)["m", "2"] == ("READY", ""))
    assert await answered(predictor, ask("m", x=X)) == ("2", [3, 4])


async def test_a_folder_tells_by_itself(follow: Any, put: Any, models: Any) -> None:
    """With a poll of an hour a new version is still picked up."""
    put("m", 1, models.add(1))
    predictor = await follow(poll="1h")

    async with asyncio.timeout(30):  # the watch begins in a thread: what was changed before it is not told of
        number = 2
        while ("m", "2") not in index(predictor):
            put("m", 2, models.add(number))
            number += 1
            await asyncio.sleep(0.05)


async def test_a_root_whose_link_is_swapped_is_followed(
    follow: Any, put: Any, models: Any, ask: Any, tmp_path: Path
) -> None:
    """A ConfigMap or git-sync changes a folder by a swap of a symbolic link."""
    (tmp_path / "revisions").mkdir()
    for revision in (1, 2):
        put(f"revisions/{revision}/m", 1, models.add(revision))
    root = tmp_path / "current"
    root.symlink_to("revisions/1")
    predictor = await follow(root)
    assert await answered(predictor, ask("m", x=X)) == ("1", [2, 3])

    old = predictor.repository.resolve("m", "")
    (tmp_path / "next").symlink_to("revisions/2")
    (tmp_path / "next").replace(root)
    await until(lambda: predictor.repository.resolve("m", "") is not old)

    assert await answered(predictor, ask("m", x=X)) == ("1", [3, 4])


async def test_a_root_that_is_away_keeps_everything(
    follow: Any, serve: Any, put: Any, models: Any, tmp_path: Path
) -> None:
    """It is said once and asked on; when it is back, what has changed meanwhile is picked up."""
    put("m", 1, models.add(1))
    source = Fragile(str(tmp_path))
    predictor = await follow(source=source)

    source.is_away = True
    shutil.rmtree(tmp_path / "m")
    away = predictor.repository.counts.away
    await until(lambda: predictor.repository.counts.away >= away + 3)
    assert index(predictor) == {("m", "1"): ("READY", "")}

    put("n", 1, models.add(1))
    source.is_away = False
    await until(lambda: index(predictor) == {("n", "1"): ("READY", "")})


async def test_a_root_that_is_suddenly_empty_is_away(
    follow: Any, put: Any, models: Any, ask: Any, tmp_path: Any
) -> None:
    """A volume that was unmounted leaves an empty folder, and takes no model away."""
    put("m", 1, models.add(1))
    predictor = await follow()
    shutil.move(tmp_path / "m", tmp_path / ".kept")

    await until(lambda: predictor.repository.counts.away > 0)

    assert await answered(predictor, ask("m", x=X)) == ("1", [2, 3])
    shutil.move(tmp_path / ".kept", tmp_path / "m")
    put("m", 2, models.add(2))
    await until(lambda: predictor.repository.ready_versions("m") == ["1", "2"])


async def test_it_is_said_once_that_a_root_is_away(
    follow: Any, put: Any, models: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A bucket that is away for a day does not fill the log."""
    put("m", 1, models.add(1))
    source = Fragile(str(tmp_path))
    predictor = await follow(source=source)

    source.is_away = True
    await until(lambda: predictor.repository.counts.away >= 5)

    assert sum("can't be asked" in record.message for record in caplog.records) == 1


async def test_a_model_that_the_root_can_not_tell_of_has_its_reason(
    follow: Any, put: Any, models: Any, ask: Any, tmp_path: Path
) -> None:
    """A model in two roots keeps what it has, with the reason; the others are followed; mended, the reason goes."""
    put("m", 1, models.add(1))
    source = Fragile(str(tmp_path))
    predictor = await follow(source=source)
    version = predictor.repository.resolve("m", "")

    source.doubled = "m"
    await until(lambda: index(predictor)["m", "1"] == ("READY", "it is in two roots"))
    put("n", 1, models.add(1))
    await until(lambda: index(predictor).get(("n", "1")) == ("READY", ""))

    source.doubled = ""
    await until(lambda: index(predictor)["m", "1"] == ("READY", ""))
    assert predictor.repository.resolve("m", "") is version


async def test_files_have_to_settle(serve: Any, put: Any, models: Any) -> None:
    """What changes again within `settle` is left alone; only what has stayed as it was for so long is loaded."""
    put("m", 1, models.add(1))
    predictor = await serve(repository={"mode": "watch", "settle": "5s", "poll": "60s"})
    now = 100.0
    watch = Watch(predictor.repository, lambda: None, clock=lambda: now)
    assert await watch.round() == 60

    put("m", 2, b"half a f")
    assert await watch.round() == 5
    now = 104.0
    put("m", 2, models.add(2))
    assert await watch.round() == 5
    now = 108.0
    assert await watch.round() == 1
    await watch.done()
    assert index(predictor) == {("m", "1"): ("READY", "")}
    now = 109.0
    assert await watch.round() == 60
    await watch.done()

    assert index(predictor) == {("m", "1"): ("READY", ""), ("m", "2"): ("READY", "")}
    assert predictor.repository.counts.failures == 0


async def test_what_was_unloaded_stays_so_until_it_changes(serve: Any, put: Any, models: Any) -> None:
    """An operator's unload is not undone by the next look at the same files."""
    put("m", 1, models.add(1))
    predictor = await serve(repository={"mode": "watch", "settle": "0s", "poll": "60s"})
    watch = Watch(predictor.repository, lambda: None)

    await predictor.repository.unload("m")
    await watch.round()
    await watch.done()
    assert index(predictor) == {("m", "1"): ("UNAVAILABLE", "unloaded")}

    put("m", 1, models.add(2))
    await watch.round()
    await watch.done()
    assert index(predictor) == {("m", "1"): ("READY", "")}


async def test_only_the_models_that_are_named_are_followed(serve: Any, put: Any, models: Any) -> None:
    """`models` bounds the watch; one of them that is not there keeps its place, and is loaded when it comes."""
    put("other", 1, models.add(1))
    predictor = await serve(models=["m"], repository={"mode": "watch", "settle": "0s"})
    watch = Watch(predictor.repository, lambda: None)
    await watch.round()
    await watch.done()
    assert index(predictor) == {("m", ""): ("UNAVAILABLE", "no version folder in m/")}

    put("m", 1, models.add(1))
    await watch.round()
    await watch.done()

    assert index(predictor) == {("m", "1"): ("READY", "")}


async def test_files_that_are_replaced_under_load_fail_no_call(
    follow: Any, put: Any, models: Any, ask: Any, tmp_path: Path
) -> None:
    """Callers who never pause see old or new answers and no error, over many replacements of the file."""
    put("m", 1, models.add(0))
    predictor = await follow(settle="0s", poll="1ms")
    going, seen = True, set()

    async def caller() -> int:
        count = 0
        while going:
            seen.add((await answered(predictor, ask("m", x=X)))[1][0])
            count += 1
            await asyncio.sleep(0)
        return count

    callers = [asyncio.ensure_future(caller()) for _ in range(4)]
    for number in range(1, 11):
        before = predictor.repository.resolve("m", "")
        (tmp_path / "new").write_bytes(models.add(number))
        (tmp_path / "new").replace(tmp_path / "m/1/model.onnx")
        await until(lambda before=before: predictor.repository.resolve("m", "") is not before)  # type: ignore[misc]
    last = await answered(predictor, ask("m", x=X))
    going = False
    counts = await asyncio.gather(*callers)

    assert last == ("1", [11, 12])
    assert sum(counts) > 100
    assert seen <= {float(n) for n in range(1, 12)}

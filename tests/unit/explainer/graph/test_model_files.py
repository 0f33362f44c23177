"""Model files are read once, kept within bounds, and looked at again."""

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from services.explainer import model_files
from services.explainer.model_files import ModelFiles
from tests.unit.explainer.tree.random_trees import Leaf, Split, regressor


def content(value: float, features: int = 2) -> bytes:
    return regressor([Split(0, "BRANCH_LEQ", 0.0, False, Leaf([value]), Leaf([-value]))], features)


def put(root: Path, what: bytes, model: str = "m", version: str = "1") -> Path:
    path = root / model / version / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(what)
    return path


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what was parsed."""
    sizes: list[int] = []
    read = model_files.ModelGraph.read

    def counted(what: bytes, output: str = "") -> Any:
        sizes.append(len(what))
        return read(what, output)

    monkeypatch.setattr(model_files.ModelGraph, "read", staticmethod(counted))
    return sizes


def leaves(found: model_files.ModelFile) -> list[float]:
    assert found.graph is not None, found.reason
    return sorted(found.graph.model.values.ravel().tolist())


async def test_a_file_is_read_once_for_all_who_ask(tmp_path: Path, clock: Clock, reads: list[int]) -> None:
    put(tmp_path, content(1.0))
    files = ModelFiles(str(tmp_path), clock=clock)

    found = await asyncio.gather(*(files.find("m", "1") for _ in range(5)))
    clock.now += 10
    again = await files.find("m", "1")

    assert len(reads) == 1
    assert all(each.graph is again.graph for each in found)
    files.close()


async def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path, clock: Clock) -> None:
    path = put(tmp_path, content(1.0))
    files = ModelFiles(str(tmp_path), clock=clock)
    before = await files.find("m", "1")

    stat = path.stat()
    path.write_bytes(content(2.0))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    within_a_second = await files.find("m", "1")
    clock.now += 1
    after = await files.find("m", "1")

    assert within_a_second is before
    assert leaves(before) == [-1, 0, 1]
    assert leaves(after) == [-2, 0, 2]
    files.close()


async def test_a_file_that_was_missing_is_found_later(tmp_path: Path, clock: Clock) -> None:
    files = ModelFiles(str(tmp_path), clock=clock)

    missing = await files.find("m", "1")
    put(tmp_path, content(1.0))
    clock.now += 1
    found = await files.find("m", "1")

    assert missing.graph is None
    assert missing.reason == f"{tmp_path}/m/1/model.onnx: there is no such file"
    assert leaves(found) == [-1, 0, 1]
    files.close()


async def test_no_more_is_kept_than_allowed(tmp_path: Path, clock: Clock, reads: list[int]) -> None:
    for version in ("1", "2", "3"):
        put(tmp_path, content(1.0), version=version)
    by_entries = ModelFiles(str(tmp_path), clock=clock, max_entries=2)
    by_bytes = ModelFiles(str(tmp_path), clock=clock, max_bytes=int(len(content(1.0)) * 2.5))

    for files in (by_entries, by_bytes):
        reads.clear()
        for version in ("1", "2", "3", "3", "2", "1"):
            await files.find("m", version)

        assert len(reads) == 4  # of the first again, which went when the third came
        files.close()


async def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, reads: list[int]) -> None:
    put(tmp_path, content(1.0))
    files = ModelFiles(str(tmp_path), max_bytes=10)

    found = await files.find("m", "1")

    assert "expected at most 10 bytes" in found.reason
    assert not reads
    files.close()


@pytest.mark.parametrize(
    "what", [b"", b"\0" * 100, b"no model", content(1.0)[:-30]], ids=["empty", "zeros", "text", "cut"]
)
async def test_a_broken_file_has_a_reason(tmp_path: Path, what: bytes) -> None:
    put(tmp_path, what)
    files = ModelFiles(str(tmp_path))

    found = await files.find("m", "1")

    assert found.graph is None
    assert "no ONNX model" in found.reason
    files.close()


@pytest.mark.parametrize(
    ("model", "version"), [("..", "1"), ("m", "../1"), (".m", "1"), ("m", ""), ("a/b", "1"), ("a\0", "1")]
)
async def test_a_name_that_leads_elsewhere_finds_nothing(tmp_path: Path, model: str, version: str) -> None:
    put(tmp_path, content(1.0))
    put(tmp_path.parent, content(1.0), model="1", version="1")
    files = ModelFiles(str(tmp_path))

    found = await files.find(model, version)

    assert "is no name of a model or version" in found.reason
    files.close()


async def test_a_caller_who_goes_away_does_not_end_the_look_of_another(tmp_path: Path) -> None:
    put(tmp_path, content(1.0))
    files = ModelFiles(str(tmp_path))
    first = asyncio.ensure_future(files.find("m", "1"))
    second = asyncio.ensure_future(files.find("m", "1"))
    await asyncio.sleep(0)

    first.cancel()

    assert leaves(await second) == [-1, 0, 1]
    files.close()


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The file of version 1 can't be looked at until the event is set."""
    path, let_go = put(tmp_path, content(1.0)), threading.Event()
    stat = Path.stat

    def hang(self: Path, **options: Any) -> os.stat_result:
        if self == path:
            let_go.wait()
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", hang)
    yield let_go
    let_go.set()


async def test_a_store_that_hangs_is_a_reason(tmp_path: Path, hanging: threading.Event) -> None:
    files = ModelFiles(str(tmp_path), timeout_s=0.05)

    found = await files.find("m", "1")

    assert found.reason == f"{tmp_path}: no answer within 0.05 s"
    files.close()
    hanging.set()
    await asyncio.to_thread(files._pool.shutdown)  # its thread goes on to read, which the next test may count


async def test_a_file_that_hangs_does_not_keep_another_waiting(tmp_path: Path, hanging: threading.Event) -> None:
    put(tmp_path, content(2.0), version="2")
    files = ModelFiles(str(tmp_path), timeout_s=60)
    first = asyncio.ensure_future(files.find("m", "1"))

    other = await files.find("m", "2")
    still_waiting = not first.done()
    hanging.set()

    assert still_waiting
    assert leaves(other) == [-2, 0, 2]
    assert leaves(await first) == [-1, 0, 1]
    files.close()


async def test_files_of_a_url_are_read_and_looked_at_again(clock: Clock) -> None:
    store = fsspec.filesystem("memory")
    store.pipe_file("/models/m/1/model.onnx", content(1.0))
    files = ModelFiles("memory://models", clock=clock)

    before = await files.find("m", "1")
    missing = await files.find("m", "2")
    store.pipe_file("/models/m/1/model.onnx", content(2.0, features=200))
    clock.now += 1
    after = await files.find("m", "1")

    assert leaves(before) == [-1, 0, 1]
    assert missing.reason == "memory://models/m/2/model.onnx: there is no such file"
    assert leaves(after) == [-2, 0, 2]
    files.close()

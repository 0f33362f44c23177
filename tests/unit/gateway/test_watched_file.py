"""Tests of files that change while they are in use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from infermesh.config import ConfigError
from services.gateway import watched_file
from services.gateway.watched_file import followed

LONG_S = 300.0  # so that nothing but a change that the system tells of can be what is seen


class Reader:
    """Reads a file's text, refuses `bad`, and keeps what was taken over."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.outcomes: list[bool] = []
        self._heard = asyncio.Event()

    def read(self, file: Path) -> str:
        text = file.read_text() if file.exists() else "bad"
        if text == "bad":
            raise ConfigError(str(file), ["it is bad"])
        return text

    def adopt(self, text: str) -> None:
        if text == "unforeseen":
            raise KeyError(text)
        self.taken.append(text)

    def observe(self, good: bool) -> None:
        self.outcomes.append(good)
        self._heard.set()

    async def hear(self, count: int) -> None:
        """Wait until so many readings were made."""
        async with asyncio.timeout(10):
            while len(self.outcomes) < count:
                self._heard.clear()
                await self._heard.wait()


@asynccontextmanager
async def _following(file: Path, every_s: float = LONG_S) -> AsyncIterator[Reader]:
    reader = Reader()
    async with followed(file, reader.read, reader.adopt, reader.observe, every_s=every_s):
        yield reader


async def test_a_new_content_is_taken_over(tmp_path: Path) -> None:
    """A file that is written anew is read without being asked for."""
    file = tmp_path / "routes.yaml"
    file.write_text("one")

    async with _following(file, 0.05) as reader:
        file.write_text("two")
        await reader.hear(1)

    assert reader.taken == ["two"]


async def test_a_bad_file_leaves_the_last_good_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A bad file, or none, is counted and logged and changes nothing; what comes after it is taken over."""
    file = tmp_path / "routes.yaml"
    file.write_text("one")

    async with _following(file, 0.05) as reader:
        file.write_text("bad")
        await reader.hear(1)
        file.unlink()
        await reader.hear(2)
        file.write_text("unforeseen")
        await reader.hear(3)
        assert reader.taken == []
        file.write_text("two")
        await reader.hear(4)

    assert reader.outcomes == [False, False, False, True]
    assert reader.taken == ["two"]
    assert "it is bad" in caplog.text


async def test_a_config_map_is_followed_through_its_swap(tmp_path: Path) -> None:
    """Kubernetes swaps a symbolic link beside the file, which itself stays as it is: the system's notice is enough."""
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "routes.yaml").write_text(version)
    (tmp_path / "..data").symlink_to("v1")
    file = tmp_path / "routes.yaml"
    file.symlink_to("..data/routes.yaml")

    async with _following(file) as reader:
        for number in range(50):  # until the watch stands
            (tmp_path / "..data_tmp").symlink_to("v2" if number % 2 == 0 else "v1")
            (tmp_path / "..data_tmp").replace(tmp_path / "..data")
            try:
                await asyncio.wait_for(reader.hear(1), 0.5)
                break
            except TimeoutError:
                continue

    assert reader.taken
    assert reader.taken[0] in ("v1", "v2")


async def test_a_rename_into_place_is_seen(tmp_path: Path) -> None:
    """What editors and careful writers do, a new file renamed over the old one, is noticed by the folder's watch."""
    file = tmp_path / "keys.yaml"
    file.write_text("one")

    async with _following(file) as reader:
        for number in range(50):
            (tmp_path / "new").write_text(f"two {number}")
            (tmp_path / "new").replace(file)
            try:
                await asyncio.wait_for(reader.hear(1), 0.5)
                break
            except TimeoutError:
                continue

    assert reader.taken
    assert reader.taken[0].startswith("two")


async def test_without_notices_the_content_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a folder can't be watched the file is looked at now and then; a touch without a new content is no change."""

    def no_watch(*_: object, **__: object) -> object:
        raise OSError("inotify: no space left on device")

    monkeypatch.setattr(watched_file, "awatch", no_watch)
    file = tmp_path / "routes.yaml"
    file.write_text("one")

    async with _following(file, 0.01) as reader:
        file.touch()
        file.write_text("one")
        await asyncio.sleep(0)
        file.write_text("two")
        await reader.hear(1)

    assert reader.taken == ["two"]


async def test_closing_does_not_wait_for_the_next_look(tmp_path: Path) -> None:
    """However seldom the file is looked at, the end comes at once, and for a folder that is not there too."""
    file = tmp_path / "routes.yaml"
    file.write_text("one")

    async with asyncio.timeout(5):
        async with _following(file):
            await asyncio.sleep(0)
        async with _following(tmp_path / "no" / "folder.yaml"):
            await asyncio.sleep(0)


async def test_what_takes_a_while_to_take_over_is_waited_for(tmp_path: Path) -> None:
    """A content is counted as taken over when that is done, and one whose taking over fails as bad."""
    file = tmp_path / "routes.yaml"
    file.write_text("one")
    reader = Reader()

    async def adopt(text: str) -> None:
        await asyncio.sleep(0)
        if text == "late fault":
            raise ConfigError(str(file), [text])
        assert reader.outcomes in ([], [False])
        reader.taken.append(text)

    async with followed(file, reader.read, adopt, reader.observe, every_s=0.05):
        file.write_text("late fault")
        await reader.hear(1)
        file.write_text("two")
        await reader.hear(2)

    assert (reader.taken, reader.outcomes) == (["two"], [False, True])


async def test_a_content_counts_when_it_has_come_to_rest(tmp_path: Path) -> None:
    """What a writer has written so far is not read while it goes on writing."""
    file = tmp_path / "keys.yaml"
    file.write_text("one")
    reader = Reader()
    parts = iter(["two, half", "two, nearly", "two"])
    pauses = 0

    async def pause(_: float) -> None:
        nonlocal pauses
        pauses += 1
        if part := next(parts, ""):
            file.write_text(part)

    async with followed(file, reader.read, reader.adopt, reader.observe, every_s=0.05, pause=pause):
        file.write_text("tw")
        await reader.hear(1)

    assert (reader.taken, reader.outcomes) == (["two"], [True])
    assert pauses == 4


async def test_what_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    """Neither what was read in between nor its faults count."""
    file = tmp_path / "keys.yaml"
    file.write_text("one")
    reader = Reader()

    def read(file: Path) -> str:
        if file.read_text() == "two":
            file.write_text("three")
            raise ConfigError(str(file), ["two was read"])
        return reader.read(file)

    async def pause(_: float) -> None:
        await asyncio.sleep(0)

    async with followed(file, read, reader.adopt, reader.observe, every_s=0.05, pause=pause):
        file.write_text("two")
        await reader.hear(1)

    assert (reader.taken, reader.outcomes) == (["three"], [True])


async def test_a_content_that_comes_back_is_no_change(tmp_path: Path) -> None:
    """A file that was away for a moment is as it was."""
    file = tmp_path / "keys.yaml"
    file.write_text("one")
    reader = Reader()
    back = asyncio.Event()

    async def pause(_: float) -> None:
        if not back.is_set():
            file.write_text("one")
            back.set()

    async with followed(file, reader.read, reader.adopt, reader.observe, every_s=0.05, pause=pause):
        file.unlink()
        await back.wait()
        file.write_text("two")
        await reader.hear(1)

    assert reader.taken == ["two"]

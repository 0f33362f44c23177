"""Looks that hang: the model is named, the others are not held up, and no thread is lost for each round."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from services.predictor.load_failed import LoadFailed
from services.predictor.repository.loader import Counts
from services.predictor.repository.looks import Looks
from services.predictor.source import Folder, Look, SourceAway
from tests.unit.predictor.repository.repository_state import until


class Hanging(Folder):
    """One model of it is not answered for before it is told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.go_on, self.asked, self.listing_hangs = threading.Event(), 0, False

    def models(self) -> list[str]:
        if self.listing_hangs:
            self.asked += 1
            self.go_on.wait(20)
        return super().models()

    def look(self, model: str) -> Look | None:
        if model == "hangs":
            self.asked += 1
            self.go_on.wait(20)
        return super().look(model)


@pytest.fixture
def source(tmp_path: Path) -> Any:
    for name in ("a", "hangs", "z"):
        (tmp_path / name / "1").mkdir(parents=True)
    source = Hanging(tmp_path)
    yield source
    source.go_on.set()


async def test_a_look_that_hangs_hides_no_other(source: Hanging) -> None:
    """Those before it and after it in its thread are answered; it is away, and not asked for again while its thread lives."""
    looks = Looks(source, 0.2, Counts())

    for _ in range(3):
        found = await looks.each(["a", "hangs", "z"])
        assert isinstance(found["a"], Look) and isinstance(found["z"], Look)
        assert isinstance(found["hangs"], SourceAway) and "has not been answered for" in str(found["hangs"])
    with pytest.raises(SourceAway, match="has not been answered for"):
        await looks.one("hangs")
    assert source.asked == 1 and looks.given_up == 1

    source.go_on.set()
    await until(lambda: looks.given_up == 0)
    assert isinstance((await looks.each(["hangs"]))["hangs"], Look)


async def test_a_single_look_that_hangs_is_away(source: Hanging) -> None:
    """Whoever loads it is told so, and the next one at once."""
    looks = Looks(source, 0.02, Counts())

    for _ in range(3):
        with pytest.raises(SourceAway, match="has not been answered for"):
            await looks.one("hangs")

    assert source.asked == 1 and looks.given_up == 1


async def test_a_listing_that_hangs_takes_one_thread(source: Hanging) -> None:
    """Rounds while it hangs find the root away, and begin no other listing."""
    counts = Counts()
    looks = Looks(source, 0.02, counts)
    source.listing_hangs = True

    assert [await looks.models() for _ in range(3)] == [None, None, None]
    assert source.asked == 1 and looks.given_up == 1 and counts.away == 3

    source.go_on.set()
    await until(lambda: looks.given_up == 0)
    assert await looks.models() == ["a", "hangs", "z"]


async def test_an_unforeseen_error_is_of_its_model(source: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect that one model's folder brings out does not end the round of the others."""
    look = Folder.look

    def fails(self: Folder, model: str) -> Look | None:
        if model == "a":
            raise ValueError("nobody thought of it")
        return look(self, model)

    monkeypatch.setattr(Hanging, "look", fails)

    found = await Looks(source, 20, Counts()).each(["a", "z"])

    assert isinstance(found["a"], LoadFailed) and "ValueError" in str(found["a"])
    assert isinstance(found["z"], Look)

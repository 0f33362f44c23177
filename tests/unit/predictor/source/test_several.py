"""Several roots as one, one of which is slow."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.predictor.load_failed import LoadFailed
from services.predictor.source import Counts, Folder, Look, SourceAway
from services.predictor.source.several import Several


class Slow(Folder):
    """Does not answer before it is told to, when it is slow."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.slow, self.go_on, self.asked = True, threading.Event(), 0

    def models(self) -> list[str]:
        return self._wait() or super().models()

    def look(self, model: str) -> Look | None:
        return self._wait() or super().look(model)

    def _wait(self) -> None:
        self.asked += 1
        if self.slow:
            self.go_on.wait(20)


@pytest.fixture
def roots(tmp_path: Path) -> Iterator[tuple[Slow, Folder]]:
    for name in ("slow/s/1", "fast/f/1"):
        (tmp_path / name).mkdir(parents=True)
    slow = Slow(tmp_path / "slow")
    yield slow, Folder(str(tmp_path / "fast"))
    slow.go_on.set()


def until(holds: Any) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_slow_root_holds_back_no_other(roots: tuple[Slow, Folder]) -> None:
    """The others are listed and looked at without it: it counts as away, and is asked no second time meanwhile."""
    slow, fast = roots
    source = Several([slow, fast], Counts(), late_s=0.05, wait_s=0.1)

    for _ in range(5):
        assert source.models() == ["f"]
        assert source.away == {slow.location}
        assert source.look("f") is not None

    assert slow.asked <= 2  # one listing; a look is not asked of a root that is away for what another has


def test_what_comes_late_is_used_the_next_time(roots: tuple[Slow, Folder]) -> None:
    """A root that always takes longer than it is waited for is listed all the same."""
    slow, fast = roots
    source = Several([slow, fast], Counts(), late_s=0.05, wait_s=10)
    assert source.models() == ["f"]

    slow.go_on.set()

    until(lambda: source.models() == ["f", "s"])
    assert source.away == frozenset()
    assert source.look("s") is not None


def test_the_names_of_a_root_that_got_slow_stay(roots: tuple[Slow, Folder]) -> None:
    """None of its models seems gone; its own looks say that it does not answer."""
    slow, fast = roots
    slow.slow = False
    source = Several([slow, fast], Counts(), late_s=0.2, wait_s=0.2)
    assert source.models() == ["f", "s"]

    slow.slow = True

    assert source.models() == ["f", "s"]
    assert source.look("f") is not None
    with pytest.raises(SourceAway, match=r"slow: no answer within 0\.2 s"):
        source.look("s")


def test_a_model_that_nobody_has_may_be_where_nobody_answers(roots: tuple[Slow, Folder]) -> None:
    """It is not said that there is none, and it is waited for longer, as it holds up nothing else."""
    slow, fast = roots
    source = Several([slow, fast], Counts(), late_s=0.01, wait_s=0.1)

    with pytest.raises(SourceAway, match="no answer within"):
        source.look("nobody")

    slow.go_on.set()
    until(lambda: _is_back(source))
    assert source.look("nobody") is None


def test_a_root_that_hangs_takes_few_threads(roots: tuple[Slow, Folder]) -> None:
    """Past a number of questions that it owes the answer of it is asked none more, until it answers."""
    slow, fast = roots
    source = Several([slow, fast], Counts(), late_s=0.01, wait_s=0.01)

    for number in range(20):
        with pytest.raises(SourceAway):
            source.look(f"nobody-{number}")

    assert slow.asked <= 4


def test_an_unforeseen_error_of_one_root_is_raised(tmp_path: Path) -> None:
    """It is no root that is away: whoever asks hears of it, as with one root."""

    class Broken(Folder):
        def look(self, model: str) -> Look | None:
            raise LoadFailed("10001 files, more than 10000")

    (tmp_path / "one/m").mkdir(parents=True)
    (tmp_path / "two").mkdir()
    source = Several([Broken(str(tmp_path / "one")), Folder(str(tmp_path / "two"))], Counts())
    source.models()

    with pytest.raises(LoadFailed, match="10001 files"):
        source.look("m")


def _is_back(source: Several) -> bool:
    try:
        return source.look("nobody") is None
    except SourceAway:
        return False

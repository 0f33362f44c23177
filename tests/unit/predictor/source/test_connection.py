"""The filesystem behind a URL: it is made within the bound of the question that needs it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.predictor.source import Source, SourceAway, connection

Open = Callable[..., Source]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, list[str]]]:
    """A filesystem that looks for credentials until it is let go on, as Google's does without any."""
    go_on, begun, make = threading.Event(), [], connection.filesystem

    def slow(scheme: str, *arguments: Any) -> Any:
        begun.append(scheme)
        if not go_on.wait(20):
            begun.append("waited for to the end")
        return make(scheme, *arguments)

    monkeypatch.setattr(connection, "filesystem", slow)
    yield go_on, begun
    go_on.set()


def test_credentials_that_are_looked_for_without_end_are_a_root_that_is_away(
    index: Any, open_root: Open, made: tuple[threading.Event, list[str]]
) -> None:
    """The first question ends in time, and so do those that come meanwhile; there is one search, whose result counts."""
    go_on, begun = made
    index.put("m/1/model.onnx", b"graph")
    source = open_root(index, timeout="100ms")
    others = [threading.Thread(target=_asks_in_vain, args=(source,), daemon=True) for _ in range(3)]
    for other in others:
        other.start()

    with pytest.raises(SourceAway, match=r"no answer within 0\.1 s"):
        source.models()
    for other in others:
        other.join(20)
        assert not other.is_alive()
    assert begun == ["http"]

    go_on.set()
    assert open_root(index).models() == ["m"]


def test_a_filesystem_that_could_not_be_made_is_made_anew(
    index: Any, open_root: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials that come later, such as a mounted secret, are found by the next question."""
    index.put("m/1/model.onnx", b"graph")
    make, faults = connection.filesystem, iter([True])

    def fails(*arguments: Any) -> Any:
        if next(faults, False):
            raise PermissionError("no such profile")
        return make(*arguments)

    monkeypatch.setattr(connection, "filesystem", fails)
    source: Any = open_root(index)

    with pytest.raises(SourceAway, match="no such profile"):
        source._store.models()

    assert source._store.models() == ["m"]


def test_a_download_has_an_end_before_its_first_byte_too(
    index: Any, open_root: Open, made: tuple[threading.Event, list[str]], tmp_path: Path
) -> None:
    """A download that would be the first question of all."""
    source: Any = open_root(index, timeout="100ms")

    with pytest.raises(SourceAway, match="no answer within"):
        source._store.download([])
    assert made[1] == ["http"]


def _asks_in_vain(source: Source) -> None:
    with pytest.raises(SourceAway):
        source.models()

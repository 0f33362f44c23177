"""A web root with an index.json: one question for a round, and one model that is refused."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.predictor.config import CacheConfig
from services.predictor.source import Source, SourceAway, open_source, web_index

Open = Callable[..., Source]


class Listing:
    """Answers for index.json with an ETag, and 304 to who has it."""

    def __init__(self, server: Any, names: list[str], **header: str) -> None:
        self.server, self.sent, self.asked = server, [], []
        self.names = names
        self.header = header or {"ETag": "of the content"}
        server.answer = self

    def __call__(self, reply: Any) -> bool:
        if not reply.path.endswith("index.json"):
            return False
        body = json.dumps({"files": {name: {"size": 5, "sha256": "0" * 64} for name in self.names}}).encode()
        header = {name: f'"{hashlib.md5(body).hexdigest()}"' for name in self.header}
        given = reply.handler.headers["If-None-Match"] or reply.handler.headers["If-Modified-Since"]
        self.asked.append(given)
        same = given in header.values()
        self.sent.append(0 if same else len(body))
        return bool(reply.send(304 if same else 200, b"" if same else body, **header))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The age of what was read: by default it does not grow."""
    now = [0.0]
    monkeypatch.setattr(web_index, "monotonic", lambda: now[0])
    return now


def test_a_round_of_looks_asks_for_the_index_once(index: Any, open_root: Open, clock: list[float]) -> None:
    """What `models` has read serves the look at each model after it."""
    listing = Listing(index, [f"m{number}/1/model.onnx" for number in range(50)])
    source = open_root(index)

    for _ in range(2):
        names = source.models()
        assert len(names) == 50 and all(source.look(name) for name in names)

    assert len(listing.asked) == 2 and listing.sent[1] == 0


@pytest.mark.parametrize("header", ["ETag", "Last_Modified"])
def test_an_index_that_is_as_it_was_is_not_sent_again(index: Any, open_root: Open, header: str) -> None:
    """By its ETag, or its time where a server tells no ETag."""
    listing = Listing(index, ["m/1/model.onnx"], **{header: ""})
    source = open_root(index)

    looks = [source.look("m") for _ in range(3)]

    assert looks[0] == looks[1] == looks[2] and looks[0] is not None
    assert listing.sent[0] > 0 and listing.sent[1:] == [0, 0]


def test_a_second_look_at_a_model_is_fresh(index: Any, open_root: Open, clock: list[float]) -> None:
    """Whoever loads a model after an upload gets what was uploaded, however short a time after a round that was."""
    listing = Listing(index, ["m/1/model.onnx"])
    source = open_root(index)
    source.models()
    before = source.look("m")

    listing.names = ["m/1/model.onnx", "m/2/model.onnx"]
    after = source.look("m")

    assert before is not None and after is not None
    assert (list(before.versions), list(after.versions)) == (["1"], ["1", "2"])


def test_what_was_read_serves_a_short_time(index: Any, open_root: Open, clock: list[float]) -> None:
    """A look long after the listing asks anew, also the first one at its model."""
    listing = Listing(index, ["m/1/model.onnx"])
    source = open_root(index)
    source.models()
    clock[0] += 2
    listing.names = ["m/7/model.onnx"]

    look = source.look("m")

    assert look is not None and list(look.versions) == ["7"]


def test_an_index_that_goes_is_gone(index: Any, open_root: Open) -> None:
    """A root whose index.json was removed is not answered for from memory, but as one that is away: by the cache."""
    Listing(index, ["m/1/model.onnx", "n/1/model.onnx"])
    source = open_root(index)
    assert source.models() == ["m", "n"] and source.look("m")
    index.answer = lambda reply: reply.send(404)

    assert source.models() == ["m"]
    assert source.counts.away == 1


@pytest.mark.parametrize("status", [403, 500])
def test_a_model_that_is_refused_takes_away_no_other(pages: Any, open_root: Open, status: int) -> None:
    """The root was asked, and answers: the fault is that model's."""
    for name in ("bad", "good"):
        pages.put(f"{name}/1/model.onnx", b"graph")
    pages.answer = lambda reply: "/bad/" in reply.path and reply.send(status)
    source = open_root(pages)

    assert source.models() == ["bad", "good"]
    with pytest.raises(SourceAway, match=f"model bad: .*{status}"):
        source.look("bad")
    assert source.look("good") is not None
    assert source.counts.away == 0


@pytest.mark.parametrize("status", [403, 500])
async def test_a_model_that_is_refused_keeps_nobody_unready(
    pages: Any, serve: Any, models: Any, cache: Path, status: int
) -> None:
    """The others are served; its reason is in the index, and it is loaded when it is let in."""
    for name in ("bad", "good"):
        pages.put(f"{name}/1/model.onnx", models.add(1))
    pages.answer = lambda reply: "/bad/" in reply.path and reply.send(status)
    source = open_source(pages.url, CacheConfig(folder=cache), {})

    predictor = await serve(source=source)

    assert await predictor.ready()
    rows = {(m.name, m.version): m.state for m in predictor.repository.index().models}
    assert rows == {("bad", ""): "UNAVAILABLE", ("good", "1"): "READY"}
    pages.answer = lambda reply: False
    async with asyncio.timeout(20):
        await predictor.repository.load("bad")
    assert await predictor.ready("bad")

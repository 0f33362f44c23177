"""Roots that are away, slow, or refuse who asks: said in words, within the configured time, and the cache answers meanwhile."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.predictor.config import CacheConfig
from services.predictor.source import Counts, Source, SourceAway, open_source
from services.predictor.source.content_cache import ContentCache
from services.predictor.source.remote import Remote

Open = Callable[..., Source]
DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def options(endpoint: str) -> dict[str, Any]:
    return {"s3": {"endpoint_url": endpoint}, "gs": {"endpoint_url": endpoint, "token": "anon", "project": "p"}}


def urls(endpoint: str) -> dict[str, str]:
    return {"s3": "s3://bucket/models", "gs": "gs://bucket/models", "http": f"{endpoint}/models"}


@pytest.mark.parametrize("scheme", ["s3", "gs", "http"])
def test_a_root_that_refuses_connections_is_away(scheme: str, closed_port: int, cache: Path, credentials: None) -> None:
    """The error names the root; gcsfs asks again until the time is over, the others give up after three attempts."""
    endpoint = f"http://127.0.0.1:{closed_port}"
    config = CacheConfig(folder=cache, timeout="2s")
    source = open_source(urls(endpoint)[scheme], config, options(endpoint))

    with pytest.raises(SourceAway, match="^" + urls(endpoint)[scheme]):
        source.models()
    with pytest.raises(SourceAway):
        source.look("m")


@pytest.mark.parametrize("scheme", ["s3", "gs", "http"])
def test_a_root_that_refuses_credentials_says_so(scheme: str, pages: Any, cache: Path, credentials: None) -> None:
    """403 is not asked again, and is no empty repository."""
    pages.answer = lambda reply: reply.send(403, DENIED if scheme == "s3" else b"no")
    source = open_source(urls(pages.endpoint)[scheme], CacheConfig(folder=cache), options(pages.endpoint))

    with pytest.raises(SourceAway, match="access refused"):
        source.models()
    with pytest.raises(SourceAway, match="access refused"):
        source.look("m")

    assert len(pages.requests) <= 4


def test_no_credentials_at_all_are_named(s3: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to guess which of the places was looked at in vain."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(SourceAway, match="no credentials"):
        open_source(s3.url, CacheConfig(folder=cache), s3.options).models()


@pytest.mark.parametrize("scheme", ["s3", "gs", "http"])
def test_a_root_that_does_not_answer_is_away_in_time(scheme: str, pages: Any, cache: Path, credentials: None) -> None:
    """A server that takes the question and never answers holds nobody longer than `timeout`."""
    pages.answer = pages.hang
    config = CacheConfig(folder=cache, timeout="300ms")
    source = open_source(urls(pages.endpoint)[scheme], config, options(pages.endpoint))

    with pytest.raises(SourceAway, match=r"no answer within 0\.3 s|imeout"):
        source.models()


def test_a_download_that_stalls_ends(index: Any, open_root: Open, cache: Path) -> None:
    """Bytes that stop coming are noticed, whatever the size of the file; nothing of it is kept or used."""
    index.put("m/1/model.onnx", b"x" * 100_000)

    def stall(reply: Any) -> bool:
        if not reply.path.endswith("model.onnx"):
            return False
        reply.handler.send_response(200)
        reply.handler.send_header("Content-Length", "100000")
        reply.handler.end_headers()
        reply.handler.wfile.write(b"x" * 50_000)
        reply.handler.wfile.flush()
        return bool(index.hang(reply))

    index.answer = stall
    source = open_root(index, timeout="300ms")
    source.look("m")

    with pytest.raises(SourceAway, match=r"model\.onnx.*(then none for 0\.3 s|imeout)"):
        source.version_folder("m", "1")

    assert not [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size > 1000]


def test_a_download_that_breaks_off_is_tried_again(index: Any, open_root: Open) -> None:
    """One connection that is cut does not fail a load."""
    index.put("m/1/model.onnx", b"x" * 1000)
    cuts = iter([True])

    def cut(reply: Any) -> bool:
        if not reply.path.endswith("model.onnx") or not next(cuts, False):
            return False
        reply.handler.send_response(200)
        reply.handler.send_header("Content-Length", "1000")
        reply.handler.end_headers()
        reply.handler.wfile.write(b"x" * 10)
        reply.handler.close_connection = True
        return True

    index.answer = cut
    source = open_root(index)
    source.look("m")

    folder = source.version_folder("m", "1")

    assert (folder / "model.onnx").read_bytes() == b"x" * 1000


def test_a_root_that_is_briefly_overloaded_is_asked_again(index: Any, open_root: Open) -> None:
    """503 once is no reason to count it as away."""
    index.put("m/1/model.onnx", b"graph")
    faults = iter([True])
    index.answer = lambda reply: next(faults, False) and reply.send(503)

    assert open_root(index).models() == ["m"]


def test_the_cache_answers_for_a_root_that_is_away(store: Any, open_root: Open) -> None:
    """A start without the root serves what the last one loaded; what was never downloaded is away."""
    store.put("m/1/model.onnx", b"graph")
    store.put("m/2/model.onnx", b"never loaded")
    store.put("m/config.yaml", b"labels: {}")
    first = open_root(store)
    look = first.look("m")
    first.version_folder("m", "1")
    first.settings_folder("m")
    gone = type("Gone", (), {"url": store.url, "options": refused(store.options)})
    second = open_root(gone, timeout="1s")

    if hasattr(store, "answer"):
        store.answer = lambda reply: reply.send(503)

    assert second.models() == ["m"]
    assert second.look("m") == look
    assert (second.version_folder("m", "1") / "model.onnx").read_bytes() == b"graph"
    assert (second.settings_folder("m") / "config.yaml").is_file()
    with pytest.raises(SourceAway):
        second.version_folder("m", "2")
    assert second.counts.away >= 1 and second.counts.downloads == 0


def test_a_slow_root_is_not_waited_for_by_each_model(cache: Path) -> None:
    """A failure that took 30 seconds is believed for 30 seconds, one that came at once is not."""
    now = [0.0]

    class Slow:
        asked = 0

        def models(self) -> list[str]:
            self.asked += 1
            now[0] += 30
            raise SourceAway("slow")

    store: Any = Slow()
    source = Remote("s3://b", "key", store, ContentCache(cache, 1, Counts()), clock=lambda: now[0])

    for _ in range(3):
        with pytest.raises(SourceAway, match="slow"):
            source.models()
    assert store.asked == 1
    now[0] += 30
    with pytest.raises(SourceAway):
        source.models()
    assert store.asked == 2


def refused(options: dict[str, Any]) -> dict[str, Any]:
    """The same endpoint, which does not know who asks any more."""
    if "s3" in options:
        return {"s3": {**options["s3"], "config_kwargs": {"proxies": {"http": "http://127.0.0.1:1"}}}}
    return options

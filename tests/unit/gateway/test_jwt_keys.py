"""Keys that are fetched: bounded in every way, and the last good ones stay."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from services.gateway.jwks import MAX_JWKS_BYTES, KeySet
from services.gateway.jwt_fetch import FetchFailed, fetch
from services.gateway.jwt_keys import MAX_WAITING, FetchedKeys
from tests.certificates import Authority
from tests.issuer import jwk, jwks

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextlib.contextmanager
def _server(answer: Answer, tls: Any = None) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(OSError):
                answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://localhost:{server.server_port}/keys?x=1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _body(status: int = 200, body: bytes = b"{}", **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def test_a_body_is_fetched() -> None:
    """What is answered with 200 is the body, asked for with path and query."""
    asked = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        _body(body=b"keys")(handler)

    with _server(answer) as url:
        assert fetch(url, timeout_s=5) == b"keys"
    assert asked == ["/keys?x=1"]


def test_https_needs_a_certificate_that_is_known(tmp_path: Path) -> None:
    """With the roots it works; without them, and for another name, it does not."""
    import ssl

    authority = Authority(tmp_path)
    pair = authority.pair(dns=["localhost"])
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.cert, pair.key)

    with _server(_body(body=b"keys"), tls) as url:
        assert fetch(url, timeout_s=5, ca=authority.file) == b"keys"
        with pytest.raises(FetchFailed, match="SSLCertVerificationError"):
            fetch(url, timeout_s=5)
        with pytest.raises(FetchFailed, match="SSLCertVerificationError"):
            fetch(url.replace("localhost", "127.0.0.1"), timeout_s=5, ca=authority.file)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (_body(500), "HTTP status 500"),
        (_body(404), "HTTP status 404"),
        (_body(body=b"x" * (MAX_JWKS_BYTES + 1)), f"at most {MAX_JWKS_BYTES} bytes"),
        (_body(302, Location="/keys"), "more than 3 times"),
        (_body(302, Location="http://issuer.example/keys"), "may not come from"),
        (_body(301, Location="file:///etc/passwd"), "may not come from"),
        (_body(302), "HTTP status 302"),
        (lambda handler: handler.connection.close(), "can't be fetched"),
        (lambda handler: handler.wfile.write(b"garbage\r\n\r\n") and None, "can't be fetched"),
    ],
)
def test_what_is_no_good_answer_fails(answer: Answer, words: str) -> None:
    """It says why in a line, without what was answered."""
    with _server(answer) as url, pytest.raises(FetchFailed, match=words):
        fetch(url, timeout_s=5)


def test_nobody_there_fails(unused_tcp_port: int) -> None:
    """An address where nobody listens, in words."""
    with pytest.raises(FetchFailed, match="ConnectionRefusedError"):
        fetch(f"http://127.0.0.1:{unused_tcp_port}/", timeout_s=5)


@pytest.mark.parametrize("part", [b"", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.0 200 OK\r\n\r\n"])
def test_a_server_that_sends_a_byte_now_and_then_is_cut_off(part: bytes) -> None:
    """The time is for all of it, not for each byte."""
    end = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(part)
        while not end.wait(0.02):
            handler.wfile.write(b"x")

    with _server(answer) as url:
        try:
            with pytest.raises(FetchFailed):
                fetch(url, timeout_s=0.3)
        finally:
            end.set()


def test_a_resolver_that_does_not_answer_costs_no_more_than_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's look-up of a name has no timeout of its own."""
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer.wait(30) and [])

    try:
        with pytest.raises(FetchFailed, match="TimeoutError, or out of time"):
            fetch("https://issuer.example/", timeout_s=0.05)
        assert not answer.is_set()
    finally:
        answer.set()


def test_a_name_that_nobody_knows_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a word, without the name."""

    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "issuer.example")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    with pytest.raises(FetchFailed, match=r"^can't be fetched: gaierror$"):
        fetch("https://issuer.example/", timeout_s=5)


def test_the_next_address_is_asked_when_one_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may have several, and some may be of a family that leads nowhere."""
    with _server(_body(body=b"keys")) as url:
        port = int(url.rpartition(":")[2].partition("/")[0])
        places = [(socket.AF_INET6, ("::1", port, 0, 0)), (socket.AF_INET, ("127.0.0.1", port))]
        found = [(family, socket.SOCK_STREAM, 6, "", at) for family, at in places]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

        assert fetch(url, timeout_s=5) == b"keys"


class Source:
    """What is fetched, changed by a test; counts how often."""

    def __init__(self) -> None:
        self.body = jwks(jwk())
        self.count = 0
        self.fails = False
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self) -> bytes:
        self.count += 1
        self.gate.wait(5)
        if self.fails:
            raise FetchFailed("away")
        return self.body


@pytest.fixture
async def follow(clock: Any) -> AsyncIterator[Callable[..., Any]]:
    """follow(source, refresh_s=…): keys, what follows them, and what was counted."""
    tasks = []

    def make(source: Source, refresh_s: float = 1000.0) -> tuple[KeySet, FetchedKeys, list[bool]]:
        keys, seen = KeySet(), []
        made = FetchedKeys(
            keys, source, ["RS256"], refresh_s=refresh_s, refetch_s=30.0, observe=seen.append, clock=clock
        )
        tasks.append(asyncio.ensure_future(made.run()))
        return keys, made, seen

    yield make
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_keys_are_fetched_in_the_background_and_again(follow: Any) -> None:
    """At once, and then each time that the refresh is due."""
    source = Source()
    keys, _, seen = follow(source, refresh_s=0.001)

    await _until(lambda: len(seen) > 3)

    assert keys.find("one", "RS256")
    assert all(seen)


@pytest.mark.parametrize("garbage", [None, b"<html>", b'{"keys": []}'])
async def test_the_last_good_keys_stay(follow: Any, garbage: bytes | None) -> None:
    """An address that is away, or answers garbage or no key at all, changes nothing but what is counted."""
    source = Source()
    keys, _, seen = follow(source, refresh_s=0.001)
    await _until(lambda: keys.is_loaded)

    if garbage is None:
        source.fails = True
    else:
        source.body = garbage
    await _until(lambda: False in seen)

    assert keys.find("one", "RS256")


async def test_a_storm_of_unknown_keys_is_one_fetching(follow: Any, clock: Any) -> None:
    """A thousand tokens by keys that nobody knows ask the address once, and not again before it is due."""
    source = Source()
    keys, made, _ = follow(source)
    await _until(lambda: keys.is_loaded)
    assert source.count == 1

    assert not await made.newer()  # too soon after the first
    clock.now += 31
    source.body = jwks(jwk(kid="two", number=1))
    results = await asyncio.gather(*(made.newer() for _ in range(1000)))
    assert source.count == 2
    assert sum(results) == MAX_WAITING
    assert keys.find("two", "RS256")

    results = await asyncio.gather(*(made.newer() for _ in range(1000)))
    assert source.count == 2
    assert not any(results)


async def test_who_comes_while_keys_are_fetched_waits_for_them(follow: Any) -> None:
    """The first call after the start does not have to come again; one that gives up leaves nothing behind."""
    source = Source()
    source.gate.clear()
    keys, made, _ = follow(source)
    await _until(lambda: source.count == 1)
    waiting = [asyncio.ensure_future(made.newer()) for _ in range(3)]
    await asyncio.sleep(0)

    waiting[0].cancel()
    source.gate.set()

    assert await asyncio.gather(*waiting[1:]) == [True, True]
    assert keys.is_loaded
    assert made._waiting == 0


async def test_a_fetching_that_failed_is_tried_again_soon(follow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without keys nobody waits for the whole refresh."""
    monkeypatch.setattr("services.gateway.jwt_keys.FIRST_RETRY_S", 0.001)
    source = Source()
    source.fails = True
    keys, _, seen = follow(source)
    await _until(lambda: len(seen) > 2)

    source.fails = False
    await _until(lambda: keys.is_loaded)

    assert seen[-1] is True

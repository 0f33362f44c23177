"""Questions over a Unix socket, and who answers them."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from infermesh.engine.ask import NoAnswer, ask
from infermesh.engine.control import open_control

WITHIN_S = 5.0


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Path]:
    async def good() -> bytes:
        return b"x" * 300_000

    async def bad() -> bytes:
        raise RuntimeError("on purpose")

    server = await open_control(tmp_path / "control", {"/good": good, "/bad": bad})
    yield tmp_path / "control"
    server.close()


async def test_an_answer_comes_whole(control: Path) -> None:
    """Whatever its size."""
    assert await ask(control, "GET", "/good", WITHIN_S) == b"x" * 300_000


def test_nobody_else_may_ask(control: Path) -> None:
    """The socket is its user's alone."""
    assert stat.S_IMODE(control.stat().st_mode) == 0o600


@pytest.mark.parametrize("path", ["/bad", "/unknown"])
async def test_what_is_not_answered_is_no_answer(control: Path, path: str) -> None:
    """An unknown question, and one that fails, which others do not feel."""
    with pytest.raises(NoAnswer):
        await ask(control, "GET", path, WITHIN_S)

    assert await ask(control, "GET", "/good", WITHIN_S)


async def test_a_caller_who_says_nothing_holds_nobody_up(control: Path) -> None:
    """Nor does one who goes in the middle."""
    _, silent = await asyncio.open_unix_connection(str(control))
    _, gone = await asyncio.open_unix_connection(str(control))
    gone.write(b"GET /go")
    gone.close()

    assert await ask(control, "GET", "/good", WITHIN_S)
    silent.close()


ANSWERS = {
    "chunked": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", b"abcde"),
    "until the end": (b"HTTP/1.1 200 OK\r\n\r\nabc", b"abc"),
    "refused": (b"HTTP/1.1 503 No\r\n\r\n", None),
    "cut": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab", None),
    "no size": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", None),
    "too large": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffff\r\n", None),
    "nothing": (b"", None),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_answers_are_read_as_they_are_written(
    answering: Callable[[bytes], object], tmp_path: Path, case: str
) -> None:
    """Envoy sends its own in chunks; what is no whole answer is none."""
    written, expected = ANSWERS[case]
    await answering(written)  # type: ignore[misc]

    if expected is None:
        with pytest.raises(NoAnswer):
            await ask(tmp_path / "socket", "GET", "/", WITHIN_S)
    else:
        assert await ask(tmp_path / "socket", "GET", "/", WITHIN_S) == expected


async def test_who_does_not_answer_in_time_gives_no_answer(tmp_path: Path) -> None:
    """One that accepts and is silent, as a dead loop does; and one that is not there."""
    server = await asyncio.start_unix_server(lambda *_: None, str(tmp_path / "silent"))

    with pytest.raises(NoAnswer, match="no answer within"):
        await ask(tmp_path / "silent", "GET", "/", 0.01)
    with pytest.raises(NoAnswer):
        await ask(tmp_path / "nobody", "GET", "/", WITHIN_S)
    server.close()


@pytest.fixture
async def answering(tmp_path: Path) -> AsyncIterator[Callable[[bytes], object]]:
    """A server that writes these bytes to whoever asks."""
    servers: list[asyncio.Server] = []

    async def start(written: bytes) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(written)
            writer.close()

        servers.append(await asyncio.start_unix_server(answer, str(tmp_path / "socket")))

    yield start
    for server in servers:
        server.close()

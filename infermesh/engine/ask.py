"""A question over a Unix socket, to Envoy's administration or to a worker's control: HTTP/1.1, one answer a connection."""

from __future__ import annotations

import asyncio
from pathlib import Path

__all__ = ["NoAnswer", "ask"]

MAX_ANSWER_BYTES = 64 << 20  # metrics of 10,000 label sets have a quarter of it


class NoAnswer(OSError):
    """Nobody is there, nobody answers in time, or what came is no answer."""


async def ask(socket: Path, method: str, target: str, within_s: float) -> bytes:
    """The body of a 200. Raises NoAnswer for everything else."""
    try:
        async with asyncio.timeout(within_s):
            return await _exchange(socket, f"{method} {target} HTTP/1.1\r\nhost: engine\r\nconnection: close\r\n\r\n")
    except NoAnswer:
        raise
    except TimeoutError:
        raise NoAnswer(f"{target}: no answer within {within_s:g} s") from None
    except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
        raise NoAnswer(f"{target}: {error}") from None


async def _exchange(socket: Path, question: str) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(socket))
    try:
        writer.write(question.encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status = head.split(" ", 2)[1]
        if status != "200":
            raise NoAnswer(f"{question.split(' ', 2)[1]}: answered {status}")
        if "transfer-encoding: chunked" in head.lower():
            return await _chunks(reader)
        body = await reader.read(MAX_ANSWER_BYTES)
        while more := await reader.read(MAX_ANSWER_BYTES):
            body += more
        return body
    finally:
        writer.close()


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        if len(body) + size > MAX_ANSWER_BYTES:
            raise ValueError("the answer is too large")
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    return bytes(body)

"""The worker's side of the questions that a supervisor asks; served by the loop that also serves calls.

So an answer here says that this loop lives: there is no other address that reaches one process of several on a port.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

__all__ = ["Answer", "open_control"]

QUESTION_WITHIN_S = 5.0

Answer = Callable[[], Awaitable[bytes]]

_log = logging.getLogger(__name__)


async def open_control(socket: Path, answers: Mapping[str, Answer]) -> asyncio.Server:
    """Answer on this socket, by the path that is asked for. The socket is its user's alone."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(QUESTION_WITHIN_S):
                head = await reader.readuntil(b"\r\n\r\n")
            asked = answers.get(head.split(b" ", 2)[1].decode("latin-1"))
            status, body = ("200 OK", await asked()) if asked is not None else ("404 Not Found", b"")
            writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode())
            writer.write(body)
            await writer.drain()
        except (OSError, EOFError, asyncio.LimitOverrunError, IndexError):
            pass  # the asker went away, or asked nothing
        except Exception as error:
            _log.error("internal error in the control socket", exc_info=error)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(answer, str(socket))
    os.chmod(socket, 0o600)  # noqa: PTH101  # a line that runs once
    return server

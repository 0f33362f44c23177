"""A file that may change while its content is in use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from watchfiles import awatch

from infermesh.config import ConfigError

__all__ = ["followed"]

DEBOUNCE_MS = 200  # a file that is still being written is looked at when it has been left alone this long
SETTLE_S = 0.1  # between two looks, which must find the same: what is still being written is nobody's meaning

T = TypeVar("T")
_log = logging.getLogger(__name__)


@asynccontextmanager
async def followed(
    file: Path,
    read: Callable[[Path], T],
    adopt: Callable[[T], Awaitable[None] | None],
    observe: Callable[[bool], None],
    *,
    every_s: float,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[None]:
    """While the context is open, each new content of the file is read whole and checked whole, and `adopt` is given it.

    A new content counts when two looks in a row have found it, and a third after it was read. That spares the log a file that is
    being written, and is no proof that it is whole: whoever needs one asks its text for it (as the keys file does).

    A file that can't be used, or is gone, changes nothing but the log and what `observe` counts: the last good one stays. `read`
    runs in a thread and raises ConfigError; `adopt` runs on the event loop, and may raise it too; what it returns to be
    awaited is awaited before the next look.

    The folder is watched, not the file: a Kubernetes ConfigMap changes by a swap of a symbolic link beside it, an editor by a
    rename. Where the system tells of no changes (network file systems, some bind mounts) the content is still compared
    `every_s` seconds.
    """
    stop = asyncio.Event()
    content = await asyncio.to_thread(_content, file)  # before the task: a change that comes right now is seen
    task = asyncio.ensure_future(_follow(file, content, read, adopt, observe, every_s, stop, pause))
    try:
        yield
    finally:
        stop.set()  # watchfiles' thread looks at it every few milliseconds; a cancelled await would wait for its timeout
        await asyncio.wait({task})


async def _follow(
    file: Path,
    content: bytes | None,
    read: Callable[[Path], T],
    adopt: Callable[[T], Awaitable[None] | None],
    observe: Callable[[bool], None],
    every_s: float,
    stop: asyncio.Event,
    pause: Callable[[float], Awaitable[None]],
) -> None:
    async for _ in _moments(file.parent, every_s, stop):
        if await asyncio.to_thread(_content, file) == content:
            continue
        last = content
        try:
            content, made = await _settled(file, read, stop, pause)
            if content == last or stop.is_set():
                continue
            if isinstance(made, Exception):
                raise made
            adopting = adopt(made)
            if adopting is not None:
                await adopting
        except ConfigError as fault:
            observe(False)
            _log.error("the last good one stays in use: %s", fault, extra={"file": str(file)})
        except Exception as error:  # of ours; the file must go on being followed
            observe(False)
            _log.error("the last good one stays in use", exc_info=error, extra={"file": str(file)})
        else:
            observe(True)
            _log.info("taken over", extra={"file": str(file)})


async def _settled(
    file: Path, read: Callable[[Path], T], stop: asyncio.Event, pause: Callable[[float], Awaitable[None]]
) -> tuple[bytes | None, T | Exception]:
    """The content when it has come to rest, and what was made of it."""
    content = await asyncio.to_thread(_content, file)
    while True:
        last = content
        await pause(SETTLE_S)
        content = await asyncio.to_thread(_content, file)
        if content != last and not stop.is_set():
            continue
        made = await asyncio.to_thread(_made, file, read)
        last, content = content, await asyncio.to_thread(_content, file)
        if content == last or stop.is_set():
            return content, made


async def _moments(folder: Path, every_s: float, stop: asyncio.Event) -> AsyncIterator[None]:
    """When it is worth a look at the file."""
    try:
        async for _ in awatch(
            folder,
            watch_filter=None,  # the default one leaves out names that a ConfigMap's swap uses
            debounce=DEBOUNCE_MS,
            rust_timeout=max(1, int(every_s * 1000)),
            yield_on_timeout=True,
            stop_event=stop,
            recursive=False,
        ):
            yield
    except (OSError, RuntimeError) as error:  # no folder, or the system's bound of watches is reached
        _log.warning("%s can't be watched, and is looked at every %g s: %s", folder, every_s, error)
    while not stop.is_set():
        try:
            await asyncio.wait_for(stop.wait(), every_s)
        except TimeoutError:
            yield


def _made(file: Path, read: Callable[[Path], T]) -> T | Exception:
    try:
        return read(file)
    except Exception as error:  # told when the content is known to be at rest
        return error


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None

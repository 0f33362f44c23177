"""The gateway's end of a worker: frames go out and nobody waits for them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from infermesh.errors import DeadlineExceeded, Internal, Unavailable
from services.gateway.worker.child import Child
from services.gateway.worker.frames import ANSWER, ASK, FAULT, TICK
from services.gateway.worker.link import Link

__all__ = ["PAUSE_S", "Feed", "Observe"]

FD = "INFERMESH_WORKER_FD"  # names the worker's end of the socket
HANG_S = 30.0  # without a word from it while it runs
LOOK_S = 1.0
PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0  # before a worker that ended is started again; doubled each time
STEADY_S = 60.0  # a worker that ran so long had a good start
CLOSE_S = 10.0  # for it to take what it was sent, and to save; it may still be starting

Observe = Callable[[str, int], None]  # sent | dropped | lost, and how many

_ID = struct.Struct("<Q")
_log = logging.getLogger(__name__)


def _ignore(outcome: str, count: int) -> None:
    """Count nothing."""


def _no_greeting() -> Iterable[tuple[int, bytes]]:
    return ()


class Feed:
    """Hands frames to `python -m <module> <arguments>`, which calls `work`.

    It is started by `start`, or after `start_when_used` with the first frame or question, in the background; these wait for it.
    What has not gone out is bounded by `max_bytes`: past it, and while a process that ended has no successor, frames are
    `dropped`. One that ends is started again, later each time; one that says nothing for `hang_s` is killed first. Frames that
    it had been sent and did not say to have taken are `lost`. `counters` is what it told last (`Worker.tick`), kept over its
    restarts until it tells anew. `environment` is added to ours. `greeting` gives the frames that each process is sent first.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str] = (),
        *,
        max_bytes: int = 64 << 20,
        observe: Observe = _ignore,
        environment: Mapping[str, str] | None = None,
        greeting: Callable[[], Iterable[tuple[int, bytes]]] = _no_greeting,
        hang_s: float = HANG_S,
        pause_s: float = PAUSE_S,
    ) -> None:
        self.name = name
        self.counters: dict[str, float] = {}
        self.restarts = 0
        self._command = (sys.executable, "-m", module, *arguments)
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        self._max_bytes = max_bytes
        self._observe = observe
        self._greeting = greeting
        self._hang_s = hang_s
        self._pause_s = pause_s
        self._process: Child | None = None
        self._link: Link | None = None
        self._greeted = 0  # frames that it was sent, and that nobody offered
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._turn = 0
        self._running: asyncio.Task[None] | None = None
        self._early: _Early | None = None  # until the first process is there
        self._tried = asyncio.Event()  # to start the first one
        self._closing = False

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self._process.pid if self._process is not None else None

    @property
    def waiting_bytes(self) -> int:
        """What has not gone out."""
        waiting = self._link.waiting_bytes if self._link is not None else 0
        return waiting + (self._early.waiting_bytes if self._early is not None else 0)

    @property
    def is_used(self) -> bool:
        """Whether a process was started, or is being."""
        return self._running is not None

    def start_when_used(self) -> None:
        """Start the process with the first thing that is offered or asked."""
        self._early = _Early()

    async def start(self) -> None:
        """Start the process; return when it is there to be sent to, which does not mean that it has begun to take."""
        await self._spawn()
        self._running = asyncio.create_task(self._keep_running(), name=f"worker {self.name}")

    def offer(self, kind: int, *parts: bytes) -> bool:
        """Hand over a frame, now or never; false: it was dropped, and counted. `kind` is below 252."""
        to = self._to()
        if to is None or to.lost or to.waiting_bytes > self._max_bytes:
            self._observe("dropped", 1)
            return False
        to.send(kind, parts)
        self._observe("sent", 1)
        return True

    async def ask(self, data: bytes, timeout_s: float = 5.0) -> bytes:
        """Its answer, after all that was offered before. Raises Unavailable, DeadlineExceeded, or Internal when it could not."""
        to = self._to()
        if to is None:
            raise self._away()
        self._turn += 1
        turn = self._turn
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[turn] = answer
        to.send(ASK, (_ID.pack(turn), data))
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise DeadlineExceeded(
                f"{self.name}: no answer within {timeout_s:g} s", reason="WORKER_SLOW", hop=self.name
            ) from None
        finally:
            self._asked.pop(turn, None)

    async def close(self) -> None:
        """Let it take what it was sent and end; killed when that takes longer than `CLOSE_S`."""
        self._closing = True
        if self._running is not None:
            if self._early is not None:  # a first process that is being started gets what waits for it
                await self._tried.wait()
            self._running.cancel()
            await asyncio.wait({self._running})
        if self._process is None:
            self._gone()
            return
        if self._link is not None:
            self._link.end()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._process.wait()
        except TimeoutError:
            _log.warning("%s did not end within %g s and is killed", self.name, CLOSE_S)
            await self._kill()
        self._gone()

    # ---- inside

    def _to(self) -> Link | _Early | None:
        """Where a frame goes now: to the process, or into the queue for the first one, which is started for it."""
        if self._early is None or self._closing:
            return self._link
        if self._running is None:
            self._running = asyncio.create_task(self._start_first(), name=f"worker {self.name}")
        return self._early

    async def _start_first(self) -> None:
        """Start a process, as often as it takes, and keep it running."""
        pause_s = self._pause_s
        while True:
            try:
                await self._spawn()
                break
            except OSError as error:
                _log.error("%s can't be started: %s", self.name, error)
                self._refuse()
            finally:
                self._tried.set()
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
        await self._keep_running()

    async def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            fd = theirs.fileno()
            self._process = Child(self._command, environment={**self._environment, FD: str(fd)}, pass_fds=[fd])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        try:
            loop = asyncio.get_running_loop()
            _, self._link = await loop.create_unix_connection(lambda: Link(self._received), sock=ours)
        except BaseException:
            ours.close()  # which ends it
            raise
        for kind, data in self._greeting():
            self._link.send(kind, (data,))
        self._greeted = self._link.sent
        if self._early is not None:
            early, self._early = self._early, None
            for kind, parts in early.frames:
                self._link.send(kind, parts)

    async def _keep_running(self) -> None:
        pause_s = self._pause_s
        while True:
            began = time.monotonic()
            await self._ended()
            if time.monotonic() - began > STEADY_S:
                pause_s = self._pause_s
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
            try:
                await self._spawn()
                self.restarts += 1
            except OSError as error:  # no memory, no more processes: it may pass
                _log.error("%s can't be started: %s", self.name, error)

    async def _ended(self) -> None:
        """Return when the present process has ended; kill one that hangs."""
        process, link = self._process, self._link
        if process is None or link is None:
            return
        waiting = asyncio.ensure_future(process.wait())
        try:
            while not waiting.done():
                await asyncio.wait({waiting}, timeout=min(LOOK_S, self._hang_s / 2))
                if not waiting.done() and (link.lost or time.monotonic() - link.heard_at > self._hang_s):
                    _log.error("%s %s; it is killed", self.name, "hung up" if link.lost else "hangs")
                    await self._kill()
        finally:
            waiting.cancel()
        _log.error("%s ended with status %s; it is started again", self.name, process.status)
        self._gone()

    async def _kill(self) -> None:
        process = self._process
        if process is not None and process.status is None:
            process.kill()
            await process.wait()

    def _gone(self) -> None:
        """The process has ended, or there never was one: what it did not take is lost, and nobody is answered any more."""
        link, self._link, self._process = self._link, None, None
        early, self._early = self._early, None
        if early is not None and early.sent:
            self._observe("lost", early.sent)
        if link is not None:
            if lost := link.sent - max(link.taken, self._greeted):
                self._observe("lost", lost)
            link.close()
        self._refuse()

    def _refuse(self) -> None:
        """Nobody who waits for an answer gets one."""
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(self._away())

    def _away(self) -> Unavailable:
        return Unavailable(f"{self.name} is not running", reason="WORKER_AWAY", hop=self.name)

    def _received(self, link: Link, kind: int, parts: tuple[bytes, ...]) -> None:
        if kind == TICK:
            link.taken = _ID.unpack(parts[0])[0]
            self.counters = json.loads(parts[1])
        elif kind in (ANSWER, FAULT):
            answer = self._asked.get(_ID.unpack(parts[0])[0])
            if answer is None or answer.done():
                return
            if kind == ANSWER:
                answer.set_result(parts[1])
            else:
                answer.set_exception(Internal(f"{self.name}: could not answer", reason="WORKER_FAULT", hop=self.name))


class _Early:
    """Frames that wait for the first process."""

    lost = False

    def __init__(self) -> None:
        self.frames: list[tuple[int, tuple[bytes, ...]]] = []
        self.waiting_bytes = 0
        self.sent = 0

    def send(self, kind: int, parts: tuple[bytes, ...]) -> None:
        self.frames.append((kind, parts))
        self.waiting_bytes += sum(map(len, parts))
        self.sent += kind < TICK

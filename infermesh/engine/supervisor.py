"""Process 1 of a service on this engine: keeps its Envoy processes, and ends them gently.

SIGTERM or SIGINT: drain and end, a second one ends at once. SIGHUP: each process is replaced, one after the other.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import shutil
import signal
import socket
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from infermesh.config import ConfigError, PortTaken, ServerTlsConfig
from infermesh.engine.ask import NoAnswer
from infermesh.engine.folder import run_folder
from infermesh.engine.kept_certificates import KeptCertificates
from infermesh.engine.launch import find
from infermesh.engine.process import Failed, Group, Process
from infermesh.engine.scraped import Scraped
from infermesh.engine.settings import Settings
from infermesh.telemetry import TelemetryServer

__all__ = ["Pace", "supervise"]

EXIT_FAILED = 1
LOOK_AT_NEW_S = 0.05

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """How soon things are noticed, and how often they are tried again."""

    look_every_s: float = 0.25
    hung_after_s: float = 15.0
    """A process whose loop says nothing for so long is killed; it cuts calls, which would never be answered."""
    first_pause_s: float = 0.5
    """Before a process is started again; doubles each time."""
    longest_pause_s: float = 30.0
    limit: int = 5
    """Ends of a process in `window_s` after which the service gives up, unless others answer, for whoever started it to see."""
    window_s: float = 60.0


async def supervise(
    settings: Settings,
    main: str,
    program: Mapping[str, Any],
    *,
    tls: ServerTlsConfig | None = None,
    pace: Pace | None = None,
) -> int:
    """Serve until a signal comes; the exit status. Raises PortTaken, and ConfigError for certificates that can't be used.

    `main` is `module:name` of a coroutine function that is given a `Worker`, whose `order` is `program`.
    """
    envoy, settings = find(), replace(settings, host=_address(settings.host))
    with _Port(settings.host, settings.grpc_port) as port, run_folder() as folder:
        group = Group(envoy, settings, port.number, folder, main, program)
        return await Supervisor(group, tls, pace or Pace()).run()


class Supervisor:
    """The processes of one service."""

    def __init__(self, group: Group, tls: ServerTlsConfig | None, pace: Pace) -> None:
        self.group = group
        self._tls = tls
        self._pace = pace
        self._processes: dict[int, Process] = {}
        self._leaving: list[Process] = []
        """They listen no more, and answer what they have."""
        self._coming: list[Process] = []
        """Successors that are not ready yet."""
        self._stop = asyncio.Event()
        self._restart = asyncio.Event()
        self._failed: Failed | None = None
        self._was_ready = False
        self._told_ready = False
        self._ended_at: defaultdict[int, list[float]] = defaultdict(list)  # by slot
        self._started = 0
        self._scraped = Scraped(group.settings.service, lambda: [*self._processes.values()], lambda: self._leaving)

    def is_ready(self) -> bool:
        """Whether a process listens and all that listen are ready: the kernel spreads connections over them, ready or not."""
        listening = [each for each in self._processes.values() if each.listens]
        return not self._stop.is_set() and bool(listening) and all(each.is_ready for each in listening)

    async def run(self) -> int:
        """Until a signal comes, or the service can't be kept running."""
        settings = self.group.settings
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._restart.set)
        scrapes = TelemetryServer(settings.host, settings.http_port, self._scraped.open(loop), self.is_ready)
        certificates = KeptCertificates(self.group.certificates, self._tls, self._scraped.certificates)
        tasks: list[asyncio.Future[None]] = []
        try:
            await certificates.open()
            fields = {"grpc_port": self.group.port, "http_port": scrapes.port, "pid": os.getpid()}
            _log.info("listening", extra={**fields, "engine": "envoy", "processes": settings.processes})
            tasks = [asyncio.ensure_future(self._keep(slot)) for slot in range(settings.processes)]
            tasks.append(asyncio.ensure_future(self._restart_when_told()))
            for task in tasks:
                task.add_done_callback(self._task_ended)
            await self._stop.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._end_all()
            certificates.close()
            await asyncio.to_thread(scrapes.close)
        if self._failed is not None:
            _log.critical("%s", self._failed.text)
            return self._failed.status
        _log.info("stopped")
        return 0

    def _told_to_stop(self, number: int) -> None:
        if self._stop.is_set():
            _log.warning("second signal: exiting at once")
            for process in self._all():
                process.kill()
            shutil.rmtree(self.group.folder, ignore_errors=True)
            os._exit(128 + number)
        self._stop.set()

    def _task_ended(self, task: asyncio.Future[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("internal error in the supervisor", exc_info=error)
            self._give_up(Failed(EXIT_FAILED, f"the supervisor has failed: {error}"))

    def _all(self) -> list[Process]:
        return [*self._processes.values(), *self._coming, *self._leaving]

    def _give_up(self, failed: Failed) -> None:
        self._failed = self._failed or failed
        self._stop.set()

    # ---- one process after the other in a slot ------------------------------------------------------------------------

    async def _keep(self, slot: int) -> None:
        """Start the slot's process, and start it again whenever it ends."""
        await self._start(slot, held=slot > 0)  # the first one says NOT_SERVING from the start, the others wait
        while True:
            ended, why = await self._until_ended(slot)
            if self._stop.is_set():
                return
            if not self._was_ready:
                self._give_up(ended.failed or Failed(EXIT_FAILED, f"the service could not be started: {why}"))
                return
            pause_s = self._pause(slot, why)
            if pause_s is None:
                return
            await asyncio.sleep(pause_s)
            if self._processes[slot] is ended:  # no rolling restart has put another one there meanwhile
                await self._start(slot, held=any(each.listens for each in self._processes.values()))

    async def _start(self, slot: int, *, held: bool) -> None:
        process = self._processes[slot] = self._new(held=held)
        await process.start()

    def _new(self, *, held: bool) -> Process:
        self._started += 1
        return Process(self.group, f"process-{self._started}", held)

    async def _until_ended(self, slot: int) -> tuple[Process, str]:
        """Look at the slot's process, whichever it is, until it is no more; the process and the reason."""
        while True:
            process = self._processes[slot]
            why = await self._look(process)
            if process is not self._processes[slot]:  # it was replaced meanwhile
                continue
            if why:
                process.is_ready = False
                process.kill()
                await process.wait()
                self._scraped.gone.add(process.take_metrics())
                return process, why
            if self._told_ready is not self.is_ready():
                self._told_ready = not self._told_ready
                _log.info("ready" if self._told_ready else "not ready", extra={"engine_process": process.name})
            await asyncio.sleep(self._pace.look_every_s)

    async def _look(self, process: Process) -> str:
        """Why the process is no good, or nothing."""
        if process.status is not None:
            return f"ended with status {process.status}"
        if process.failed is None:
            try:
                await process.look()
            except NoAnswer:
                silent_s = time.monotonic() - process.answered_at
                patience_s = self._pace.hung_after_s if process.was_ready else self.group.settings.start_within_s
                return f"said nothing for {silent_s:.1f} s" if silent_s > patience_s else ""
        if process.failed is not None:
            return process.failed.text
        self._was_ready = self._was_ready or process.is_ready
        return ""

    def _pause(self, slot: int, why: str) -> float | None:
        """How long to wait before the next start; None when the service gives up. While other processes answer it does not."""
        pace, now = self._pace, time.monotonic()
        ended_at = self._ended_at[slot] = [at for at in self._ended_at[slot] if at > now - pace.window_s]
        so_far = len(ended_at)
        ended_at.append(now)
        self._scraped.restarted("failed")
        if so_far >= pace.limit and not any(each.is_ready for each in self._processes.values()):
            self._give_up(Failed(EXIT_FAILED, f"a process {why}, for the {so_far + 1}. time in {pace.window_s:g} s"))
            return None
        pause_s = min(pace.first_pause_s * 2.0**so_far, pace.longest_pause_s)
        _log.error("a process %s; another one is started in %g s", why, pause_s)
        return pause_s

    # ---- rolling restart ----------------------------------------------------------------------------------------------

    async def _restart_when_told(self) -> None:
        while True:
            await self._restart.wait()
            self._restart.clear()
            for slot in range(self.group.settings.processes):
                if not await self._replace(slot):
                    break

    async def _replace(self, slot: int) -> bool:
        """Put another process in the slot's place; the old one leaves when the new one is ready. False: it was not to be."""
        old, new = self._processes[slot], self._new(held=True)
        self._coming.append(new)
        await new.start()
        if why := await self._until_ready(new):
            _log.error("rolling restart ended, the process in place stays: its successor %s", why)
            new.kill()
            await new.wait()
            self._coming.remove(new)
            return False
        self._coming.remove(new)
        if self._processes[slot] is not old:  # it has ended by itself, and was replaced
            self._leaving.append(new)
            await self._retire(new, 0)
            return True
        self._processes[slot] = new
        self._leaving.append(old)
        self._scraped.restarted("asked")
        await self._retire(old, self.group.settings.grace_s)
        _log.info("process replaced", extra={"engine_process": new.name, "pid": new.pid})
        return True

    async def _until_ready(self, new: Process) -> str:
        """Nothing, or why a successor is given up. One that is not ready is waited for until the next restart is asked for:
        that tells whoever asks what is wrong, and what has changed since is read by the next one."""
        told_at = time.monotonic() + self.group.settings.start_within_s
        while not new.is_ready:
            if why := await self._look(new):
                return why
            if self._restart.is_set():
                return "was not ready when the next restart was asked for"
            if time.monotonic() > told_at:
                told_at = math.inf
                _log.warning("rolling restart: %s is not ready yet; SIGHUP gives it up for another one", new.name)
            await asyncio.sleep(LOOK_AT_NEW_S)
        return ""

    async def _retire(self, process: Process, grace_s: float) -> None:
        await process.end(grace_s)
        self._scraped.gone.add(process.take_metrics())
        self._leaving.remove(process)

    # ---- the end ------------------------------------------------------------------------------------------------------

    async def _end_all(self) -> None:
        settings = self.group.settings
        every = self._all()
        serving = [each for each in every if each.listens]
        in_flight = sum(await asyncio.gather(*(each.drain() for each in serving)))
        _log.info("draining", extra={"in_flight": in_flight, "drain_s": settings.drain_s})
        if serving and self._failed is None:
            await asyncio.sleep(settings.drain_s)
        await asyncio.gather(*(each.end(settings.grace_s) for each in every))


def _address(host: str) -> str:
    """What a name stands for: Envoy listens on addresses alone."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError("server.host", [f"{host}: expected an address, or a name that has one: {error}"]) from None
    return str(found[0][4][0])


class _Port:
    """The port of all processes, kept for them: bound and not listened on, so that the kernel gives it nothing."""

    def __init__(self, host: str, number: int) -> None:
        self._host = host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._family = family
        self.number = number

    def __enter__(self) -> _Port:
        try:
            if self.number:
                # Alone first: with SO_REUSEPORT a second service on the port, a mistake that must be seen, would get a share.
                with socket.socket(self._family, socket.SOCK_STREAM) as alone:
                    alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    alone.bind((self._host, self.number))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._socket.bind((self._host, self.number))
        except OSError as error:
            self._socket.close()
            raise PortTaken(f"gRPC port {self._host}:{self.number} can't be listened on: {error.strerror}") from None
        self.number = int(self._socket.getsockname()[1])
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

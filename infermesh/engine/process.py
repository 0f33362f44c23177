"""One Envoy with the service in it, as the supervisor sees it."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infermesh.engine.ask import NoAnswer, ask
from infermesh.engine.envoy_config import GOAWAY_S, LEAVING, NOT_LEAVING, Places, bootstrap
from infermesh.engine.launch import Envoy, start
from infermesh.engine.settings import Settings
from infermesh.engine.worker import ORDER

__all__ = ["Failed", "Group", "Process"]

APPLICATION = "infermesh.engine.worker:application"
ANSWER_WITHIN_S = 2.0
SETTLE_S = 0.25 + GOAWAY_S  # until every connection has heard that it ends: a look at `leaving`, and the notice
LOOK_S = 0.05
CLOSE_WITHIN_S = 10.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failed:
    """Why a program can't go on, and what the service exits with."""

    status: int
    text: str


@dataclass(frozen=True)
class Group:
    """What all processes of a service have in common."""

    envoy: Envoy
    settings: Settings
    port: int
    folder: Path
    """For the user of the service alone."""
    main: str
    """`module:name` of the program."""
    program: Mapping[str, Any]
    """What the program is told."""

    @property
    def certificates(self) -> Path:
        return self.folder / "certificates"


@dataclass
class Process:
    """From `start` to `end` or `kill`.

    A process that is `held` listens when its service is ready, and not before: the others answer meanwhile.
    """

    group: Group
    name: str
    held: bool
    is_ready: bool = False
    was_ready: bool = False
    failed: Failed | None = None
    answered_at: float = field(default_factory=time.monotonic)
    last_metrics: str = ""
    _is_taken: bool = False
    _child: asyncio.subprocess.Process | None = None

    def __post_init__(self) -> None:
        folder = self.group.folder
        self._control = folder / f"{self.name}.control"
        module, app = self.group.envoy.module, APPLICATION
        self.places = Places(
            folder / f"{self.name}.admin", folder / f"{self.name}.leaving", self.group.certificates, module, app
        )

    @property
    def pid(self) -> int:
        return self._child.pid if self._child is not None else 0

    @property
    def status(self) -> int | None:
        """None while it runs."""
        return self._child.returncode if self._child is not None else None

    @property
    def listens(self) -> bool:
        return self.status is None and (self.was_ready or not self.held)

    async def start(self) -> None:
        """Write its files and start it. What the system does not let it do is in `failed`."""
        try:
            await self._start()
        except OSError as error:
            self.failed = Failed(1, f"could not be started: {error}")

    async def _start(self) -> None:
        group, folder = self.group, self.group.folder
        self.places.leaving.write_text(NOT_LEAVING)
        config, order = folder / f"{self.name}.envoy.json", folder / f"{self.name}.order.json"
        config.write_text(json.dumps(bootstrap(group.settings, group.port, self.places)))
        told = {
            "main": group.main,
            "control": str(self._control),
            "held": self.held,
            "executable": sys.executable,
            "environment": {**group.envoy.restored(), ORDER: None},
            "program": {**group.program, "process": self.name},
        }
        order.write_text(json.dumps(told))
        self._child = await start(group.envoy, group.settings, config, {ORDER: str(order)})
        self.answered_at = time.monotonic()

    async def look(self) -> None:
        """Ask how it is. Raises NoAnswer."""
        state = json.loads(await ask(self._control, "GET", "/state", ANSWER_WITHIN_S))
        self.answered_at = time.monotonic()
        self.is_ready = bool(state["ready"])
        self.was_ready = self.was_ready or self.is_ready
        if state["failed"]:
            self.failed = Failed(int(state["failed"]["status"]), str(state["failed"]["text"]))

    async def metrics(self) -> str:
        """What it counts now; what it counted when last asked, if it does not answer."""
        with suppress(NoAnswer):
            text = (await ask(self._control, "GET", "/metrics", ANSWER_WITHIN_S)).decode()
            self.last_metrics = "" if self._is_taken else text
        return self.last_metrics

    def take_metrics(self) -> str:
        """What it had counted when last asked, for whoever keeps that from now on: here there is nothing any more."""
        text, self.last_metrics, self._is_taken = self.last_metrics, "", True
        return text

    async def drain(self) -> int:
        """Health says NOT_SERVING from now on; calls are answered. Returns how many are under way, 0 if it does not answer."""
        with suppress(NoAnswer):
            return int(await ask(self._control, "POST", "/drain", ANSWER_WITHIN_S))
        return 0

    async def end(self, grace_s: float) -> None:
        """Take no new connection, end those that are there when their calls are done, within the grace; then end it."""
        end = time.monotonic() + grace_s
        if self.listens and await self._close_listeners():
            await self._finish(end)
        await self.metrics()
        await self._terminate()

    def kill(self) -> None:
        if self._child is not None and self._child.returncode is None:
            self._child.kill()

    async def wait(self) -> None:
        """Until it has ended."""
        if self._child is not None:
            await self._child.wait()

    async def _close_listeners(self) -> bool:
        # In this order. A connection that waits to be accepted when the listener closes is reset, and telling clients to go
        # brings many of those: they have to find the listener closed, and so another process.
        try:
            await ask(self.places.admin, "POST", "/drain_listeners", ANSWER_WITHIN_S)
            await ask(self.places.admin, "POST", "/drain_listeners?graceful&skip_exit", ANSWER_WITHIN_S)
            changed = self.places.leaving.with_suffix(".new")
            changed.write_text(LEAVING)
            changed.replace(self.places.leaving)  # Envoy looks for renames
        except (NoAnswer, OSError) as reason:
            _log.warning("%s can't be drained: %s", self.name, reason)
            return False
        return True

    async def _finish(self, end: float) -> None:
        await asyncio.sleep(min(SETTLE_S, max(end - time.monotonic(), 0.0)))  # calls still come, and are answered
        try:
            await ask(self._control, "POST", "/leave", ANSWER_WITHIN_S)
            while (open_calls := await self._open_calls()) and time.monotonic() < end:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)  # it is another process: there is no event
        except NoAnswer as reason:
            _log.warning("%s does not answer any more: %s", self.name, reason)
            return
        if open_calls:
            _log.warning("%s: %d calls are cut at the end of the grace", self.name, open_calls)

    async def _open_calls(self) -> int:
        text = await ask(self.places.admin, "GET", "/stats?filter=http.grpc.downstream_rq_active", ANSWER_WITHIN_S)
        return sum(int(line.rpartition(b":")[2]) for line in text.splitlines() if b"downstream_rq_active:" in line)

    async def _terminate(self) -> None:
        if self._child is None or self._child.returncode is not None:
            return
        self._child.terminate()
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S if self.listens else 1.0):  # one that is held does not hear it
                await self._child.wait()
        except TimeoutError:
            _log.warning("%s did not end in time and is killed", self.name)
            self._child.kill()
            await self._child.wait()

"""The ASGI application inside Envoy, driven by hand: its life, and what it says of its program."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infermesh.engine import worker as module
from infermesh.engine.ask import ask
from infermesh.engine.worker import ORDER, ProgramFailed, Worker, application, reference, resolve

WITHIN_S = 5.0


async def closes(worker: Worker) -> None:
    """A program that is ready when it is told so."""
    ready = asyncio.Event()
    worker.is_ready = ready.is_set
    worker.metrics = lambda: b"m 1\n"
    worker.order["ready"] = ready.set
    await worker.closing.wait()


async def configuration_is_bad(worker: Worker) -> None:
    raise ProgramFailed("no such model", 2)


async def exits(worker: Worker) -> None:
    raise SystemExit(3)


async def breaks(worker: Worker) -> None:
    raise ValueError("on purpose")


async def ends(worker: Worker) -> None:
    """Before it is told to."""


class Life:
    """Envoy's part of the lifespan protocol."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.told.put_nowait({"type": "lifespan.startup"})
        self.running = asyncio.ensure_future(application({"type": "lifespan"}, self.told.get, self.sent.put))

    async def says(self) -> str:
        async with asyncio.timeout(WITHIN_S):
            return str((await self.sent.get())["type"])

    async def end(self) -> None:
        self.told.put_nowait({"type": "lifespan.shutdown"})
        assert await self.says() == "lifespan.shutdown.complete"
        await self.running


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Life]:
    monkeypatch.setattr(sys, "executable", sys.executable)
    monkeypatch.setattr(module, "_worker", None)

    def start(main: Any, *, held: bool = False, environment: dict[str, str | None] | None = None) -> Life:
        order = {"main": reference(main), "control": str(tmp_path / "control"), "held": held, "program": {}}
        order |= {"executable": "/usr/bin/python-of-the-supervisor", "environment": environment or {}}
        (tmp_path / "order.json").write_text(json.dumps(order))
        monkeypatch.setenv(ORDER, str(tmp_path / "order.json"))
        return Life()

    return start


async def state(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(await ask(folder / "control", "GET", "/state", WITHIN_S))
    return told


async def test_it_listens_at_once_and_is_not_ready(live: Callable[..., Life], tmp_path: Path) -> None:
    """Calls are UNAVAILABLE until the program answers them."""
    life = live(closes)
    assert await life.says() == "lifespan.startup.complete"
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await application({"type": "http", "path": "/a/b"}, life.told.get, send)

    assert (b"grpc-status", b"14") in sent[0]["headers"] and sent[-1]["more_body"] is False
    assert await state(tmp_path) == {"ready": False, "in_flight": 0, "failed": None}
    await life.end()


async def test_one_that_is_held_listens_when_it_is_ready(live: Callable[..., Life], tmp_path: Path) -> None:
    """Its control answers meanwhile."""
    life = live(closes, held=True)
    while not (tmp_path / "control").exists():
        await asyncio.sleep(0)

    assert (await state(tmp_path))["ready"] is False and life.sent.empty()
    assert module._worker is not None
    module._worker.order["ready"]()

    assert await life.says() == "lifespan.startup.complete"
    await life.end()


async def test_it_is_told_to_leave_step_by_step(live: Callable[..., Life], tmp_path: Path) -> None:
    """Draining, leaving, closing: each by a question of its own, and the last by Envoy."""
    life = live(closes)
    await life.says()
    worker = module._worker
    assert worker is not None

    assert await ask(tmp_path / "control", "POST", "/drain", WITHIN_S) == b"0"
    assert worker.draining.is_set() and not worker.leaving.is_set()
    await ask(tmp_path / "control", "POST", "/leave", WITHIN_S)
    assert worker.leaving.is_set() and not worker.closing.is_set()
    assert await ask(tmp_path / "control", "GET", "/metrics", WITHIN_S) == b"m 1\n"
    await life.end()

    assert worker.closing.is_set() and worker.failure is None


FAILURES = {
    configuration_is_bad: (2, "no such model"),
    exits: (3, "SystemExit: 3"),
    breaks: (1, "ValueError: on purpose"),
    ends: (1, "the program has ended by itself"),
}


@pytest.mark.parametrize("main", FAILURES)
async def test_a_program_that_ends_is_told(live: Callable[..., Life], tmp_path: Path, main: Any) -> None:
    """Whatever it raises: out of a task, SystemExit would end the loop, and with it this very test."""
    life = live(main)
    await life.says()

    status, text = FAILURES[main]
    while not (told := await state(tmp_path))["failed"]:
        await asyncio.sleep(0)

    assert told["failed"] == {"status": status, "text": text}
    await life.end()


async def test_the_process_looks_like_the_supervisors(
    live: Callable[..., Life], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only Envoy needs is gone before the program starts children; what the user had is back."""
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("PYTHONHOME", "/of/envoy")
    life = live(closes, environment={"LD_PRELOAD": None, "PYTHONHOME": "/of/the/user"})
    await life.says()

    assert "LD_PRELOAD" not in os.environ and os.environ["PYTHONHOME"] == "/of/the/user"
    assert sys.executable == "/usr/bin/python-of-the-supervisor"
    await life.end()


def test_a_program_is_found_by_its_reference(tmp_path: Path) -> None:
    """In a module, or in the file of a script."""
    assert resolve(reference(Worker.serve)) is Worker.serve
    (tmp_path / "script.py").write_text("class A:\n    b = 7\n")
    assert resolve(f"{tmp_path / 'script.py'}:A.b") == 7
    sys.modules.pop("__infermesh_program__")

"""A child process, and what its start does not do to a process with threads."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import sys

import pytest

from infermesh.cli.spawn import spawn
from services.gateway.worker.child import Child

SLEEPS = (sys.executable, "-c", "import time; time.sleep(3600)")

# Counts the forks of a process by what libraries use to hear of them (pthread_atfork(3), whose symbol is the C library's own).
FORKS = """
import asyncio, ctypes, os, subprocess, sys
import uvloop
from services.gateway.worker.child import Child

forks = []
heard = ctypes.CFUNCTYPE(None)(lambda: forks.append(1))
ctypes.CDLL(None).__register_atfork(heard, None, None, None)

async def main():
    command = [sys.executable, "-c", ""]
    child = Child(command, environment=dict(os.environ), pass_fds=[])
    await child.wait()
    print("child", child.status, len(forks))
    other = await asyncio.create_subprocess_exec(*command)
    await other.wait()
    print("uvloop", other.returncode, len(forks))

uvloop.run(main())
"""


def child(*command: str, environment: dict[str, str] | None = None) -> Child:
    return Child(command, environment={**os.environ, **(environment or {})}, pass_fds=[])


async def test_a_status_and_an_environment():
    """The program sees what it was given, nothing on its standard input; its end and status are known to all who wait."""
    script = "import os, sys; sys.exit(int(os.environ['NUMBER']) + len(sys.stdin.read()))"
    one = child(sys.executable, "-c", script, environment={"NUMBER": "7"})
    await asyncio.gather(one.wait(), one.wait())
    assert one.status == 7


async def test_a_kill():
    """Its status is minus the signal; a kill of one that has ended does nothing."""
    one = child(*SLEEPS)
    assert one.status is None
    os.kill(one.pid, 0)
    one.kill()
    await one.wait()
    assert one.status == -signal.SIGKILL
    one.kill()


async def test_no_such_program():
    with pytest.raises(FileNotFoundError):
        child("/nothing")


async def test_no_room_for_a_thread(monkeypatch):
    """The program that nobody would watch is ended, and there was no start."""
    killed = []

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    def kill(process):
        killed.append(process)
        process.send_signal(signal.SIGKILL)

    monkeypatch.setattr("threading.Thread.start", refuse)
    monkeypatch.setattr("subprocess.Popen.kill", kill)
    with pytest.raises(OSError, match="can't start new thread"):
        child(*SLEEPS)
    assert [process.returncode for process in killed] == [-signal.SIGKILL]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no other C library has __register_atfork")
def test_no_library_hears_of_a_fork():
    """Of uvloop's own start of a child they do, which shows that they would."""
    process = spawn([sys.executable, "-c", FORKS], env=dict(os.environ))
    output, _ = process.communicate(timeout=60)
    assert output.decode().splitlines() == ["child 0 0", "uvloop 0 1"]

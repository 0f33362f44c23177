"""Servers as processes of their own, pinned to a core, and what their process trees use."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

__all__ = ["LOAD_CORE", "ROOT", "SERVER_CORE", "Launch", "cpu_s", "free_port", "machine", "process", "rss_bytes"]

ROOT = Path(__file__).resolve().parents[1]
SERVER_CORE, LOAD_CORE = "0", "1"
LISTENS_WITHIN_S = 60.0
ENDS_WITHIN_S = 10.0

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Fields of /proc/<pid>/stat after the name in brackets, which may hold blanks itself: proc_pid_stat(5), less three.
_PARENT, _USER, _CHILDREN_SYSTEM, _RSS = 1, 11, 14, 21


@dataclass(frozen=True, slots=True)
class Launch:
    """How one of our services is started: Python's arguments, the port that answers then, and the settings."""

    arguments: list[str]
    port: int
    environment: dict[str, str]

    @contextlib.contextmanager
    def started(self) -> Iterator[int]:
        """As `process`."""
        with process(self.arguments, self.port, self.environment) as pid:
            yield pid


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def machine() -> str:
    """One line that says where and with what it was measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("grpcio", "protobuf", "numpy", "onnxruntime", "uvloop")
    )
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {libraries}"


@contextlib.contextmanager
def process(
    arguments: Sequence[str],
    port: int,
    environment: Mapping[str, str] | None = None,
    core: str = SERVER_CORE,
    python: str | Path = sys.executable,
) -> Iterator[int]:
    """A Python process in the project's folder, pinned to one core; its id is given once its port answers."""
    command = ["taskset", "-c", core, str(python), *arguments]
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | dict(environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # KServe writes two lines for each call
        stderr=subprocess.DEVNULL,
    )
    try:
        _await_port(child, port, command)
        yield child.pid
    finally:
        tree = _tree((child.pid,), _stats())
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            for pid in tree:  # a parent that is killed leaves its workers
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            child.wait()


def cpu_s(pids: Collection[int]) -> float:
    """User and system time, in seconds, of the processes and all that descends from them."""
    stats = _stats()
    ticks = (sum(map(int, stats[pid][_USER : _CHILDREN_SYSTEM + 1])) for pid in _tree(pids, stats))
    return sum(ticks) / _TICKS


def rss_bytes(pids: Collection[int]) -> int:
    """Resident memory of the processes and all that descends from them; pages that they share count for each."""
    stats = _stats()
    return sum(int(stats[pid][_RSS]) for pid in _tree(pids, stats)) * _PAGE_BYTES


def _stats() -> dict[int, list[str]]:
    """The fields of every process behind its name."""
    stats = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended in between
            stats[int(stat.parent.name)] = stat.read_text().rpartition(")")[2].split()
    return stats


def _tree(pids: Collection[int], stats: Mapping[int, Sequence[str]]) -> set[int]:
    tree = {pid for pid in pids if pid in stats}
    while more := {pid for pid, fields in stats.items() if int(fields[_PARENT]) in tree} - tree:
        tree |= more
    return tree


def _await_port(child: subprocess.Popen[bytes], port: int, command: Sequence[str]) -> None:
    end = time.monotonic() + LISTENS_WITHIN_S
    while time.monotonic() < end:
        if child.poll() is not None:
            raise RuntimeError(
                f"ended with status {child.returncode}; run it by hand to see why, in {ROOT}: {' '.join(command)}"
            )
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.05)
    raise RuntimeError(f"did not listen on {port} within {LISTENS_WITHIN_S:g} s: {' '.join(command)}")

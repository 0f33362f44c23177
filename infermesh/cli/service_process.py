"""One service as a child process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import infermesh
from infermesh.cli.spawn import spawn

__all__ = ["EXIT_CONFIG", "EXIT_PORT", "ServiceProcess"]

# What a service's process says with its exit status; see `infermesh.runtime.run`.
EXIT_CONFIG = 2
EXIT_PORT = 3

PLAIN = "plain"  # the level of a line that is no JSON: what Python or a library wrote by itself

# A child imports what we import, from whatever folder we were started.
_ROOT = str(Path(infermesh.__path__[0]).parent)
_IMPORTS = {"PYTHONPATH": os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH", "")]))}


class ServiceProcess:
    """Runs `python -m services.<service> --config FILE` from the moment that it is made.

    Its log lines are read as they come and are appended to `log` as mappings; a line that is no JSON becomes
    `{"level": "plain", "message": line}`.
    """

    def __init__(
        self, service: str, config: Path, env: Mapping[str, str], log: deque[dict[str, Any]] | None = None
    ) -> None:
        self.service = service
        self.log = deque(maxlen=1000) if log is None else log
        self._said: deque[str] = deque(maxlen=20)  # what may tell why it ended
        command = [sys.executable, "-m", f"services.{service}", "--config", str(config)]
        self._process = spawn(command, env={**os.environ, **_IMPORTS, **env})
        self._reader = threading.Thread(target=self._read, name=f"log-{service}-{self.pid}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """None while it runs, else its exit status; negative: minus the signal that ended it."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to drain; nothing happens to a process that has ended."""
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; false when it still runs after the time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        self._reader.join(1.0)  # a child of its own may hold the pipe: its last words are not worth more
        return True

    def last_words(self) -> str:
        """What it said last that may tell why it ended: its errors, and what was no log line."""
        self._reader.join(1.0 if self.status is not None else 0.0)
        return "; ".join(self._said)

    def ending(self) -> str:
        """How it ended and what it said last, in one line: for people."""
        status = self.status
        if status is None:
            return "runs"
        if status < 0:
            how = f"was ended by {signal.Signals(-status).name}"
        elif status == 0:
            how = "has drained and ended"
        else:
            how = f"ended with status {status}"
        said = self.last_words() if status > 0 else ""
        return f"{how}: {said}" if said else how

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._take(line.decode("utf-8", "replace").rstrip())

    def _take(self, line: str) -> None:
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise ValueError
        except ValueError:
            entry = {"level": PLAIN, "message": line}
        self.log.append(entry)
        level, message = entry.get("level"), str(entry.get("message", ""))
        if level == "critical":
            self._said.clear()  # says it all, and its traceback comes as a field
        if level in ("critical", "error") or (level == PLAIN and message.strip()):
            self._said.append(" ".join(message.split()))

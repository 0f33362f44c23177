"""ONNX Runtime's profile of the next runs of a version, on demand."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from infermesh.errors import FailedPrecondition, InvalidRequest

__all__ = ["MAX_REQUESTS", "PROFILE_SECONDS", "Profile", "profile_path"]

MAX_REQUESTS = 10_000  # ONNX Runtime keeps a million events at most, and each operator of a run is one
PROFILE_SECONDS = 300.0  # a profile ends then, when fewer requests came

_log = logging.getLogger(__name__)


class Profile:
    """Runs on a session that records them, until they are of as many requests as were asked for or the time is over.

    The session is one of its own, with weights of its own: recording can't be switched on in one that runs. It is ended in a
    thread of its own when the last of its runs has ended; then the file is at `path`, in the Chrome trace format
    (`chrome://tracing`, Perfetto). `session` is to have been made with profiling on; `done` is called in that thread.
    """

    def __init__(self, session: Any, requests: int, path: Path, seconds: float, done: Callable[[], None]) -> None:
        self.path = path
        self._done = done
        self._session = session
        self._left = requests
        self._running = 0
        self._ended = False
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self.end)
        self._timer.daemon = True

    def start(self) -> None:
        """From now on its time runs."""
        self._timer.start()

    def take(self, requests: int = 1) -> Any | None:
        """The session for one run of so many requests, after which `give_back` is to be called; None: there are enough. The last
        run may have more requests than were wanted."""
        with self._lock:
            if not self._left:
                return None
            self._left = max(0, self._left - requests)
            self._running += 1
            return self._session

    def give_back(self) -> None:
        """A run on the recording session has ended."""
        with self._lock:
            self._running -= 1
        self._end_if_idle()

    def end(self) -> None:
        """Take no further run; the file is written when those that run have ended."""
        with self._lock:
            self._left = 0
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        with self._lock:
            if self._left or self._running or self._ended:
                return
            self._ended = True
        self._timer.cancel()
        # Writing takes as long as the file is large, and the last run may have been one on the event loop.
        threading.Thread(target=self._write, name="profile").start()

    def _write(self) -> None:
        try:
            written = Path(self._session.end_profiling())
            written.replace(self.path)
            _log.info("profile written", extra={"file": str(self.path)})
        except Exception:
            _log.exception("profile not written", extra={"file": str(self.path)})
        finally:
            self._session = None  # its weights
            self._done()


def profile_path(folder: Path | None, model: str, version: int, requests: int) -> Path:
    """Where a profile of so many requests will be; its folder is made. Raises InvalidRequest for a number that is not possible,
    FailedPrecondition when the folder can't be written."""
    if not 1 <= requests <= MAX_REQUESTS:
        raise InvalidRequest(
            f"profile: expected 1 to {MAX_REQUESTS} requests, got {requests}", reason="PROFILE_REQUESTS"
        )
    folder = folder or Path(tempfile.gettempdir()) / "infermesh-profiles"
    path = folder / f"{model}-{version}-{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**9:09d}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.unlink()
    except OSError as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise FailedPrecondition(
            f"profile: execution.profile_folder can't be written: {error.strerror}", reason="PROFILE_FOLDER"
        ) from None
    return path

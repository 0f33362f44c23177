"""One remote store, asked through fsspec, each question with an end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from fsspec.callbacks import Callback  # type: ignore[import-untyped]

from services.predictor.source.failure import failed, is_passing, local_fault
from services.predictor.source.filesystem import filesystem
from services.predictor.source.remote_file import Changed, RemoteFile
from services.predictor.source.root_url import RootUrl
from services.predictor.source.source import SourceAway

__all__ = ["Connection"]

ATTEMPTS = 3
FIRST_PAUSE_S = 0.1  # before the second attempt; doubled before the third
PARALLEL = 4  # files at a time, of all downloads of one root
LEAVE_S = 1.0  # for what was told to stop to close its sockets

T = TypeVar("T")


class Connection:
    """Blocks, and is used from several threads; the filesystem works on fsspec's own event loop.

    Its filesystem is made at the first question, once for all who ask meanwhile, in a thread of its own: looking for credentials
    may take requests of its own. `timeout_s` is the most that an answer may take, that included, and the most that a download may
    stay without a byte; `download_timeout_s` is the most for one file.
    """

    def __init__(
        self, root: RootUrl, options: Mapping[str, Any], *, timeout_s: float, download_timeout_s: float
    ) -> None:
        self.root = root
        self._options = dict(options)
        self._timeout_s = timeout_s
        self._download_timeout_s = download_timeout_s
        self._filesystem: Future[Any] | None = None
        self._making = threading.Lock()
        self._places: asyncio.Semaphore | None = None

    def ask(self, question: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        """The answer of the filesystem. Raises SourceAway after `timeout_s`, or three attempts that failed sooner."""
        until = time.monotonic() + self._timeout_s
        for attempt in range(ATTEMPTS):
            try:
                fs = self._connected(until - time.monotonic())
                return self._run(fs, question(fs), until - time.monotonic())
            except TimeoutError as error:
                raise self._late() from error
            except Exception as error:
                pause = FIRST_PAUSE_S * 2**attempt
                if attempt + 1 == ATTEMPTS or not is_passing(error) or time.monotonic() + pause > until:
                    raise failed(error, self.root.shown) from error
                time.sleep(pause)
        raise AssertionError("unreachable")

    def download(self, files: Iterable[tuple[RemoteFile, Path]]) -> None:
        """Write each file to its path, several at a time. Raises SourceAway, or the OSError of a disk that is full; then no
        download goes on, and what is at the paths is worth nothing."""
        wanted = list(files)
        try:
            fs = self._connected(self._timeout_s)
        except TimeoutError as error:
            raise self._late() from error
        except Exception as error:
            raise failed(error, self.root.shown) from error
        try:
            self._run(fs, self._all(fs, wanted), None)
        except Exception as error:
            if fault := local_fault(error):
                raise fault from None
            raise failed(error, self.root.shown) from error

    def _connected(self, timeout_s: float) -> Any:
        """The filesystem. Raises TimeoutError, and what its making raises; after that it is made anew."""
        with self._making:
            making = self._filesystem
            if making is None:
                making = Future()
                threading.Thread(target=self._make, args=(making,), name="connect", daemon=True).start()
                self._filesystem = making
        return making.result(max(0.0, timeout_s))

    def _make(self, making: Future[Any]) -> None:
        try:
            made = filesystem(self.root.scheme, self._options, self._timeout_s)
        except BaseException as error:
            with self._making:
                self._filesystem = None
            making.set_exception(error)
        else:
            making.set_result(made)

    def _late(self) -> SourceAway:
        return SourceAway(f"{self.root.shown}: no answer within {self._timeout_s:g} s")

    def _run(self, fs: Any, work: Coroutine[Any, Any, T], timeout_s: float | None) -> T:
        async def with_end() -> T:
            return await asyncio.wait_for(work, timeout_s)

        asked = asyncio.run_coroutine_threadsafe(with_end(), fs.loop)
        try:
            # Beside the end inside, which a library that blocks fsspec's loop (Google's refresh of a token) keeps from coming.
            return asked.result(None if timeout_s is None else max(0.0, timeout_s) + LEAVE_S)
        except TimeoutError:
            asked.cancel()
            raise

    async def _all(self, fs: Any, files: list[tuple[RemoteFile, Path]]) -> None:
        if self._places is None:  # made on fsspec's loop, where all of this runs
            self._places = asyncio.Semaphore(PARALLEL)
        tasks = [asyncio.ensure_future(self._place(self._places, fs, *each)) for each in files]
        try:
            for task in asyncio.as_completed(tasks):
                await task
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _place(self, places: asyncio.Semaphore, fs: Any, file: RemoteFile, path: Path) -> None:
        async with places:
            for attempt in range(ATTEMPTS):
                try:
                    await self._one(fs, file, path)
                    return
                except Exception as error:
                    if local_fault(error):
                        raise
                    if attempt + 1 == ATTEMPTS or not is_passing(error):
                        raise failed(error, self.root.shown, file.path.rpartition("/")[2]) from error
                await asyncio.sleep(FIRST_PAUSE_S * 2**attempt)

    async def _one(self, fs: Any, file: RemoteFile, path: Path) -> None:
        began = time.monotonic()
        progress = _Progress(file)
        task = asyncio.ensure_future(fs._get_file(file.path, str(path), callback=progress, **fs.infermesh_download))
        try:
            while True:
                left = min(
                    progress.at + self._timeout_s - time.monotonic(),
                    began + self._download_timeout_s - time.monotonic(),
                )
                if left <= 0:
                    why = (
                        f"{progress.value} of {file.size} bytes, then none for {self._timeout_s:g} s"
                        if progress.at + self._timeout_s <= time.monotonic()
                        else f"not downloaded within {self._download_timeout_s:g} s"
                    )
                    raise SourceAway(f"{self.root.shown}: {file.path.rpartition('/')[2]}: {why}")
                await asyncio.wait({task}, timeout=left)
                if task.done():
                    task.result()
                    return
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=LEAVE_S)
            if task.done() and not task.cancelled():
                task.exception()  # seen here: nobody else will ask


class _Progress(Callback):  # type: ignore[misc]  # fsspec has no types
    """Told of every piece; ends a download that is longer than the listing said, which could fill the disk."""

    def __init__(self, file: RemoteFile) -> None:
        super().__init__()
        self.at = time.monotonic()
        self._file = file

    def relative_update(self, inc: int = 1) -> None:
        self.at = time.monotonic()
        self.value += inc
        if self.value > self._file.size:
            raise Changed(
                f"{self._file.name}: expected {self._file.size} bytes as listed, more came: it changed meanwhile"
            )

"""The model files of the repository, read and kept as graphs."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from infermesh.errors import quoted
from services.explainer.graph import ModelGraph, NotReadable

__all__ = ["ModelFile", "ModelFiles"]

FILE = "model.onnx"
LOOK_S = 1.0  # that an answer may rely on the last look at the file
TIMEOUT_S = 10.0  # for a store that does not answer; what it was asked ends by itself
THREADS = 2  # a store that hangs does not keep all from being read
REASON_BYTES = 1024  # what a reason counts in the cache
VALIDATORS = ("etag", "ETag", "LastModified", "last_modified", "mtime", "updated", "generation", "md5Hash")
NAME = re.compile(r"[^._/\\\0][^/\\\0]*")  # nothing hidden, nothing that leads elsewhere

Key = tuple[str, str, str]


class ModelFile(NamedTuple):
    """The graph, or why there is none."""

    graph: ModelGraph | None
    reason: str = ""


class _Kept(NamedTuple):
    file: ModelFile
    size_bytes: int
    print: str  # of the file: what changes when it is replaced
    looked: float


class ModelFiles:
    """`<root>/<model>/<version>/model.onnx`, the root being a folder or a URL that fsspec knows.

    A file is read and parsed once, in a thread, and kept while it is among the `max_entries` used last and they have `max_bytes`
    together. It is looked at again, at most once a second, and read anew when its size, time or ETag has changed. Whatever is the
    matter with it is a reason, never an exception. To be used from one event loop; `close` it when it is asked no more.
    """

    def __init__(
        self,
        root: str,
        *,
        max_bytes: int = 2**29,
        max_entries: int = 64,
        storage_options: Mapping[str, Any] | None = None,
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store: _Folder | _Remote = _Remote(root, storage_options or {}) if "://" in root else _Folder(root)
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._timeout_s = timeout_s
        self._clock = clock
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._under_way: dict[Key, asyncio.Task[ModelFile]] = {}
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="model-files")

    async def find(self, model: str, version: str, output: str = "") -> ModelFile:
        """The graph of one version of a model, for the output that is named or the first that can be read."""
        key = (model, version, output)
        kept = self._kept.get(key)
        if kept is not None and self._clock() - kept.looked < LOOK_S:
            self._kept.move_to_end(key)
            return kept.file
        look = self._under_way.get(key)
        if look is None:  # one look for all who ask meanwhile; a caller who goes away does not end it for the others
            look = self._under_way[key] = asyncio.ensure_future(self._look(key, kept))
            look.add_done_callback(lambda _: self._under_way.pop(key, None))
        return await asyncio.shield(look)

    def close(self) -> None:
        """Let go of the threads; what runs ends by itself."""
        for look in self._under_way.values():
            look.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _look(self, key: Key, kept: _Kept | None) -> ModelFile:
        reading = asyncio.get_running_loop().run_in_executor(self._pool, self._read, key, kept)
        try:
            found = await asyncio.wait_for(reading, self._timeout_s)
        except TimeoutError:
            return ModelFile(None, f"{self._store.shown}: no answer within {self._timeout_s:g} s")
        self._keep(key, found)
        return found.file

    def _keep(self, key: Key, found: _Kept) -> None:
        self._kept[key] = found
        self._kept.move_to_end(key)
        total = sum(each.size_bytes for each in self._kept.values())
        while len(self._kept) > self._max_entries or total > self._max_bytes:
            total -= self._kept.popitem(last=False)[1].size_bytes

    def _read(self, key: Key, kept: _Kept | None) -> _Kept:
        model, version, output = key
        looked = self._clock()  # before the look: what is put there meanwhile is seen by the next
        told = ""
        try:
            size, print_ = self._store.look(model, version)
            if kept is not None and kept.print == print_:
                return kept._replace(looked=looked)
            if size > self._max_bytes:
                raise NotReadable(f"expected at most {self._max_bytes} bytes, it has {size}")
            content = self._store.read(model, version)
            if self._store.look(model, version)[1] != print_:
                raise NotReadable("it changed while it was read")
            told = print_
            return _Kept(ModelFile(ModelGraph.read(content, output)), len(content), print_, looked)
        except NotReadable as error:
            reason = error.reason
        except FileNotFoundError:
            reason = "there is no such file"
        except Exception as error:  # stores raise what they like
            reason = f"it can't be read: {type(error).__name__}: {str(error)[:200]}"
        where = f"{self._store.shown}/{quoted(model)[1:-1]}/{quoted(version)[1:-1]}/{FILE}"
        return _Kept(
            ModelFile(None, f"{where}: {reason}"), REASON_BYTES, told, looked
        )  # a file that is no model is not parsed again


class _Folder:
    def __init__(self, root: str) -> None:
        self.shown = root
        self._root = Path(root)

    def look(self, model: str, version: str) -> tuple[int, str]:
        stat = (self._root / _below(model, version)).stat()
        return stat.st_size, f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"

    def read(self, model: str, version: str) -> bytes:
        return (self._root / _below(model, version)).read_bytes()


class _Remote:
    """Used from several threads. The filesystem is made at the first question: looking for credentials may take requests."""

    def __init__(self, root: str, options: Mapping[str, Any]) -> None:
        self._root = root.rstrip("/")
        self.shown = re.sub(r"//[^/]*@", "//", self._root)  # without who logs in
        self._options = options
        self._lock = threading.Lock()
        self._opened: tuple[Any, str] | None = None

    def look(self, model: str, version: str) -> tuple[int, str]:
        fs, root = self._filesystem()
        fs.invalidate_cache()  # else a listing that was kept answers
        info = fs.info(f"{root}/{_below(model, version)}")
        told = [f"{name}={info[name]}" for name in VALIDATORS if info.get(name) is not None]
        return int(info.get("size") or 0), " ".join([str(info.get("size")), *told])

    def read(self, model: str, version: str) -> bytes:
        fs, root = self._filesystem()
        return bytes(fs.cat_file(f"{root}/{_below(model, version)}"))

    def _filesystem(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]  # where all models are in a folder it costs nothing

        with self._lock:
            if self._opened is None:
                fs, root = url_to_fs(self._root, skip_instance_cache=True, **self._options)
                self._opened = fs, str(root).rstrip("/")
            return self._opened


def _below(model: str, version: str) -> str:
    """Raises NotReadable for names that would lead elsewhere."""
    for name in (model, version):
        if not NAME.fullmatch(name):
            raise NotReadable(f"{quoted(name)} is no name of a model or version")
    return f"{model}/{version}/{FILE}"

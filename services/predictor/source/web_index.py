"""The `index.json` of a web root, read once for many looks."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from services.predictor.load_failed import LoadFailed
from services.predictor.source.connection import Connection
from services.predictor.source.source import SourceAway

__all__ = ["INDEX", "WebIndex"]

INDEX = "index.json"
MAX_BYTES = 64 * 2**20
AGE_S = 1.0  # that a look may rely on what was read for another model: a round of looks asks once, or once a second
CHUNK_BYTES = 2**18
NOT_MODIFIED, NOT_FOUND = 304, 404

Files = Mapping[str, Any]  # what is said of each file, by its name in its model's folder


@dataclass(slots=True)
class _Read:
    """What was read, by model, and the models that have been looked at since."""

    models: dict[str, dict[str, Any]]
    digest: bytes
    validators: dict[str, str]
    """The headers that ask for it only if it has changed (RFC 9110, section 13)."""
    at: float
    looked: set[str] = field(default_factory=set)


class WebIndex:
    """Blocks; used from several threads. It is asked for conditionally, and parsed when it has changed, in the caller's thread:
    64 MiB take a second, which is not that of fsspec's event loop.

    `models` always asks. The first look at each model within a second after that relies on what came; the next one at the same
    model asks again, so that a load after an upload never gets what was there before.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._url = f"{connection.root.url}/{INDEX}"
        self._shown = f"{connection.root.shown}/{INDEX}"
        self._lock = threading.Lock()
        self._last: _Read | None = None

    def models(self) -> list[str] | None:
        """The models that it names; None when the root has no index. Raises SourceAway, LoadFailed for one that is too large."""
        read = self._ask()
        return None if read is None else sorted(read.models)

    def files(self, model: str) -> Files | None:
        """What it says of the model's files; None when the root has no index."""
        with self._lock:
            last = self._last
            if last is not None and monotonic() - last.at < AGE_S and model not in last.looked:
                last.looked.add(model)
                return last.models.get(model, {})
        read = self._ask()
        if read is None:
            return None
        with self._lock:
            read.looked.add(model)
        return read.models.get(model, {})

    def _ask(self) -> _Read | None:
        began, last = monotonic(), self._last

        async def ask(fs: Any) -> tuple[int, bytes, dict[str, str]]:
            return await _get(fs, self._url, last.validators if last else {})

        status, text, validators = self._connection.ask(ask)
        if status == NOT_FOUND:
            with self._lock:
                self._last = None
            return None
        if status == NOT_MODIFIED and last is not None:
            read = _Read(last.models, last.digest, last.validators, began)
        else:
            read = self._parsed(text, validators, began)
        with self._lock:
            if self._last is None or self._last.at <= began:  # another thread may have asked later, and be done sooner
                self._last = read
        return read

    def _parsed(self, text: bytes, validators: dict[str, str], began: float) -> _Read:
        digest = hashlib.sha256(text).digest()
        with self._lock:
            last = self._last
            if last is not None and last.digest == digest:  # a server that tells no ETag
                return _Read(last.models, digest, validators, began)
            try:
                files = json.loads(text)["files"]
            except (ValueError, KeyError, TypeError, RecursionError):
                files = None
            if not isinstance(files, dict):
                form = '{"files": {"<model>/<version>/model.onnx": {"size": …, "sha256": …}}}'
                raise SourceAway(f"{self._shown}: expected {form}")
            models: dict[str, dict[str, Any]] = {}
            for name, about in files.items():
                model, slash, below = name.partition("/")
                if slash:
                    models.setdefault(model, {})[below] = about
            return _Read(models, digest, validators, began)


async def _get(fs: Any, url: str, validators: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
    """The status, the content when there is any, and what to ask with the next time."""
    session = await fs.set_session()
    options = {**fs.kwargs, "headers": {**fs.kwargs.get("headers", {}), **validators}}
    async with session.get(fs.encode_url(url), **options) as response:
        if response.status == NOT_FOUND or (response.status == NOT_MODIFIED and validators):
            return response.status, b"", {}
        response.raise_for_status()
        parts, size = [], 0
        async for part in response.content.iter_chunked(CHUNK_BYTES):
            parts.append(part)
            size += len(part)
            if size > MAX_BYTES:
                raise LoadFailed(f"a listing of more than {MAX_BYTES} bytes")
        given = {"If-None-Match": "ETag", "If-Modified-Since": "Last-Modified"}
        found = {ask: response.headers[told] for ask, told in given.items() if told in response.headers}
        return response.status, b"".join(parts), found

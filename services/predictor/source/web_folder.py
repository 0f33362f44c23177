"""A folder of a web server: listed by an `index.json` at its root, or by the pages that servers make of folders."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urldefrag, urljoin

from services.predictor.load_failed import LoadFailed
from services.predictor.source.connection import Connection
from services.predictor.source.remote_file import MAX_FILES, RemoteFile
from services.predictor.source.web_index import INDEX, WebIndex

__all__ = ["WebFolder"]

MAX_PAGE_BYTES = 4 * 2**20
MAX_DEPTH = 8  # of folders below a model: a link to a folder above it would never end
ASKED_AT_A_TIME = 8

_SHA256 = re.compile(r"[0-9a-f]{64}")


class WebFolder:
    """`index.json` is preferred: one request, and checksums. Its form: `{"files": {"<model>/<version>/model.onnx": {"size": 512,
    "sha256": "…"}}}`. Without it folders are followed by the links of their pages, and each file is asked for its size, ETag
    and time by HEAD, so that a look costs a request a file."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._root = connection.root.url + "/"
        self._index = WebIndex(connection)

    def models(self) -> list[str]:
        models = self._index.models()
        if models is not None:
            return models

        async def ask(fs: Any) -> list[str]:
            return [name[:-1] for name in await self._links(fs, self._root) if name.endswith("/")]

        return self._connection.ask(ask)

    def files(self, model: str) -> list[RemoteFile]:
        indexed = self._index.files(model)
        if indexed is not None:
            return [_indexed(model, name, about) for name, about in indexed.items()]

        async def ask(fs: Any) -> list[RemoteFile]:
            folder = f"{self._root}{quote(model)}/"
            try:
                names = await self._below(fs, folder)
            except FileNotFoundError:
                return []
            places = asyncio.Semaphore(ASKED_AT_A_TIME)
            files = await asyncio.gather(*(self._asked(fs, folder, name, places) for name in names))
            return [file for file in files if file is not None]

        return self._connection.ask(ask)

    def download(self, files: Iterable[tuple[RemoteFile, Path]]) -> None:
        self._connection.download((replace(file, path=self._root + file.path), path) for file, path in files)

    def explains(self, file: RemoteFile, algorithm: str) -> bool:
        return False

    async def _below(self, fs: Any, folder: str, prefix: str = "", depth: int = 0) -> list[str]:
        names: list[str] = []
        for name in await self._links(fs, folder + quote(prefix)):
            if name.startswith("."):
                continue
            if not name.endswith("/"):
                names.append(prefix + name)
            elif depth < MAX_DEPTH:
                names += await self._below(fs, folder, prefix + name, depth + 1)
            else:
                raise LoadFailed(f"{prefix}{name}: more than {MAX_DEPTH} folders deep")
            if len(names) > MAX_FILES:
                raise LoadFailed(f"{prefix or folder}: more than {MAX_FILES} files")
        return names

    async def _links(self, fs: Any, url: str) -> list[str]:
        """The names of the files and, with a slash at the end, folders that the page of a folder links to."""
        page = _Links()
        page.feed((await _read(fs, url, MAX_PAGE_BYTES)).decode("utf-8", "replace"))
        names = set()
        for link in page.links:
            target = urldefrag(urljoin(url, link))[0]
            name = unquote(target[len(url) :])
            # Links to sort the page have a query; those above and elsewhere do not start with the folder.
            if target.startswith(url) and "?" not in target and name.strip("/") and "/" not in name[:-1]:
                names.add(name)
        return sorted(names)

    async def _asked(self, fs: Any, folder: str, name: str, places: asyncio.Semaphore) -> RemoteFile | None:
        url = folder + quote(name)
        async with places:
            try:
                about = await fs._info(url)
            except FileNotFoundError as error:  # which fsspec makes of every fault
                if getattr(error.__cause__, "status", 404) == 404 and not isinstance(error.__cause__, OSError):
                    return None
                raise error.__cause__ or error from None
        if about.get("size") is None:
            raise LoadFailed(f"{name}: the server does not say how long it is (no Content-Length)")
        state = f"{about.get('ETag', '')} {about.get('Last-Modified', '')}"
        return RemoteFile(name, url[len(self._root) :], about["size"], state, _checksums(about))


def _indexed(model: str, name: str, about: Any) -> RemoteFile:
    size = about.get("size") if isinstance(about, dict) else None
    sha256 = about.get("sha256", "") if isinstance(about, dict) else ""
    if not isinstance(size, int) or size < 0 or (sha256 and not _SHA256.fullmatch(str(sha256))):
        raise LoadFailed(f'{INDEX}: {model}/{name}: expected {{"size": bytes, "sha256": 64 hexadecimal digits}}')
    state = sha256 or f"{about.get('etag', '')} {about.get('mtime', '')}"
    checksums = {"sha256": sha256} if sha256 else {}
    return RemoteFile(name, quote(f"{model}/{name}"), size, state, checksums)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value]


class _Bounded(io.BytesIO):
    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self._most:
            raise LoadFailed(f"a listing of more than {self._most} bytes")
        return super().write(data)


async def _read(fs: Any, url: str, most: int) -> bytes:
    buffer = _Bounded(most)
    await fs._get_file(url, buffer, chunk_size=2**18)
    return buffer.getvalue()


def _checksums(about: Mapping[str, Any]) -> dict[str, str]:
    """From Content-MD5 (RFC 1864) and Digest (RFC 3230), which are base64."""
    given = {"md5": about.get("Content-MD5", "")}
    for part in str(about.get("Digest", "")).split(","):
        algorithm, _, value = part.strip().partition("=")
        given[{"sha-256": "sha256", "md5": "md5"}.get(algorithm.lower(), "")] = value
    checksums = {}
    for algorithm, length in (("md5", 16), ("sha256", 32)):
        try:
            digest = base64.b64decode(given.get(algorithm, ""), validate=True)
        except binascii.Error:
            continue
        if len(digest) == length:
            checksums[algorithm] = digest.hex()
    return checksums

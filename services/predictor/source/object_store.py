"""A bucket of S3 or Google Cloud Storage."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from services.predictor.source.connection import Connection
from services.predictor.source.remote_file import RemoteFile

__all__ = ["ObjectStore"]

_MD5 = re.compile(r"[0-9a-f]{32}")
_ENCRYPTED = ("aws:kms", "aws:kms:dsse")


class ObjectStore:
    """Folders are what the keys have before a slash; one request lists a model, whatever the number of its versions."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._root = connection.root.url.partition("://")[2]

    def models(self) -> list[str]:
        async def ask(fs: Any) -> list[dict[str, Any]]:
            return list(await fs._ls(self._root, detail=True, refresh=True))

        found = self._connection.ask(ask)
        return [_last(entry["name"]) for entry in found if entry["type"] == "directory"]

    def files(self, model: str) -> list[RemoteFile]:
        folder = f"{self._root}/{model}"

        async def ask(fs: Any) -> dict[str, dict[str, Any]]:
            try:
                return dict(await fs._find(folder, detail=True))
            except FileNotFoundError:
                return {}

        found = self._connection.ask(ask).values()
        start = len(folder) + 1
        return [
            _file(entry, entry["name"][start:])
            for entry in found
            if entry["type"] == "file" and entry["name"].startswith(f"{folder}/")
        ]

    def download(self, files: Iterable[tuple[RemoteFile, Path]]) -> None:
        self._connection.download(files)

    def explains(self, file: RemoteFile, algorithm: str) -> bool:
        """S3's ETag of an object that is encrypted with a key of KMS or of the customer looks like an MD5 and is none."""
        if self._connection.root.scheme != "s3" or algorithm != "md5":
            return False

        async def ask(fs: Any) -> dict[str, Any]:
            bucket, key, _ = fs.split_path(file.path)
            return dict(await fs._call_s3("head_object", Bucket=bucket, Key=key))

        about = self._connection.ask(ask)
        return about.get("ServerSideEncryption") in _ENCRYPTED or "SSECustomerAlgorithm" in about


def _file(entry: Mapping[str, Any], name: str) -> RemoteFile:
    """Of S3's `ListObjectsV2` (Contents: Size, ETag) or GCS's object resource (size, md5Hash, crc32c, generation)."""
    checksums = {}
    etag = str(entry.get("ETag", "")).strip('"')
    if _MD5.fullmatch(etag):  # of an upload in parts it is no checksum of the whole: it has a dash
        checksums["md5"] = etag
    for field, algorithm in (("md5Hash", "md5"), ("crc32c", "crc32c")):
        if value := _hexadecimal(entry.get(field)):
            checksums[algorithm] = value
    state = etag or entry.get("generation") or entry.get("etag") or entry.get("updated")
    if "LastModified" in entry and not checksums:
        state = f"{state} {entry['LastModified']}"
    return RemoteFile(name, entry["name"], int(entry["size"]), str(state), checksums)


def _hexadecimal(value: object) -> str:
    try:
        return base64.b64decode(str(value), validate=True).hex() if value else ""
    except binascii.Error:
        return ""


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]

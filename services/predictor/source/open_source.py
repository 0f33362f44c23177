"""From the configured root to a Source."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from services.predictor.config import CacheConfig
from services.predictor.source.connection import Connection
from services.predictor.source.content_cache import ContentCache
from services.predictor.source.counts import Counts
from services.predictor.source.folder import Folder
from services.predictor.source.object_store import ObjectStore
from services.predictor.source.remote import Remote
from services.predictor.source.root_url import RootUrl, folder_of_file_url, scheme_of
from services.predictor.source.several import Several
from services.predictor.source.source import Source
from services.predictor.source.web_folder import WebFolder

__all__ = ["open_source"]


def open_source(
    location: str | Sequence[str],
    cache: CacheConfig | None = None,
    storage_options: Mapping[Any, Mapping[str, Any]] | None = None,
) -> Source:
    """The source of the configured root, or of several as one. Asks no root yet: it does not block.

    `storage_options` are fsspec's, by scheme. Raises ValueError for an unknown scheme, for one whose extra is not installed
    (and names the extra), and for a root that is named twice.
    """
    cache = cache or CacheConfig()
    counts = Counts()
    roots = [location] if isinstance(location, str) else list(location)
    if not roots:
        raise ValueError("repository.root: expected at least one root")
    remote = any(scheme_of(root) not in ("", "file") for root in roots)
    folder = cache.folder or (_user_folder() if remote else Path())
    kept = ContentCache(
        folder, cache.max_bytes, counts
    )  # one for all roots, with one bound; made on disk when it is needed

    def one(root: str) -> Source:
        scheme = scheme_of(root)
        if scheme in ("", "file"):
            try:
                return Folder(str(folder_of_file_url(root)) if scheme else root)
            except ValueError as error:
                raise ValueError(f"repository.root: {root}: {error}") from None
        url = RootUrl.parse(root)
        options = (storage_options or {}).get(url.scheme, {})
        connection = Connection(url, options, timeout_s=cache.timeout, download_timeout_s=cache.download_timeout)
        store = WebFolder(connection) if url.scheme in ("http", "https") else ObjectStore(connection)
        return Remote(url.shown, url.key(_endpoint(url.scheme, options)), store, kept)

    sources = [one(root) for root in roots]
    names = [source.location for source in sources]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"repository.root: {', '.join(twice)}: named twice")
    return sources[0] if len(sources) == 1 else Several(sources, counts)


def _endpoint(scheme: str, options: Mapping[str, Any]) -> str:
    """Where a bucket of that name is, when it is not the usual place: two stores may have buckets of one name."""
    given = options.get("endpoint_url") or options.get("client_kwargs", {}).get("endpoint_url")
    names = {"s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), "gs": ("STORAGE_EMULATOR_HOST",)}.get(scheme, ())
    return str(given or next((os.environ[name] for name in names if os.environ.get(name)), ""))


def _user_folder() -> Path:
    """As the XDG base directory specification says. Raises ValueError where this user has no home, as in some containers."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "infermesh/models"
    except RuntimeError:
        raise ValueError(
            "repository.cache.folder: expected a folder for models of a URL: this user has no home"
        ) from None

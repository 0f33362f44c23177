"""Models of a bucket or web server, kept on this machine."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from infermesh.errors import quoted
from services.predictor.load_failed import LoadFailed
from services.predictor.source.content_cache import ContentCache
from services.predictor.source.counts import Counts
from services.predictor.source.remote_file import MAX_FILES, Changed, Listing, RemoteFile
from services.predictor.source.source import Look, SourceAway, is_model_name
from services.predictor.source.store import Store

__all__ = ["Remote"]

LOOK = ".look.json"  # hidden: no version has such a name
SETTINGS = ".settings"
DOWNLOADS = 2  # of files that change meanwhile: with what the second look shows, then no more

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Remote:
    """A root by its URL. While it is away the cache answers for it: models and versions are those of the last look, and those
    that are whole in the cache can be loaded. SourceAway is raised only where the cache has nothing.

    A root that took long to fail is taken to be away for as long again, so that a start with many models, each in the cache,
    does not wait that long for each.
    """

    def __init__(
        self, location: str, key: str, store: Store, cache: ContentCache, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.location = location
        self._key = key
        self._store = store
        self._cache = cache
        self._clock = clock
        self._lock = threading.Lock()
        self._looks: dict[str, Listing] = {}
        self._away: SourceAway | None = None
        self._away_until = 0.0

    @property
    def counts(self) -> Counts:
        return self._cache.counts

    def models(self) -> list[str]:
        try:
            found = sorted(name for name in self._ask(self._store.models) if is_model_name(name))
        except SourceAway:
            kept = [name for name in self._cache.kept(self._key) if self._recalled(name) is not None]
            if not kept:
                raise
            return kept
        for gone in {*self._looks, *self._cache.kept(self._key)} - set(found):
            self._forget(gone)
        return found

    def look(self, model: str) -> Look | None:
        if not is_model_name(model):
            return None
        try:
            listing = self._listing(model)
        except SourceAway:
            listing = self._looks.get(model) or self._recalled(model)
            if listing is None:
                raise
            self._looks[model] = listing
        return listing.look() if listing else None

    def settings_folder(self, model: str) -> Path:
        return self._folder(model, SETTINGS)

    def version_folder(self, model: str, version: str) -> Path:
        return self._folder(model, version)

    def used(self, folders: frozenset[Path]) -> None:
        self._cache.used(folders)

    def _folder(self, model: str, version: str) -> Path:
        listing = self._looks.get(model) or (self._listing(model) if is_model_name(model) else None)
        for attempt in range(DOWNLOADS):
            files = _files(listing, model, version)
            try:
                return self._cache.folder_of(
                    self._owner(model), version, files, self._store, partial(self._still, model, version, files)
                )
            except Changed:
                listing = self._listing(model)
                if attempt + 1 == DOWNLOADS or _files(listing, model, version) == files:
                    raise
        raise AssertionError("unreachable")

    def _still(self, model: str, version: str, files: tuple[RemoteFile, ...]) -> bool:
        return _files(self._listing(model), model, version) == files

    def _listing(self, model: str) -> Listing | None:
        """What the root has of the model now; kept for when it is away."""
        files = self._files(model)
        if len(files) > MAX_FILES:
            raise LoadFailed(f"{len(files)} files, more than {MAX_FILES}")
        listing = Listing.of(files)
        if listing is None:
            self._ask(self._store.models)  # it is the model that is gone, not the root
            self._forget(model)
            return None
        before = self._looks.get(model)
        self._looks[model] = listing
        if listing != before:
            self._cache.remember(self._owner(model), LOOK, listing.to_json())
            for gone in set(before.versions if before else ()) - set(listing.versions):
                self._cache.drop(self._owner(model), gone)
        return listing

    def _files(self, model: str) -> list[RemoteFile]:
        """Raises SourceAway: for the root when that does not answer either, else for this model, and no other is kept waiting."""
        self._raise_if_away()
        began = self._clock()
        try:
            files = self._store.files(model)
        except SourceAway as error:
            self._ask(self._store.models, began)
            raise SourceAway(f"model {model}: {error}") from error
        self._answered()
        return files

    def _recalled(self, model: str) -> Listing | None:
        document = self._cache.recall(self._owner(model), LOOK)
        try:
            return Listing.from_json(document) if document else None
        except (KeyError, TypeError, AttributeError):  # of another release, or damaged
            return None

    def _forget(self, model: str) -> None:
        self._looks.pop(model, None)
        if is_model_name(model):
            self._cache.forget(self._owner(model))

    def _owner(self, model: str) -> str:
        return f"{self._key}/{model}"

    def _ask(self, question: Callable[[], T], began: float | None = None) -> T:
        """What the root answers, which is asked since `began`. Raises SourceAway, at once while it is taken to be away."""
        self._raise_if_away()
        began = self._clock() if began is None else began
        try:
            answer = question()
        except SourceAway as error:
            with self._lock:
                first = self._away is None
                self._away, self._away_until = error, 2 * self._clock() - began
            self.counts.add(away=1)
            if first:  # each look would say it again
                _log.warning("repository root is away", extra={"root": self.location, "reason": str(error)})
            raise
        self._answered()
        return answer

    def _raise_if_away(self) -> None:
        with self._lock:
            away = self._away if self._clock() < self._away_until else None
        if away is not None:
            raise SourceAway(*away.args)

    def _answered(self) -> None:
        with self._lock:
            back, self._away = self._away is not None, None
        if back:
            _log.info("repository root is back", extra={"root": self.location})


def _files(listing: Listing | None, model: str, version: str) -> tuple[RemoteFile, ...]:
    if listing is None:
        raise LoadFailed(f"model {quoted(model)}: no longer in the root")
    if version == SETTINGS:
        return listing.settings
    if why := listing.refused.get(version):
        raise LoadFailed(why)
    if version not in listing.versions:
        raise LoadFailed(f"model {quoted(model)}: version {quoted(version)} is no longer in the root")
    return listing.versions[version]

"""What changes in the repository's root while it is served."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from services.predictor.load_failed import LoadFailed
from services.predictor.repository.repository import NOTHING, Repository, local_roots
from services.predictor.repository.stirs import tell_of_changes
from services.predictor.source import Look, SourceAway

__all__ = ["Watch", "kept_up"]

Seen = Look | str | None  # what there is of a model; why that can't be told; nothing

_log = logging.getLogger(__name__)


@asynccontextmanager
async def kept_up(repository: Repository) -> AsyncIterator[None]:
    """While the context is open, what could not be loaded because its root was away is loaded when that is back; under `watch`
    models follow the root."""
    stirred, stop = asyncio.Event(), asyncio.Event()
    watch = Watch(repository, stirred.set)
    tasks = {asyncio.ensure_future(_follow(watch, stirred, repository.config.poll))}
    folders = local_roots(repository.config.root)
    telling = None
    if repository.config.mode == "watch" and folders:
        telling = asyncio.ensure_future(tell_of_changes(folders, stirred.set, repository.config.poll, stop))
        tasks.add(telling)
    try:
        yield
    finally:
        stop.set()  # the watch's thread looks at it every few milliseconds; a cancelled await would wait for its timeout
        for task in tasks - {telling}:
            task.cancel()
        await asyncio.wait(tasks)
        await watch.close()


class Watch:
    """Compares what the root has with what was loaded from it, a round at a time.

    What is different is acted on when it has stayed as it is for `settle`, so that no file is read half copied. Each model
    is loaded by itself: one that takes long, or fails, holds up no other. A root that is away changes nothing. `acted` is called
    when a model has been loaded, or dropped: its next round may find more.
    """

    def __init__(
        self, repository: Repository, acted: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._repository = repository
        self._config = repository.config
        self._acted = acted
        self._clock = clock
        self._unsettled: dict[str, tuple[Seen, float]] = {}  # what is new, and since when
        self._acting: dict[str, asyncio.Task[None]] = {}
        self._retried: dict[str, float] = {}  # when a model was last tried whose root was away

    async def round(self) -> float:
        """Look at everything once. Returns after how many seconds another look is due, if nothing stirs before."""
        if not self._repository.tried:
            await self._repository.load_all()
        if self._config.mode != "watch":
            for model in self._repository.models():
                if model.away:
                    self._retry(model.name)
            return self._config.poll
        there = await self._repository.listed()
        if there is None or not self._repository.tried:
            return self._config.poll
        if not there and self._repository.serving:
            # A volume that was unmounted leaves an empty folder: nobody takes every model away at once by that.
            self._repository.looks.note_away(
                SourceAway(f"{self._repository.source.location} is empty, where models were")
            )
            return self._config.poll
        named = self._config.models
        held = {model.name: model for model in self._repository.models()}
        names = sorted({*there, *held}) if named is None else named
        away: dict[str, SourceAway] = {}
        for name, found in (await self._repository.looks.each(names)).items():
            if name in self._acting:
                continue  # what is new when it is done is seen in the next round
            if isinstance(found, SourceAway):
                away[name] = found
                continue
            seen: Seen = str(found) if isinstance(found, LoadFailed) else found
            if seen is None and named is not None:
                seen = NOTHING  # it keeps its place in the index, with the reason
            holds = held.get(name)
            if seen == ((holds.unseen or holds.look) if holds else None):
                self._unsettled.pop(name, None)
                if holds and holds.away:
                    self._retry(name)
            elif self._is_settled(name, seen):
                self._act(name, seen)
        self._repository.looks.note_models_away(away)
        gone = self._unsettled.keys() - names
        for name in gone:
            del self._unsettled[name]
        now = self._clock()
        due = (since + self._config.settle - now for _, since in self._unsettled.values())
        return max(0.0, min(self._config.poll, *due)) if self._unsettled else self._config.poll

    async def done(self) -> None:
        """Return when everything that was begun is done."""
        while self._acting:
            await asyncio.wait(set(self._acting.values()))

    async def close(self) -> None:
        """Begin nothing more, and give up what was begun."""
        for task in self._acting.values():
            task.cancel()
        await self.done()

    def _is_settled(self, name: str, seen: Seen) -> bool:
        last, since = self._unsettled.get(name, (seen, self._clock()))
        if last != seen:
            since = self._clock()
        self._unsettled[name] = seen, since
        return self._clock() - since >= self._config.settle

    def _retry(self, name: str) -> None:
        """Try again what could not be asked for, as often as the root is looked at and not more often."""
        now = self._clock()
        self._retried = {name: at for name, at in self._retried.items() if now - at < self._config.poll}
        if name not in self._retried:
            self._retried[name] = now
            self._act(name, NOTHING)

    def _act(self, name: str, seen: Seen) -> None:
        if name in self._acting:
            return
        self._unsettled.pop(name, None)
        task = self._acting[name] = asyncio.ensure_future(self._follow(name, seen))

        def done(_: object) -> None:
            del self._acting[name]
            self._acted()

        task.add_done_callback(done)

    async def _follow(self, name: str, seen: Seen) -> None:
        try:
            if seen is None:
                await self._repository.forget(name)
            else:
                await self._repository.refresh(name)
        except LoadFailed:  # its reason is in the index and in the log
            return
        except Exception:
            _log.exception("unforeseen error while a change was followed", extra={"model": name})


async def _follow(watch: Watch, stirred: asyncio.Event, poll_s: float) -> None:
    wait_s = 0.0  # what changed while the first models were loaded
    while True:
        try:
            async with asyncio.timeout(wait_s):
                await stirred.wait()
        except TimeoutError:
            pass
        stirred.clear()
        try:
            wait_s = await watch.round()
        except Exception:
            _log.exception("unforeseen error while the repository was looked at")
            wait_s = poll_s

"""Asking the source what it has, without waiting for it on the event loop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from services.predictor.load_failed import LoadFailed
from services.predictor.repository.loader import Counts
from services.predictor.repository.loads import Loads, StillLoading
from services.predictor.source import Look, Source, SourceAway, is_model_name

__all__ = ["Looks"]

AT_A_TIME = 8  # for a bucket they are mostly waiting
TOGETHER = 64  # models, in one thread: a thread for each would cost more than the look
LISTING = ""  # what hangs, when it is no look at a model

Found = Look | LoadFailed | None
T = TypeVar("T")

_log = logging.getLogger(__name__)


class Looks:
    """What the source has. In threads of their own: a load that hangs does not hide what changes.

    What hangs is not asked for again while its thread lives, so that each costs one thread and not one a round.
    """

    def __init__(self, source: Source, timeout_s: float, counts: Counts) -> None:
        self._source = source
        self._counts = counts
        self._threads = Loads(AT_A_TIME, timeout_s)
        self._away = ""  # why it could not be asked the last time
        self._away_models: frozenset[str] = frozenset()
        self._hanging: set[str] = set()

    @property
    def given_up(self) -> int:
        """Threads that hang."""
        return self._threads.given_up

    async def models(self) -> list[str] | None:
        """The models that there are now; None when the source is away."""
        try:
            if LISTING in self._hanging:
                raise self._hangs(LISTING)
            there = await self._run(self._source.models, lambda: LISTING)
        except LoadFailed as failure:
            self.note_away(failure)
            return None
        if self._away:
            _log.info("the repository is back", extra={"root": self._source.location})
            self._away = ""
        return there

    async def one(self, model: str) -> Look | None:
        """What there is of a model now; None: nothing. Raises LoadFailed."""
        found = (await self.each([model]))[model]
        if isinstance(found, LoadFailed):
            raise found
        return found

    async def each(self, models: Sequence[str]) -> dict[str, Found]:
        """What there is of each of them now, or why that can't be told: SourceAway for one that hangs, and no other."""
        found: dict[str, Found] = {}
        for start in range(0, len(models), TOGETHER):
            some = models[start : start + TOGETHER]
            while left := [model for model in some if model not in found]:
                if hanging := self._hanging.intersection(left):
                    found |= {model: self._hangs(model) for model in hanging}
                    continue
                looks = _Together(self._source, left)
                try:
                    await self._run(looks, looks.stop)
                except SourceAway as away:
                    found |= dict.fromkeys([looks.at] if looks.at in self._hanging else left, away)
                found |= looks.found
        return found

    def note_away(self, failure: LoadFailed) -> None:
        """Count that the source could not be asked, and say so once."""
        self._counts.away += 1
        if not self._away:
            _log.warning("the repository can't be asked: what is loaded serves on", extra={"reason": str(failure)})
        self._away = str(failure)

    def note_models_away(self, failures: Mapping[str, SourceAway]) -> None:
        """Count the models that the source, which was listed, could not be asked for; say of each so once."""
        self._counts.away += len(failures)
        for model in failures.keys() - self._away_models:
            told = {"model": model, "reason": str(failures[model])}
            _log.warning("a model can't be asked for: what is loaded of it serves on", extra=told)
        self._away_models = frozenset(failures)

    async def _run(self, work: Callable[[], T], at: Callable[[], str]) -> T:
        """What the work returns. Raises SourceAway when it takes too long, and notes where it was then, until it ends."""
        hangs: str | None = None

        def ended(_: object) -> None:
            if hangs is not None:
                self._hanging.discard(hangs)

        try:
            return await self._threads.run(work, too_late=ended)
        except StillLoading:
            hangs = at()
            self._hanging.add(hangs)
            raise self._hangs(hangs) from None
        except SourceAway:
            raise
        except LoadFailed as failure:  # no thread can be had
            raise SourceAway(str(failure)) from None

    def _hangs(self, what: str) -> SourceAway:
        asked = f"model {what}" if what else "its listing"
        return SourceAway(
            f"{self._source.location}: {asked} has not been answered for in {self._threads.timeout_text()}"
        )


class _Together:
    """Looks at some models, one after the other in one thread."""

    def __init__(self, source: Source, models: Sequence[str]) -> None:
        self.found: dict[str, Found] = {}
        self.at = models[0]
        self._source = source
        self._models = models
        self._stopped = False
        self._lock = threading.Lock()

    def __call__(self) -> None:
        for model in self._models:
            with self._lock:
                if self._stopped:
                    return
                self.at = model
            try:
                self.found[model] = self._source.look(model) if is_model_name(model) else None
            except LoadFailed as failure:
                self.found[model] = failure
            except Exception as error:
                _log.exception("unforeseen error while a model was looked at", extra={"model": model})
                self.found[model] = LoadFailed(f"{type(error).__name__}; the log says more")

    def stop(self) -> str:
        """Look at no further model; the one that is being looked at."""
        with self._lock:
            self._stopped = True
            return self.at

"""Several roots as one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from time import monotonic

from infermesh.errors import quoted
from services.predictor.load_failed import LoadFailed
from services.predictor.source.asked import Asked
from services.predictor.source.counts import Counts
from services.predictor.source.source import Look, Source, SourceAway

__all__ = ["Several"]

LATE_S = 1.5  # that the others wait for a root that is slow
WAIT_S = 40.0  # that a root is waited for when it alone can answer; a URL ends sooner by itself, and its cache answers
STALE_S = 60.0  # an answer that came late is of use for so long

_log = logging.getLogger(__name__)


class Several:
    """The models of all roots, which are asked at the same time. A name that two of them have is refused when it is looked at:
    which one was meant nobody can tell, and an order among roots would let one hide another's model.

    A root that is away, or takes longer than `late_s`, hides no other and holds none back: its models are those that it had
    when it last answered, and what it answers late is used the next time. A model that it alone may have is waited for `wait_s`.
    """

    def __init__(
        self, roots: Sequence[Source], counts: Counts, *, late_s: float = LATE_S, wait_s: float = WAIT_S
    ) -> None:
        self.location = ", ".join(root.location for root in roots)
        self.counts = counts
        self._roots = [Asked(root) for root in roots]
        self._late_s = late_s
        self._wait_s = wait_s
        self._lock = threading.Lock()
        self._listings: dict[Asked, tuple[Future[list[str]], float]] = {}  # that were not there in time, and since when
        self._names: dict[Asked, frozenset[str]] = dict.fromkeys(self._roots, frozenset())
        self._away: frozenset[Asked] = frozenset()
        self._owners: dict[str, Source] = {}

    @property
    def away(self) -> frozenset[str]:
        """The roots that could not be asked the last time."""
        return frozenset(asked.root.location for asked in self._away)

    def models(self) -> list[str]:
        """Raises SourceAway when no root can be asked."""
        until = monotonic() + self._late_s
        begun: dict[Asked, Future[list[str]]] = {}
        faults: dict[Asked, str] = {}
        for asked in self._roots:
            try:
                begun[asked] = self._listing(asked)
            except SourceAway as away:
                faults[asked] = str(away)
        for asked, listing in begun.items():
            try:
                names_now = asked.result("", listing, until - monotonic(), self._late_s)
            except LoadFailed as away:
                faults[asked] = str(away)
            else:
                self._names[asked] = frozenset(names_now)
            if listing.done():
                with self._lock:
                    self._listings.pop(asked, None)
        for asked in faults.keys() - self._away:  # each look would say it again
            _log.warning("repository root is away", extra={"root": asked.root.location, "reason": faults[asked]})
        self._away = frozenset(faults)
        names = sorted(frozenset().union(*self._names.values()))
        if len(faults) == len(self._roots) and not names:
            raise SourceAway("; ".join(faults[asked] for asked in self._roots))
        for gone in set(self._owners) - set(names):
            self._owners.pop(gone, None)
        return names

    def look(self, model: str) -> Look | None:
        """Raises LoadFailed naming the roots when several have the model."""
        owners = [asked for asked in self._roots if model in self._names[asked]]
        others = [asked for asked in self._roots if asked not in owners]
        found, away = self._looks(model, owners, [asked for asked in others if asked not in self._away])
        if not found:  # else what is away is not asked: it would hold up what the others have
            more, fault = self._looks(model, [], [asked for asked in others if asked in self._away])
            found, away = found + more, away or fault
        if len(found) > 1:
            roots = " and ".join(root.location for root, _ in found)
            raise LoadFailed(f"model {quoted(model)} is in {roots}; expected it in one root")
        if not found:
            self._owners.pop(model, None)
            if away is not None:  # it may be there
                raise away
            return None
        root, look = found[0]
        self._owners[model] = root
        return look

    def settings_folder(self, model: str) -> Path:
        return self._owner(model).settings_folder(model)

    def version_folder(self, model: str, version: str) -> Path:
        return self._owner(model).version_folder(model, version)

    def used(self, folders: frozenset[Path]) -> None:
        for asked in self._roots:
            asked.root.used(folders)

    def _listing(self, asked: Asked) -> Future[list[str]]:
        """The one that was too late the last time, or else a new one."""
        with self._lock:
            listing, since = self._listings.pop(asked, (None, 0.0))
            if listing is None or (listing.done() and monotonic() - since > STALE_S):
                listing, since = asked.begin("", asked.root.models), monotonic()
            self._listings[asked] = listing, since
        return listing

    def _looks(
        self, model: str, owners: Sequence[Asked], others: Sequence[Asked]
    ) -> tuple[list[tuple[Source, Look]], SourceAway | None]:
        """What these roots have of the model, and why one of them can't tell. Raises the fault of one that has listed it."""
        began = monotonic()
        begun: list[tuple[Asked, Future[Look | None]]] = []
        found: list[tuple[Source, Look]] = []
        away: SourceAway | None = None
        for asked in (*owners, *others):
            try:
                begun.append((asked, asked.begin(model, partial(asked.root.look, model))))
            except SourceAway as error:
                if asked in owners:
                    raise
                away = error
        for asked, answer in begun:
            given_s = self._late_s if found else self._wait_s
            try:
                look = asked.result(model, answer, began + given_s - monotonic(), given_s)
            except SourceAway as error:
                if asked in owners:
                    raise
                away = error
                continue
            if look is not None:
                found.append((asked.root, look))
        return found, away

    def _owner(self, model: str) -> Source:
        if model not in self._owners:
            self.look(model)
        owner = self._owners.get(model)
        if owner is None:
            raise LoadFailed(f"model {quoted(model)}: in none of {self.location}")
        return owner

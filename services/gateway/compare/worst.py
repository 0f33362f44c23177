"""The worst disagreements, with request ids, so that somebody can look at them."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from services.gateway.compare.match import Match

__all__ = ["Disagreement", "Worst", "severity"]

MAX_ID = 128  # characters of a request id that are kept
_KINDS = {"nonfinite": 3, "label": 2, "largest_column": 2, "rises": 2, "falls": 2, "outside": 1}
_STRUCTURE = 4
_KEPT = 8  # differences of one call that are named


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One call: how bad, what differs, and where it differs most what both say."""

    request_id: str
    at_s: float  # wall clock, seconds since 1970
    severity: float
    what: tuple[str, ...]
    where: str
    primary: str
    other: str


def severity(match: Match) -> float:
    """0: nothing to show. From 4: structure; 3: NaN or infinity; 2: label, largest column, threshold; 1: tolerance.

    Within a kind, by the relative difference.
    """
    worst = float(_STRUCTURE if match.structure else 0)
    for each in match.outputs:
        kind = max((_KINDS[event.what] for event, happened in each.events.items() if happened), default=0)
        if kind:
            worst = max(worst, kind + (each.distance.max_rel / 2.5 if each.distance else 0.0))
    return worst


class Worst:
    """At most `size` disagreements, the worst; of equal ones those that came first stay."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[tuple[float, int, Disagreement]] = []  # the least first; of equals, the latest
        self._came = 0

    def __len__(self) -> int:
        return len(self._heap)

    def consider(self, request_id: str, at_s: float, match: Match) -> None:
        """Keep a call if it is among the worst; what it said is written out only then."""
        bad = severity(match)
        if bad and (len(self._heap) < self._size or bad > self._heap[0][0]):
            self._keep(_described(request_id, at_s, bad, match))

    def worst_first(self) -> list[Disagreement]:
        """All that are kept."""
        return [each for _, _, each in sorted(self._heap, key=lambda each: (-each[0], -each[1]))]

    def state(self) -> list[dict[str, Any]]:
        """All that it knows, ready for JSON."""
        return [{**asdict(each), "what": list(each.what)} for each in self.worst_first()]

    @classmethod
    def restored(cls, state: Iterable[Mapping[str, Any]], size: int) -> Worst:
        """The reservoir whose `state` this is."""
        made = cls(size)
        for each in list(state)[:size]:
            made._keep(Disagreement(**{**each, "what": tuple(each["what"])}))
        return made

    def _keep(self, disagreement: Disagreement) -> None:
        self._came += 1
        entry = (disagreement.severity, -self._came, disagreement)
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)


def _described(request_id: str, at_s: float, bad: float, match: Match) -> Disagreement:
    what, place, most = list(match.structure), ("", "", ""), 0.0
    for each in match.outputs:
        happened = [event for event, did in each.events.items() if did]
        what += [" ".join(filter(None, event)) for event in happened]
        far = max((_KINDS[event.what] for event in happened), default=0) + (
            each.distance.max_rel / 2.5 if each.distance else 0
        )
        if happened and far > most:
            most, place = far, each.shown()
    return Disagreement(request_id[:MAX_ID], at_s, bad, tuple(what[:_KEPT]), *place)

"""One view as one feature service uses it: the keys of its rows, what is served of them, and what is known of each value."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from services.transformer.columns import Rows
from services.transformer.entities import Entities
from services.transformer.found import Served
from services.transformer.keys import key_prefix
from services.transformer.layout.stored import Packed, layout_of
from services.transformer.policy import RowPolicy
from services.transformer.row import NEVER
from services.transformer.statuses import Matrix, Status
from services.transformer.tally import Tally
from services.transformer.views import UsedView

__all__ = ["Use"]

_PRESENT = Served.PRESENT
MAX_PARTIAL = 64
UNKNOWN = 2**63 - 1  # later than any event time


class Use:
    """A view under the name that it has in a service.

    `used` are the features that the service takes. `entity` is what the ids of a request are found under: the name of their
    input, or for an entity of several keys the names of all.
    """

    def __init__(self, alias: str, use: UsedView, used: Collection[str], prefix: str, tally: Tally) -> None:
        self.alias = alias
        self.inputs = use.inputs
        self.entity = " ".join(use.inputs)
        self.features = [feature.name for feature in use.view.features if feature.name in used]
        """Those that are taken, in the order of the view."""
        self.policy = self._policy(use, used, tally.found)
        entity = {key.name: key.type for key in use.view.entity.parts}
        self.layout = layout_of(
            use.view.layout, self.policy.format, prefix=prefix, view=use.name, entity=entity, used=used
        )
        self.is_packed = isinstance(self.layout, Packed)
        self.prefix = key_prefix(prefix, use.name)  # of its keys, if they are those of packed rows
        self._use, self._tally = use, tally
        self._partial: dict[tuple[str, ...], RowPolicy] = {}
        self._width = len(self.features)
        layout = self.policy.format
        self.has_texts = bool(layout.texts)
        """Whether only the rows themselves say how long they are."""
        taken = {at for at, column in enumerate(layout.schema) if column.name in used}
        self._times = [group.event_time for group in layout.groups if taken & set(group.positions)]
        self._time = self._times[0] if len(layout.groups) == 1 else None  # where rows of earlier schemas have it too

    def serve(self, found: Sequence[bytes | None], entities: Entities, now_us: int) -> tuple[Rows, Served]:
        """The rows of all entities, from what their keys held. Raises FailedPrecondition where a policy says fail."""
        if entities.overrides:
            return self._serve_the_rest(found, entities, now_us)
        rows, served = self.policy.serve(found, entities.ids[self.entity], now_us)
        tally = self._tally
        if served is _PRESENT:
            tally.values[0] += len(found) * self._width
            if len(found) == 1 and self._time is not None:  # a request for one entity should not pay for numpy
                event_time_us = int.from_bytes(found[0][self._time], "little", signed=True)  # type: ignore[index]  # it is present
                tally.ages.add((now_us - event_time_us) / 1e6 if event_time_us < now_us else 0.0)
                return rows, served
        else:
            self._count(self.policy.statuses(found, now_us))
        self._observe_age(rows, now_us)
        return rows, served

    def _serve_the_rest(self, found: Sequence[bytes | None], entities: Entities, now_us: int) -> tuple[Rows, Served]:
        """The same for a request that brings some of the features itself."""
        policy = self._without(entities)
        if policy is None:
            rows, served = self.policy.defaults(entities.rows), Served.PRESENT
        else:
            rows, served = policy.serve(found, entities.ids[self.entity], now_us)
        self._count(self.statuses(found, entities, now_us))
        return rows, served

    def serve_unavailable(
        self, entities: Entities, why: str, kept: Sequence[bytes | None] | None = None, now_us: int = 0
    ) -> tuple[Rows, Served]:
        """The rows of all entities while the store does not answer: those that are `kept`, else defaults.

        Where nothing is known of some, `kept` has UNANSWERED. Raises Unavailable and FailedPrecondition where a policy says fail.
        """
        policy = self._without(entities) if entities.overrides else self.policy
        if policy is None:
            rows, served = self.policy.defaults(entities.rows), Served.REDIS_UNAVAILABLE
        elif kept is None:
            rows, served = policy.serve_unavailable(entities.rows, why)
        else:
            rows, served = policy.serve_kept(kept, entities.ids[self.entity], now_us, why)
            self._observe_age(rows, now_us)
        self._count(self.statuses(kept, entities, now_us, kept=True))
        return rows, served

    def statuses(
        self, found: Sequence[bytes | None] | None, entities: Entities, now_us: int, *, kept: bool = False
    ) -> Matrix:
        """(N, features) for what was served; `found` is None when the store did not answer, or what was `kept` then."""
        if found is None:
            matrix = np.full((entities.rows, len(self.features)), Status.DEFAULTED, np.uint8)
        else:
            matrix = self.policy.statuses(found, now_us, kept=kept)
        for at, feature in enumerate(self.features):
            if (self.alias, feature) in entities.overrides:
                matrix[:, at] = Status.OVERRIDDEN
        return matrix

    def count_given(self, rows: int) -> None:
        """Count the values of so many rows that a caller gave whole, in the place of ids."""
        self._tally.values[Status.OVERRIDDEN] += rows * self._width

    def _without(self, entities: Entities) -> RowPolicy | None:
        """The policies for the features that the request does not bring itself, which nobody misses; None if it brings all."""
        left = [feature for feature in self.features if (self.alias, feature) not in entities.overrides]
        if len(left) == len(self.features):
            return self.policy
        if not left:
            return None
        policy = self._partial.get(tuple(left))
        if policy is None:
            if len(self._partial) >= MAX_PARTIAL:  # a caller may try all there are
                self._partial.clear()
            policy = self._partial[tuple(left)] = self._policy(self._use, left, self._tally.found)
        return policy

    def _count(self, statuses: Matrix) -> None:
        for status, count in enumerate(np.bincount(statuses.ravel()).tolist()):
            self._tally.values[status] += count

    def _observe_age(self, rows: Rows, now_us: int) -> None:
        """Add the age of the oldest row that was served, in its oldest used group; defaults have the event time 0, and no age."""
        oldest = min([int(_times(rows, t).min(initial=UNKNOWN)) for t in self._times])
        if oldest <= 0:  # of a default, of what was never written, or of a time before 1970
            known = [times[(times != 0) & (times != NEVER)] for times in [_times(rows, t) for t in self._times]]
            oldest = min([int(times.min(initial=UNKNOWN)) for times in known])
        if oldest != UNKNOWN:
            self._tally.ages.add((now_us - oldest) / 1e6 if oldest < now_us else 0.0)

    @staticmethod
    def _policy(use: UsedView, used: Collection[str], observe: Callable[[str, int], None]) -> RowPolicy:
        return RowPolicy(use.name, use.view, used, observe)


def _times(rows: Rows, event_time: slice) -> NDArray[np.int64]:
    times: NDArray[np.int64] = rows[:, event_time].view("<i8")
    return times if type(times) is np.ndarray else times.view(np.ndarray)

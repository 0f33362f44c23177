"""What a caller hears where a policy says `fail`: view, entity, feature, what is the matter, and how many others there are."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from infermesh.errors import FailedPrecondition, Unavailable, quoted
from services.transformer.judged import Judged
from services.transformer.layout.ages import AgedGroup
from services.transformer.row import RowFormat
from services.transformer.stored_rows import Mask

__all__ = ["Refusals"]

LOGGED_REASONS = 16  # foreign rows come in floods; each reason is logged once

_log = logging.getLogger(__name__)


class Refusals:
    """The errors about one view as one feature service uses it; `used` are the names of the features that it takes."""

    def __init__(self, name: str, layout: RowFormat, used: Sequence[str]) -> None:
        self._name = name
        self._format = layout
        self._used = used
        self._logged: set[str] = set()

    def missing(self, found: Judged, entities: Sequence[bytes], must: Mask) -> None:
        """Raises FailedPrecondition if a row, or one of the used features that `must` be there, is not."""
        absent = found.missing | found.foreign
        nulls = found.nulls & must
        faulty = absent | nulls.any(axis=1)
        if not faulty.any():
            return
        first = int(faulty.argmax())
        row, is_foreign = found.rows[first], bool(found.foreign[first])
        if absent[first]:
            names = [self._used[at] for at in np.flatnonzero(must).tolist()]
        else:
            names = [self._used[int(nulls[first].argmax())]]
        what = "no row" if row is None else self._format.why_foreign(row) if is_foreign else "null"
        raise FailedPrecondition(
            f"{self._where(entities[first], names)}: {what} (missing: fail){_more(faulty)}",
            reason="FEATURE_FOREIGN" if is_foreign else "FEATURE_MISSING",
        )

    def stale(self, found: Judged, entities: Sequence[bytes], aged: Sequence[AgedGroup], now_us: int) -> None:
        """Raises FailedPrecondition if a group is too old whose policy is `fail`."""
        failing = [
            (group, mask)
            for group, mask in zip(aged, found.stale, strict=True)
            if group.policy == "fail" and mask.any()
        ]
        if not failing:
            return
        stale = np.logical_or.reduce([mask for _, mask in failing])
        first = int(stale.argmax())
        group = next(group for group, mask in failing if mask[first])
        names = [self._format.schema[position].name for position in group.positions] or self._used
        age_s = (now_us - int(group.event_times(found.table)[first])) / 1e6
        raise FailedPrecondition(
            f"{self._where(entities[first], names)}: {age_s:.0f} s old, expected at most "
            f"{group.max_age_us / 1e6:.0f} s (stale: fail){_more(stale)}",
            reason="FEATURE_STALE",
        )

    def unavailable(self, why: str) -> Unavailable:
        """The error while the store does not answer."""
        return Unavailable(
            f"feature store: {why}; view {quoted(self._name)} is not served without it (unavailable: fail)",
            reason="FEATURE_STORE_UNAVAILABLE",
            rejected=True,  # nothing has been asked of a model yet
        )

    def log_foreign(self, found: Judged, entities: Sequence[bytes]) -> None:
        """Log the first row that is not of the view's schema."""
        first = int(found.foreign.argmax())
        row = found.rows[first]
        reason = self._format.why_foreign(row) if row is not None else ""
        if reason not in self._logged and len(self._logged) < LOGGED_REASONS:
            self._logged.add(reason)
            fields = {"view": self._name, "entity": quoted(entities[first]), "reason": reason}
            _log.error("a stored row is not of the view's schema", extra=fields)

    def _where(self, entity: bytes, names: Sequence[str]) -> str:
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return f"feature view {quoted(self._name)}: entity {quoted(entity)}: feature {quoted(names[0])}{others}"


def _more(mask: Mask) -> str:
    others = int(mask.sum()) - 1
    return f"; {others} more entities likewise" if others else ""

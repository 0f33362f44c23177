"""Rows of a view's previous schemas: read as rows of the present one while a migration lasts."""

from __future__ import annotations

from collections.abc import Sequence

from services.transformer.row import MARK_BYTES, NEVER, ForeignRow, RowFormat, UnreadableRow
from services.transformer.schema import Column

__all__ = ["PreviousSchemas"]


class PreviousSchemas:
    """Turns rows of earlier schemas into rows of the present one. Features are known by their names: what is new is null.

    A group has the oldest event time of those that its features come from. Raises ValueError for a feature that had another
    datatype or shape: one name would mean two things.
    """

    def __init__(self, present: RowFormat, previous: Sequence[Sequence[tuple[str, str] | Column]]) -> None:
        self._present = present
        self._formats: dict[bytes, RowFormat] = {}
        self._sources: dict[bytes, list[int | None]] = {}
        for number, columns in enumerate(previous):
            earlier = RowFormat(columns)
            if earlier.mark == present.mark or earlier.mark in self._formats:
                raise ValueError(f"previous.{number}: is the present schema, or stands twice")
            self._formats[earlier.mark] = earlier
            self._sources[earlier.mark] = _sources(earlier, present, number)

    def __bool__(self) -> bool:
        return bool(self._formats)

    def knows(self, row: bytes) -> bool:
        """Whether a row says that it is of a previous schema."""
        return row[:MARK_BYTES] in self._formats

    def upgraded(self, row: bytes) -> bytes:
        """The row in the present schema; of a row that is damaged, one that is foreign and says why."""
        earlier = self._formats[row[:MARK_BYTES]]
        try:
            values = earlier.unpack(row).values
        except ForeignRow as error:
            return UnreadableRow(f"previous schema {earlier.fingerprint:08x}: {error}")
        sources = self._sources[row[:MARK_BYTES]]
        times = dict(zip((group.name for group in earlier.groups), earlier.event_times(row), strict=True))
        oldest = []
        for group in self._present.groups:
            taken = [sources[position] for position in group.positions]
            oldest.append(min((times[earlier.schema[at].group] for at in taken if at is not None), default=NEVER))
        return self._present.pack_fitting([None if at is None else values[at] for at in sources], oldest)


def _sources(earlier: RowFormat, present: RowFormat, number: int) -> list[int | None]:
    positions = {column.name: position for position, column in enumerate(earlier.schema)}
    for column in present.schema:
        if column.name in positions:
            before = earlier.schema[positions[column.name]]
            if (before.datatype, before.shape) != (column.datatype, column.shape):
                raise ValueError(
                    f'previous.{number}: feature "{column.name}": was {before.datatype} {list(before.shape)}, is '
                    f"{column.datatype} {list(column.shape)}: another datatype or shape needs another name"
                )
    return [positions.get(column.name) for column in present.schema]

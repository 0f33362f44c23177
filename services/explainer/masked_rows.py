"""The rows that a model is asked about: some columns from a row to explain, the others from a background row."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from infermesh.tensors import Array
from services.explainer.coalitions import Masks
from services.explainer.players import Players
from services.explainer.signature import TensorSpec
from services.explainer.threads import Between

__all__ = ["Distinct", "Index", "MaskedRows"]

Index = NDArray[np.intp]
Keys = NDArray[np.uint64]

HASH_SEED = 20_090_101  # any constant: keys never leave the process


def _go_on() -> None:
    pass


class Distinct(NamedTuple):
    """The distinct ones among composite rows: who they are made of, and where each of all composites is among them."""

    row: Index  # [distinct] the row to explain
    coalition: Index  # [distinct]
    background: Index  # [distinct]
    place: Index  # [rows, coalitions, backgrounds], or [rows, coalitions] of one background row each → 0 … distinct-1


class MaskedRows:
    """Background rows and rows to explain, one table per input: row `i` of all is a background row while i < backgrounds.

    Elements of BYTES tables carry their length prefix, as raw contents want them: they are framed once and not per row that
    is sent. Arrays are never changed, so threads may read them.
    """

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        players: Players,
        background: Mapping[str, Array],
        rows: Mapping[str, Array],
        between: Between = _go_on,
    ) -> None:
        """`between` is called between parts of the work, which takes seconds for ten thousand rows of a thousand features."""
        self.specs = tuple(inputs)
        first = inputs[0].name
        self.backgrounds = len(background[first])
        self.rows = len(rows[first])
        self.row_shapes = [rows[spec.name].shape[1:] for spec in inputs]
        self._players = len(players)
        self._of_column = [players.of_column[spec.name] for spec in inputs]
        self._tables = [_table(spec, background[spec.name], rows[spec.name]) for spec in inputs]
        self.row_bytes = sum(_row_bytes(spec, table) for spec, table in zip(inputs, self._tables, strict=True))
        self._keys, self._more_keys = self._keys_of_values(between)

    def plain(self, rows: Index) -> list[bytes]:
        """Raw contents of rows as they are, by their number in the tables."""
        return [_raw(table[rows]) for table in self._tables]

    def masked(self, rows: Index, masks: Masks, backgrounds: Index) -> list[bytes]:
        """Raw contents: per composite row the row that it explains, its mask [composites, players], its background row."""
        contents = []
        for table, of_column in zip(self._tables, self._of_column, strict=True):
            contents.append(_raw(np.where(masks[:, of_column], table[self.backgrounds + rows], table[backgrounds])))
        return contents

    def distinct(self, masks: Masks, rows: range) -> Distinct:
        """The distinct ones of all rows × masks × backgrounds, by value: what is equal is asked once.

        Each value of each player has a random 64-bit key, and a composite's key is the sum of its values' (Zobrist, "A new
        hashing method", 1970), so that all keys are two matrix products. A second set of keys tells when two different
        composites got one key, which then are kept apart; both at once has a chance below 1e-26 per million composites.
        """
        shape = (len(rows), len(masks), self.backgrounds)
        known, unknown = masks.astype(np.uint64), (~masks).astype(np.uint64)

        def keys(of: Keys) -> Keys:
            own = of[self.backgrounds + rows.start : self.backgrounds + rows.stop] @ known.T  # [rows, coalitions]
            rest = unknown @ of[: self.backgrounds].T  # [coalitions, backgrounds]
            return (own[:, :, None] + rest[None]).ravel()

        first, place = _first(keys(self._keys), lambda: keys(self._more_keys))
        rest, background = np.divmod(first, shape[2])
        row, coalition = np.divmod(rest, shape[1])
        return Distinct(rows.start + row, coalition, background, place.reshape(shape))

    def distinct_apart(self, masks: Masks, backgrounds: Index, rows: range) -> Distinct:
        """The same of all rows × masks, where each mask goes with the one background row beside it; `place` is of
        [rows, masks]."""
        known, unknown = masks.astype(np.uint64), (~masks).astype(np.uint64)

        def keys(of: Keys) -> Keys:
            own = of[self.backgrounds + rows.start : self.backgrounds + rows.stop] @ known.T  # [rows, masks]
            rest: Keys = (unknown * of[backgrounds]).sum(axis=1, dtype=np.uint64)
            return (own + rest).ravel()

        first, place = _first(keys(self._keys), lambda: keys(self._more_keys))
        row, mask = np.divmod(first, len(masks))
        return Distinct(rows.start + row, mask, backgrounds[mask], place.reshape(len(rows), len(masks)))

    def _keys_of_values(self, between: Between) -> tuple[Keys, Keys]:
        """[backgrounds + rows, players] twice: equal values of a player have equal keys. Floats are told apart by their bits."""
        draw = np.random.default_rng(HASH_SEED)
        size = (self.backgrounds + self.rows, self._players)
        keys = (np.zeros(size, np.uint64), np.zeros(size, np.uint64))
        for table, of_column in zip(self._tables, self._of_column, strict=True):
            for column, player in enumerate(of_column):
                between()
                values, number = np.unique(_comparable(table[:, column]), return_inverse=True)
                for each in keys:
                    each[:, player] += draw.integers(0, 2**64, len(values), np.uint64)[number]
        return keys


def _first(keys: Keys, more: Callable[[], Keys]) -> tuple[Index, Index]:
    """The first of all composites of each key, and where each composite is among those."""
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    check = more()
    if not np.array_equal(check, check[first][place]):
        first = place = np.arange(check.size)
    return first, place


def _table(spec: TensorSpec, background: Array, rows: Array) -> Array:
    table = np.concatenate([background.reshape(len(background), -1), rows.reshape(len(rows), prod(rows.shape[1:]))])
    if spec.datatype != "BYTES":
        return table
    framed = np.empty(table.shape, np.object_)
    framed.ravel()[:] = [struct.pack("<I", len(element)) + element for element in table.ravel().tolist()]
    return framed


def _row_bytes(spec: TensorSpec, table: Array) -> int:
    """Of the longest row that can be put together."""
    if spec.datatype != "BYTES":
        return int(table.itemsize) * int(table.shape[1])
    return sum(max(len(element) for element in column) for column in table.T.tolist())


def _raw(rows: Array) -> bytes:
    return b"".join(rows.ravel().tolist()) if rows.dtype == np.object_ else rows.tobytes()


def _comparable(column: Array) -> Array:
    return column if column.dtype == np.object_ else np.ascontiguousarray(column).view(f"u{column.itemsize}")

"""The distributions that are watched: of each output the first columns, in one row of each call."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import numpy as np

from services.gateway.compare.match import OutputMatch
from services.gateway.compare.plain import label_key, short
from services.gateway.compare.psi import PsiTest, psi, psi_test
from services.gateway.compare.report import ShiftReport
from services.gateway.compare.shift import MAX_LABELS, ColumnShift, LabelShift
from services.gateway.compare_config import CompareConfig

__all__ = ["MAX_SHIFTS", "Shifts"]

MAX_SHIFTS = 64  # columns and labels of all outputs together; the first ones
_DRAWS, _MOST_DRAWS = 999, 9999
_STOP = 20  # redraws as large or larger: p is 0.02 or more after 999
_GROWN = 1.1  # a column is tested anew when it has so many times the pairs of its last test

Name = tuple[str, str]  # output, column


class Shifts:
    """Every watched column by output and name of the column; empty where an output has but one."""

    def __init__(self, config: CompareConfig, draw: Random) -> None:
        self._config = config
        self._draw = draw
        self._columns: dict[Name, ColumnShift | LabelShift] = {}
        self._tested: dict[Name, tuple[int, PsiTest]] = {}  # by how many pairs
        self.past = 0  # columns of calls that were not counted for want of a place

    def add(self, outputs: Sequence[OutputMatch]) -> None:
        """Count one row of a call."""
        at = self._draw.random()
        for output in outputs:
            first, second = output.primary.rows(), output.other.rows()
            rows, width = first.shape
            row = int(at * rows)
            watched = min(width, self._config.columns)
            values = zip(first[row, :watched].tolist(), second[row, :watched].tolist(), strict=True)
            for column, (a, b) in enumerate(values):
                name = (output.name, self._config.column_name(column, width) if width > 1 else "")
                shift = self._columns.get(name) or self._begun(name, output.primary.is_float)
                if isinstance(shift, ColumnShift) and output.primary.is_float:
                    shift.add(a, b)
                elif isinstance(shift, LabelShift) and not output.primary.is_float:
                    shift.add(label_key(a), label_key(b))
                else:
                    self.past += 1

    @property
    def waiting(self) -> list[tuple[Name, int]]:
        """Columns that have too few pairs to be judged, with how many they have."""
        return [(name, each.count) for name, each in self._columns.items() if each.table() is None]

    def tests(self, seed: int, family: int, most_draws: int = _MOST_DRAWS) -> dict[Name, PsiTest]:
        """The test of each column that has bins; `family` is how many tests there are besides, which need smaller p-values.

        One that was tested stands until the column has grown by a tenth. A column takes up to some 0.1 s where it differs and has
        many bins, and a few ms where it does not.
        """
        tables = {name: table for name, each in self._columns.items() if (table := each.table()) is not None}
        draws = min(most_draws, max(_DRAWS, math.ceil(2 * (len(tables) + family) / self._config.alpha)))
        tests: dict[Name, PsiTest] = {}
        for at, (name, table) in enumerate(tables.items()):
            count = int(table.sum())
            before, test = self._tested.get(name, (0, None))
            if test is None or count >= _GROWN * before:
                test = psi_test(table, np.random.default_rng([seed, at, count]), draws, stop=_STOP)
                if draws:  # none: nothing is known but that it can be reckoned
                    self._tested[name] = count, test
            tests[name] = test
        return tests

    def reports(self, tests: Mapping[Name, PsiTest], adjusted: Mapping[Name, float]) -> list[ShiftReport]:
        """What is known of each column."""
        return [self._report(name, each, tests.get(name), adjusted.get(name)) for name, each in self._columns.items()]

    def state(self) -> dict[str, Any]:
        """All that it knows, ready for JSON."""
        columns = [
            {"output": output, "column": column, "floating": isinstance(each, ColumnShift), "shift": each.state()}
            for (output, column), each in self._columns.items()
        ]
        return {"past": self.past, "columns": columns}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state` was."""
        self.past = int(state["past"])
        for each in state["columns"]:
            name = (str(each["output"]), str(each["column"]))
            if each["floating"]:
                self._columns[name] = ColumnShift.restored(each["shift"], self._config.bins, self._config.bin_from)
            else:
                self._columns[name] = LabelShift.restored(each["shift"])

    def _begun(self, name: Name, floating: bool) -> ColumnShift | LabelShift | None:
        if len(self._columns) >= MAX_SHIFTS:
            return None
        begun = ColumnShift(self._config.bins, self._config.bin_from) if floating else LabelShift()
        self._columns[name] = begun
        return begun

    def _report(
        self, name: Name, shift: ColumnShift | LabelShift, test: PsiTest | None, adjusted: float | None
    ) -> ShiftReport:
        table = shift.table()
        first: tuple[int, ...] = ()
        second: tuple[int, ...] = ()
        found = None
        if table is not None:
            first, second = tuple(table.sum(1).tolist()), tuple(table.sum(0).tolist())
            found = test.psi if test else float(psi(np.array(first, float), np.array(second, float)))
        mean = low = high = None
        if isinstance(shift, ColumnShift):
            mean, (low, high) = shift.mean.mean, shift.mean.interval()
        bins = _bins(shift)
        return ShiftReport(
            *name, shift.count, found, test.p if test else None, adjusted, mean, low, high, bins, first, second
        )


def _bins(shift: ColumnShift | LabelShift) -> tuple[str, ...]:
    if isinstance(shift, LabelShift):
        return (*shift.places, "other") if len(shift.places) == MAX_LABELS else tuple(shift.places)
    if shift.edges is None:
        return ()
    return (*(f"< {short(edge)}" for edge in shift.edges), "above", "NaN")

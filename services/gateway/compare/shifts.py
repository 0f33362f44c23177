"""The distributions that are watched: of each output the first columns, in one row of each call."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import numpy as np

from services.gateway.compare.match import OutputMatch
from services.gateway.compare.plain import label_key, short
from services.gateway.compare.psi import PsiTest, psi, psi_test, swaps
from services.gateway.compare.report import ShiftReport
from services.gateway.compare.shift import MAX_LABELS, ColumnShift, LabelShift
from services.gateway.compare_config import CompareConfig

__all__ = ["AT_ONCE", "MAX_SHIFTS", "MOST_DRAWS", "Shifts"]

MAX_SHIFTS = 64  # columns and labels of all outputs together; the first ones
_DRAWS, MOST_DRAWS = 999, 19_999
_STOP = 20  # redraws as large or larger: p is 0.02 or more after 999
_GROWN = 1.1  # a column is tested anew when it has so many times the pairs of its last test
AT_ONCE = 5_000_000  # cells that one report redraws, and the rest of the column that it is at; 0.05 to 0.13 µs each

Name = tuple[str, str]  # output, column


class Shifts:
    """Every watched column by output and name of the column; empty where an output has but one."""

    def __init__(self, config: CompareConfig, draw: Random) -> None:
        self._config = config
        self._draw = draw
        self._columns: dict[Name, ColumnShift | LabelShift] = {}
        self._tested: dict[Name, tuple[int, PsiTest]] = {}  # by how many pairs
        self.past = 0  # columns of calls that were not counted for want of a place
        self.untested: list[Name] = []  # columns that have bins and no test, after the last `tests`
        self.pending = False  # whether `tests` would go on with these, or with some that have grown
        self.out_of_reach = 0  # tests that there were, if so many that no column could be a finding

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

    def adopt(self, config: CompareConfig) -> None:
        """Judge by these settings from now on; what is counted is set as it was."""
        self._config = config

    @property
    def waiting(self) -> list[tuple[Name, int]]:
        """Columns that have too few pairs to be judged, with how many they have."""
        return [(name, each.count) for name, each in self._columns.items() if each.table() is None]

    def tests(self, seed: int, family: int, at_once: int | None = None) -> dict[Name, PsiTest]:
        """The tests of columns that have bins; `family` is how many tests there are besides, which need smaller p-values.

        One that was tested stands until the column has grown by a tenth. At most about `at_once` cells are redrawn (left out:
        AT_ONCE), those first that were tested on the fewest pairs; the next call goes on. A column takes a few ms where the
        answers are alike, and where they differ its redraws times the cells of its table, up to 4.6 million.
        """
        budget = AT_ONCE if at_once is None else at_once
        tables = {name: table for name, each in self._columns.items() if (table := each.table()) is not None}
        least = math.ceil((len(tables) + family) / self._config.alpha)  # so many, and the smallest p can be a finding
        self.out_of_reach = len(tables) + family if tables and least > MOST_DRAWS else 0
        draws = min(MOST_DRAWS, max(_DRAWS, 2 * least))
        due: list[tuple[int, int, int, Name]] = []
        for at, (name, table) in enumerate(tables.items()):
            count = int(table.sum())
            before, test = self._tested.get(name, (0, None))
            too_few = test is not None and not test.stopped and test.draws < min(least, MOST_DRAWS)
            if test is None or too_few or count >= _GROWN * before:
                due.append((before, at, count, name))
        due.sort()
        work = tested = 0
        for _, at, count, name in due:
            if work >= budget:
                break
            test = psi_test(tables[name], np.random.default_rng([seed, at, count]), draws, stop=_STOP)
            self._tested[name] = count, test
            work += test.draws * swaps(tables[name])
            tested += 1
        self.pending = tested < len(due)
        self.untested = [name for name in tables if name not in self._tested]
        return {name: self._tested[name][1] for name in tables if name in self._tested}

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

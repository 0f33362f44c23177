"""What was counted over pairs of one kind. That of the repeats is the noise floor: how much the primary differs from itself.

The unit is the call: an event happened in it or not, whatever its rows. Rows of a call are not independent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.gateway.compare.bounded import BoundedCounts
from services.gateway.compare.histogram import LogHistogram
from services.gateway.compare.match import MAX_OUTPUTS, Event, Match, OutputMatch
from services.gateway.compare.proportion import Proportion

__all__ = ["OutputTally", "Tally"]

STRUCTURE = Event("structure")


class OutputTally:
    """One output: elements, differences of calls, and how much the largest columns overlap."""

    def __init__(self) -> None:
        self.datatype = ""
        self.elements = 0
        self.differing = 0  # of the elements
        self.max_abs = LogHistogram()  # of each call
        self.max_rel = LogHistogram()
        self.overlap = 0.0  # summed over `overlaps` calls
        self.overlaps = 0

    def add(self, match: OutputMatch) -> None:
        """Count one call."""
        self.datatype = match.primary.datatype
        self.elements += match.elements
        self.differing += match.differing
        if match.distance is not None:
            self.max_abs.add(match.distance.max_abs)
            self.max_rel.add(match.distance.max_rel)
        if match.overlap is not None:
            self.overlap += match.overlap
            self.overlaps += 1

    def state(self) -> dict[str, Any]:
        """All that it knows, ready for JSON."""
        return {
            "datatype": self.datatype,
            "elements": self.elements,
            "differing": self.differing,
            "max_abs": self.max_abs.state(),
            "max_rel": self.max_rel.state(),
            "overlap": self.overlap,
            "overlaps": self.overlaps,
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> OutputTally:
        """The output whose `state` this is."""
        made = cls()
        made.datatype = str(state["datatype"])
        made.elements, made.differing = int(state["elements"]), int(state["differing"])
        made.max_abs = LogHistogram.restored(state["max_abs"])
        made.max_rel = LogHistogram.restored(state["max_rel"])
        made.overlap, made.overlaps = float(state["overlap"]), int(state["overlaps"])
        return made


class Tally:
    """Pairs of one kind that had two answers. At most `MAX_OUTPUTS` names of outputs, the first ones, are told apart."""

    def __init__(self) -> None:
        self.pairs = 0
        self.past = 0  # outputs of calls that were not counted for want of a place
        self.structure = BoundedCounts()
        self.outputs: dict[str, OutputTally] = {}
        self._tried: dict[Event, int] = {}
        self._happened: dict[Event, int] = {}

    def add(self, match: Match) -> None:
        """Count one pair."""
        self.pairs += 1
        self._count(STRUCTURE, bool(match.structure))
        for text in match.structure:
            self.structure.add(text)
        self.past += match.past
        for each in match.outputs:
            tally = self.outputs.get(each.name)
            if tally is None:
                if len(self.outputs) >= MAX_OUTPUTS:
                    self.past += 1
                    continue
                tally = self.outputs[each.name] = OutputTally()
            tally.add(each)
            for event, happened in each.events.items():
                self._count(event, happened)

    @property
    def events(self) -> list[Event]:
        """All events that could have happened in a pair."""
        return list(self._tried)

    def share(self, event: Event) -> Proportion:
        """In how many of the calls where it could have happened it did."""
        return Proportion(self._happened.get(event, 0), self._tried.get(event, 0))

    def state(self) -> dict[str, Any]:
        """All that it knows, ready for JSON."""
        return {
            "pairs": self.pairs,
            "past": self.past,
            "structure": dict(self.structure),
            "outputs": {name: each.state() for name, each in self.outputs.items()},
            "events": [[*event, tried, self._happened.get(event, 0)] for event, tried in self._tried.items()],
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Tally:
        """The tally whose `state` this is."""
        made = cls()
        made.pairs, made.past = int(state["pairs"]), int(state["past"])
        made.structure = BoundedCounts(counts=state["structure"])
        made.outputs = {name: OutputTally.restored(each) for name, each in state["outputs"].items()}
        for what, output, detail, tried, happened in state["events"]:
            made._tried[Event(what, output, detail)] = int(tried)
            made._happened[Event(what, output, detail)] = int(happened)
        return made

    def _count(self, event: Event, happened: bool) -> None:
        self._tried[event] = self._tried.get(event, 0) + 1
        if happened:
            self._happened[event] = self._happened.get(event, 0) + 1

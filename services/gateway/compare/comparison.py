"""One shadow of one model beside its primary: takes pairs, says what is known, and can be kept over a restart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random
from typing import Any

from services.gateway.compare.bounded import BoundedCounts
from services.gateway.compare.histogram import LogHistogram, SignedHistogram
from services.gateway.compare.match import MAX_OUTPUTS, Event, crossings, match
from services.gateway.compare.noise import OutputTally, Tally
from services.gateway.compare.pair import Kind, Pair
from services.gateway.compare.proportion import Proportion, fisher_greater
from services.gateway.compare.rank_test import larger
from services.gateway.compare.report import EventReport, LatencyReport, OutputReport, Quantiles, Report
from services.gateway.compare.shifts import MAX_SHIFTS, MOST_DRAWS, Shifts
from services.gateway.compare.verdict import findings, holm, verdict
from services.gateway.compare.worst import Worst
from services.gateway.compare_config import CompareConfig

__all__ = ["Comparison", "OtherState"]

VERSION = 1  # of the state
_COUNTED = {"outputs", "rtol", "atol", "classes", "thresholds", "top_k", "columns", "bins", "bin_from"}
_NOTHING = OutputTally()
FAILED = Event("failed")  # told by the codes of calls, not by answers


class OtherState(ValueError):
    """A state that this comparison can't go on from: of another version, model, shadow, or other settings. Begin anew."""


class Comparison:
    """Counts pairs; memory is bounded whatever answers and ids come. Not for several threads.

    `seed` is of the rows that are drawn and of the redraws in tests: the same pairs give the same report.
    """

    def __init__(self, model: str, shadow: str, config: CompareConfig, *, seed: int = 0) -> None:
        self.model = model
        self.shadow = shadow
        self._config = config
        self._seed = seed
        self._tallies: dict[Kind, Tally] = {"shadow": Tally(), "repeat": Tally()}
        self._codes: dict[Kind, BoundedCounts] = {"shadow": BoundedCounts(64), "repeat": BoundedCounts(64)}
        self._shifts = Shifts(config, Random(seed))
        self._worst = Worst(config.worst)
        self._primary_s, self._shadow_s, self._difference_s = LogHistogram(), LogHistogram(), SignedHistogram()
        self._first_s: float | None = None
        self._last_s: float | None = None
        self._reported: Report | None = None  # while it holds

    def add(self, pair: Pair) -> None:
        """Count one pair. Answers are read here; whatever they hold, nothing is raised."""
        self._reported = None
        self._codes[pair.kind].add(f"{pair.primary.code} {pair.other.code}")
        if pair.primary.message is None or pair.other.message is None:
            return
        found = match(pair.primary.message, pair.other.message, self._config)
        self._tallies[pair.kind].add(found)
        if pair.kind == "repeat":
            return
        self._first_s = pair.at_s if self._first_s is None else self._first_s
        self._last_s = pair.at_s
        self._shifts.add(found.outputs)
        self._worst.consider(pair.request_id, pair.at_s, found)
        self._primary_s.add(max(0.0, pair.primary.seconds))
        self._shadow_s.add(max(0.0, pair.other.seconds))
        self._difference_s.add(pair.other.seconds - pair.primary.seconds)

    def report(self) -> Report:
        """All that is known now; the same one until there is more to say.

        Takes milliseconds where the two are alike. Where the distributions of dozens of columns differ, it tests some of them and
        the next report goes on; the verdict's notes say how many wait. Measured with 64 columns of 20 bins that all differ, on an
        AMD EPYC: 0.5 s of processor time at most, and 7 reports for all of them, or 32 with an `alpha` of 0.01.
        """
        report = self._reported or self._report()
        self._reported = None if self._shifts.pending else report
        return report

    def adopt(self, config: CompareConfig) -> bool:
        """Go on with other settings; false, and nothing is changed, when something was counted by what is set otherwise."""
        if _counted_by(config) != _counted_by(self._config):
            return False
        if config != self._config:
            self._config = config
            self._shifts.adopt(config)
            self._worst = Worst.restored(self._worst.state(), config.worst)
            self._reported = None
        return True

    def _report(self, at_once: int | None = None) -> Report:
        config, mine, itself = self._config, self._tallies["shadow"], self._tallies["repeat"]
        failed, failed_repeats = self._failed("shadow"), self._failed("repeat")
        enough = failed.of >= config.min_pairs
        held = enough and config.repeat > 0 and itself.pairs >= config.min_repeats
        chances: dict[tuple[object, ...], float] = {}
        if held:
            for event in mine.events:
                share, floor = mine.share(event), itself.share(event)
                chances["event", event] = fisher_greater(share.hits, share.of, floor.hits, floor.of)
            chances["event", FAILED] = fisher_greater(failed.hits, failed.of, failed_repeats.hits, failed_repeats.of)
            for name, each in mine.outputs.items():
                if each.max_abs.count:
                    chances["size", name] = larger(each.max_abs, itself.outputs.get(name, _NOTHING).max_abs)
        judged = held or (enough and config.repeat == 0)  # a shift needs no repeats, but waits for them where they come
        tests = self._shifts.tests(self._seed, len(chances), at_once) if judged else {}
        waiting = self._shifts.untested if judged else ()  # they count: their tests are part of the family
        chances.update({("shift", name): 1.0 for name in waiting})
        chances.update({("shift", name): test.p for name, test in tests.items()})
        adjusted = holm(chances)
        events = [self._event(event, chances, adjusted) for event in mine.events]
        if failed.of:
            key = ("event", FAILED)
            events.append(EventReport(*FAILED, failed, failed_repeats, chances.get(key), adjusted.get(key)))
        outputs = [self._output(name, chances, adjusted) for name in mine.outputs]
        shifts = self._shifts.reports(tests, {name: adjusted["shift", name] for name in tests})
        found = findings(config, events, outputs, shifts) if judged else []
        return Report(
            model=self.model,
            shadow=self.shadow,
            pairs=mine.pairs,
            repeats=itself.pairs,
            first_s=self._first_s,
            last_s=self._last_s,
            codes=_by_code(self._codes["shadow"]),
            repeat_codes=_by_code(self._codes["repeat"]),
            structure=tuple(mine.structure.most()),
            events=tuple(events),
            outputs=tuple(outputs),
            shifts=tuple(shifts),
            latency=LatencyReport(_quantiles(self._primary_s), _quantiles(self._shadow_s), self._difference_s.median()),
            worst=tuple(self._worst.worst_first()),
            verdict=verdict(
                config,
                failed.of,
                mine.pairs,
                itself.pairs,
                found,
                self._notes(judged=judged),
                tests=len(adjusted),
                compared=bool(mine.outputs),
            ),
        )

    def _failed(self, kind: Kind) -> Proportion:
        """Of the calls that the primary answered, those in which the other one failed."""
        answered = {codes: count for codes, count in self._codes[kind].items() if codes.startswith("OK ")}
        total = sum(answered.values())
        return Proportion(total - answered.get("OK OK", 0), total)

    @property
    def latencies(self) -> tuple[LogHistogram, LogHistogram]:
        """Seconds that the primary and the shadow took."""
        return self._primary_s, self._shadow_s

    def differences(self, output: str) -> tuple[LogHistogram, LogHistogram]:
        """The largest difference of each call, between shadow and primary, and between the primary and itself."""
        mine, itself = (self._tallies[kind].outputs.get(output, _NOTHING).max_abs for kind in ("shadow", "repeat"))
        return mine, itself

    def state(self) -> dict[str, Any]:
        """All that it knows, ready for JSON."""
        return {
            "version": VERSION,
            "of": self._identity(),
            "tallies": {kind: tally.state() for kind, tally in self._tallies.items()},
            "codes": {kind: dict(codes) for kind, codes in self._codes.items()},
            "shifts": self._shifts.state(),
            "worst": self._worst.state(),
            "latency": [self._primary_s.state(), self._shadow_s.state(), self._difference_s.state()],
            "first_s": self._first_s,
            "last_s": self._last_s,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state` was; raises OtherState, and stays as it is, when that was something else."""
        if state.get("version") != VERSION or state.get("of") != self._identity():
            raise OtherState(
                f"expected a state of version {VERSION} of {self.model}, shadow {self.shadow}, same settings"
            )
        read = Comparison(self.model, self.shadow, self._config, seed=self._seed)
        try:
            read._take(state)
            read._report(at_once=0)  # what can't be reported on is damaged too, and is to be seen now
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as fault:
            raise OtherState(f"a state that was damaged: {type(fault).__name__} {fault}") from None
        self.__dict__.update(read.__dict__)

    def _take(self, state: Mapping[str, Any]) -> None:
        for kind in self._tallies:
            self._tallies[kind] = Tally.restored(state["tallies"][kind])
            self._codes[kind] = BoundedCounts(64, state["codes"][kind])
        self._shifts.restore(state["shifts"])
        self._worst = Worst.restored(state["worst"], self._config.worst)
        primary, shadow, difference = state["latency"]
        self._primary_s, self._shadow_s = LogHistogram.restored(primary), LogHistogram.restored(shadow)
        self._difference_s = SignedHistogram.restored(difference)
        self._first_s, self._last_s = state["first_s"], state["last_s"]

    def _identity(self) -> dict[str, Any]:
        return {"model": self.model, "shadow": self.shadow, "settings": _counted_by(self._config)}

    def _event(self, event: Event, chances: Mapping[Any, float], adjusted: Mapping[Any, float]) -> EventReport:
        key = ("event", event)
        floor = self._tallies["repeat"].share(event)
        return EventReport(*event, self._tallies["shadow"].share(event), floor, chances.get(key), adjusted.get(key))

    def _output(self, name: str, chances: Mapping[Any, float], adjusted: Mapping[Any, float]) -> OutputReport:
        mine = self._tallies["shadow"].outputs[name]
        itself = self._tallies["repeat"].outputs.get(name, _NOTHING)
        return OutputReport(
            name=name,
            datatype=mine.datatype,
            elements=mine.elements,
            differing=mine.differing,
            max_abs=_quantiles(mine.max_abs),
            max_abs_repeat=_quantiles(itself.max_abs),
            max_abs_p=chances.get(("size", name)),
            max_abs_p_adjusted=adjusted.get(("size", name)),
            max_rel=_quantiles(mine.max_rel),
            max_rel_repeat=_quantiles(itself.max_rel),
            overlap=mine.overlap / mine.overlaps if mine.overlaps else None,
            overlap_repeat=itself.overlap / itself.overlaps if itself.overlaps else None,
        )

    def _notes(self, *, judged: bool) -> list[str]:
        """What a reader of the verdict must know besides."""
        config, tally, notes = self._config, self._tallies["shadow"], []
        share = self._failed("shadow")
        if share.hits:
            notes.append(f"the shadow failed in {share} of the calls that the primary answered; they are not compared")
        if reached := [count for _, count in self._shifts.waiting]:
            least = f"{min(reached):,} of {config.bin_from:,} pairs"
            notes.append(f"distributions of {len(reached)} columns are not judged yet: {least}")
        if judged and self._shifts.untested:
            count = len(self._shifts.untested)
            notes.append(f"distributions of {count} columns are yet to be tested: the next report goes on")
        if judged and (tests := self._shifts.out_of_reach):
            notes.append(
                f"alpha is too small for distributions: of {tests} tests one needs p ≤ {config.alpha / tests:.2g}, and "
                f"{MOST_DRAWS:,} redraws can't tell so little"
            )
        notes += [
            f"threshold {each.at}: no floating output {each.output} with column {each.column} was seen"
            for each in config.thresholds
            if tally.pairs and not any(event in tally.events for event in crossings(each, config))
        ]
        if tally.past:
            notes.append(f"more than {MAX_OUTPUTS} outputs: the others are not compared")
        if self._shifts.past:
            notes.append(f"more than {MAX_SHIFTS} columns: distributions of the others are not watched")
        return notes


def _counted_by(config: CompareConfig) -> dict[str, Any]:
    """The settings by which pairs are counted; the others judge what was counted."""
    return config.model_dump(mode="json", include=_COUNTED)


def _by_code(codes: BoundedCounts) -> tuple[tuple[str, str, int], ...]:
    return tuple((*_two(each), count) for each, count in codes.most())


def _two(codes: str) -> tuple[str, str]:
    first, _, second = codes.partition(" ")
    return first, second or first


def _quantiles(of: LogHistogram) -> Quantiles:
    largest = of.largest if of.count else math.nan
    p50, p99 = (min(of.quantile(share), largest) for share in (0.5, 0.99))  # whose bucket may say a little more
    return Quantiles(of.count, p50, p99, largest)

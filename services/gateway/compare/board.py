"""All comparisons of the process: what takes pairs, answers for reports, and is kept in a file."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infermesh.protocol import shadow_reports_pb2 as pb
from services.gateway.compare.comparison import Comparison, OtherState
from services.gateway.compare.gauges import gauges_of
from services.gateway.compare.pair import Answered, Kind, Pair
from services.gateway.compare.report import Report
from services.gateway.compare.state_file import Entry, Key, StateFile
from services.gateway.compare.wire import message_of
from services.gateway.compare_config import CompareConfig
from services.gateway.compare_frames import PAIR, REPORT, RESET, SETTINGS
from services.gateway.worker import Worker

__all__ = ["Board"]

MAX_COMPARISONS = 1000  # of a model, a shadow and a variant; pairs of others are not counted
GAUGES_S = 5.0
GAUGES_SHARE = 0.1  # of the process's time at most goes into gauges that are dear
TICK_BUDGET_S = 0.05
ANSWER_BUDGET_S = 5.0  # after it a report is not begun: the gateway waits for 10 s, and takes silence for a hang
FORGOTTEN_S = 7 * 86_400.0  # after a shadow left the routes
NO_VERSION = ""

_log = logging.getLogger(__name__)

Shadow = tuple[str, str]  # model, shadow


class Board(Worker):
    """Comparisons by model, shadow and the variant that answered.

    `state` is read at the beginning and written every `save_every_s` and at the end, whole or not at all, and for one process:
    another one that finds it taken keeps nothing. What can't be read or written is said, and counted; comparing goes on. A shadow
    begins anew when its settings or its target changed, or when another version answers for it or for the primary: the answers
    of two candidates are no distribution of one. One that left the routes is forgotten a week later, or when its place is wanted.
    """

    def __init__(
        self,
        state: Path | None,
        save_every_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._save_every_s = save_every_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._configs: dict[Shadow, CompareConfig] = {}
        self._targets: dict[Shadow, str] = {}
        self._all: dict[Key, Comparison] = {}
        self._versions: dict[Key, list[str]] = {}  # of the primary and of the shadow, that were compared
        self._begun_anew: dict[Key, int] = {}
        self._answers: dict[Key, tuple[Report, bytes]] = {}  # what was told last
        self._file = StateFile(state) if state is not None else None
        # Not read back yet: their shadow was not named, or they were not wanted.
        self._kept: dict[Key, Entry] = self._file.read(MAX_COMPARISONS) if self._file is not None else {}
        self._gone: dict[
            Shadow, float
        ] = {  # from the routes, and when; by the wall clock, which a restart does not change
            key[:2]: float(each["gone_s"]) for key, each in self._kept.items() if each.get("gone_s") is not None
        }
        self._counts = {"infermesh_shadow_save_failures": 0.0, "infermesh_shadow_pairs_unknown": 0.0}
        self._gauges: dict[Key, dict[str, float]] = {}
        self._due: list[Key] = []  # whose gauges are to be told anew
        self._gauges_at = self._clock()
        self._save_at = self._clock() + save_every_s
        self._saved = True

    def take(self, kind: int, parts: tuple[bytes, ...]) -> None:
        if kind == SETTINGS:
            self._adopt(json.loads(parts[0]))
        elif kind == PAIR:
            self._add(json.loads(parts[0]), parts[1], parts[2])

    def answer(self, data: bytes) -> bytes:
        if data.startswith(REPORT):
            asked = pb.ReportRequest.FromString(data[len(REPORT) :])
            late_at = self._clock() + ANSWER_BUDGET_S
            known = {*self._all, *self._unread()}
            # Messages that lie end to end are merged: their lists are one.
            return b"".join(self._told(key, late_at) for key in _of(known, asked.model, asked.shadow))
        reset = pb.ResetRequest.FromString(data[len(RESET) :])
        gone = _of({*self._all, *self._kept}, reset.model, reset.shadow)
        for key in gone:
            self._forget(key)
        return pb.ResetResponse(forgotten=len(gone)).SerializeToString()

    def tick(self) -> dict[str, float]:
        self._forget_old()
        began = now = self._clock()
        if now >= self._gauges_at and not self._due:
            self._due = [key for key in self._all if key[:2] in self._configs]
            self._gauges = {key: told for key, told in self._gauges.items() if key in self._all and key in self._due}
            self._gauges_at = now + GAUGES_S
        unread = self._unread()
        while (
            unread or self._due
        ) and now - began < TICK_BUDGET_S:  # the rest at the next tick: silence is taken for a hang
            if unread:
                key = unread.pop()
                self._compared(key)
                self._due.append(key)
            elif (key := self._due.pop()) in self._all:
                self._gauges[key] = gauges_of(self._report(key), key[2])
            now = self._clock()
        if now - began > TICK_BUDGET_S:
            self._gauges_at = max(self._gauges_at, now + (now - began) / GAUGES_SHARE)
        if now >= self._save_at:
            self._save()
        told = self._counts.copy()
        for each in self._gauges.values():
            told |= each
        return told

    def close(self) -> None:
        self._save()
        if self._file is not None:
            self._file.close()

    # ---- what there is

    def _adopt(self, shadows: list[dict[str, Any]]) -> None:
        """Take over the routes' shadows. Nothing is reckoned or read back here: a thousand comparisons would seem a hang."""
        self._configs = {
            (each["model"], each["shadow"]): CompareConfig.model_validate(each["compare"]) for each in shadows
        }
        targets = {(each["model"], each["shadow"]): str(each.get("target", "")) for each in shadows}
        for key, comparison in list(self._all.items()):
            if (config := self._configs.get(key[:2])) is None:
                continue
            if targets[key[:2]] != self._targets.get(key[:2]):
                self._forget(key)
            elif not comparison.adopt(config):
                self._begin_anew(key, config, "other settings")
        for key, entry in list(self._kept.items()):
            if key[:2] in targets and entry.get("target", "") != targets[key[:2]]:
                self._forget(key)
        known = {key[:2] for key in (*self._all, *self._kept)}
        self._targets = {shadow: each for shadow, each in self._targets.items() if shadow in known} | targets
        now, before = self._wall_clock(), self._gone
        self._gone = {shadow: before.get(shadow, now) for shadow in known if shadow not in self._configs}
        self._saved = self._saved and self._gone == before
        self._gauges_at = self._clock()

    def _unread(self) -> list[Key]:
        """What was kept of shadows that are compared, and not read back yet."""
        return [key for key in self._kept if key[:2] in self._configs]

    def _compared(self, key: Key) -> Comparison | None:
        """The comparison, which is read back or begun where there is none; None: it has no settings, or no room."""
        found = self._all.get(key)
        config = self._configs.get(key[:2])
        if found is not None or config is None:
            return found
        entry = self._kept.pop(key, None)
        if entry is not None:
            self._versions[key] = list(entry.get("versions", ()))
            self._begun_anew[key] = int(entry.get("begun_anew", 0))
            found = self._begun(key, config, entry["state"])
        elif self._has_room():
            found = Comparison(key[0], key[1], config)
        else:
            return None
        self._all[key] = found
        return found

    def _begun(self, key: Key, config: CompareConfig, state: dict[str, Any]) -> Comparison:
        """A comparison that goes on from a state, or anew where what is counted has changed."""
        begun = Comparison(key[0], key[1], config)
        try:
            begun.restore(state)
        except OtherState as other:
            _log.info("%s, shadow %s, variant %s: begins anew: %s", *key, other)
        return begun

    def _begin_anew(self, key: Key, config: CompareConfig, reason: str) -> Comparison:
        times = self._begun_anew.get(key, 0) + 1
        _log.info("%s, shadow %s, variant %s: begins anew: %s", *key, reason)
        self._forget(key)
        self._begun_anew[key] = times
        begun = self._all[key] = Comparison(key[0], key[1], config)
        return begun

    def _forget(self, key: Key) -> None:
        for known in (self._all, self._kept, self._versions, self._begun_anew, self._answers, self._gauges):
            known.pop(key, None)
        self._saved = False

    def _forget_old(self) -> None:
        now = self._wall_clock()
        old = {shadow for shadow, at in self._gone.items() if now - at >= FORGOTTEN_S}
        for key in [key for key in (*self._all, *self._kept) if old and key[:2] in old]:
            self._forget(key)
        self._gone = {shadow: at for shadow, at in self._gone.items() if shadow not in old}

    def _has_room(self) -> bool:
        """Whether there is place for one more; of the shadows that left the routes one of the first to do so makes it."""
        if len(self._all) + len(self._kept) < MAX_COMPARISONS:
            return True
        gone = [key for key in (*self._all, *self._kept) if key[:2] in self._gone] if self._gone else []
        if not gone:
            return False
        self._forget(min(gone, key=lambda key: self._gone[key[:2]]))
        return True

    def _add(self, head: dict[str, Any], primary: bytes, other: bytes) -> None:
        key = (head["model"], head["shadow"], head["variant"])
        kind: Kind = head["kind"]
        comparison = self._compared(key)
        if comparison is None or key[:2] not in self._configs:
            self._counts["infermesh_shadow_pairs_unknown"] += 1
            return
        versions = [str(head[end][2]) if len(head[end]) > 2 else NO_VERSION for end in ("primary", "other")]
        if kind == "shadow" and NO_VERSION not in versions:
            if (self._versions.get(key) or versions) != versions:
                comparison = self._begin_anew(key, self._configs[key[:2]], "other versions answer")
            self._versions[key] = versions
        comparison.add(
            Pair(
                kind,
                head["request_id"],
                head["at_s"],
                _answered(primary, *head["primary"][:2]),
                _answered(other, *head["other"][:2]),
            )
        )
        self._saved = False

    # ---- what is told and kept

    def _told(self, key: Key, late_at: float) -> bytes:
        """The report as a message; past `late_at` the one that was told last."""
        last = self._answers.get(key)
        if self._clock() >= late_at:
            return last[1] if last is not None else _unreckoned(key)
        if self._compared(key) is None:
            return b""
        report = self._report(key)
        if last is None or last[0] is not report:
            message = message_of(self._all[key], report, key[2])
            if note := self._history(key):
                message.verdict.notes.insert(0, note)
            last = self._answers[key] = report, pb.ReportResponse(reports=[message]).SerializeToString()
        return last[1]

    def _report(self, key: Key) -> Report:
        """Its report. A state may be damaged so that it can be read and not be reported on: it must not take the others along."""
        comparison = self._all[key]
        try:
            return comparison.report()
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as fault:
            _log.error("%s, shadow %s, variant %s: no report can be made", *key, exc_info=fault)
            config = self._configs.get(key[:2], CompareConfig())
            return self._begin_anew(key, config, "it was damaged").report()

    def _history(self, key: Key) -> str:
        versions, times = self._versions.get(key), self._begun_anew.get(key, 0)
        compared = (
            [f"version {versions[1]} of the shadow beside version {versions[0]} of the primary"] if versions else []
        )
        return "; ".join([*compared, f"begun anew {times} time{'s' if times > 1 else ''}"]) if times else ""

    def _save(self) -> None:
        self._save_at = self._clock() + self._save_every_s
        if self._file is None or self._saved:
            return
        entries = [
            {
                "model": key[0],
                "shadow": key[1],
                "variant": key[2],
                "target": self._targets.get(key[:2], ""),
                "versions": self._versions.get(key, []),
                "begun_anew": self._begun_anew.get(key, 0),
                "gone_s": self._gone.get(key[:2]),
                "state": each.state(),
            }
            for key, each in self._all.items()
        ]
        entries += [{**each, "gone_s": self._gone.get(key[:2])} for key, each in self._kept.items()]
        self._saved = self._file.write(entries)
        if not self._saved:
            self._counts["infermesh_shadow_save_failures"] += 1


def _of(known: set[Key], model: str, shadow: str) -> list[Key]:
    return sorted(key for key in known if (not model or key[0] == model) and (not shadow or key[1] == shadow))


def _unreckoned(key: Key) -> bytes:
    verdict = pb.Verdict(state=pb.Verdict.NOT_ENOUGH, text="not reckoned yet, there are too many: ask again")
    report = pb.Report(model=key[0], shadow=key[1], variant=key[2], verdict=verdict)
    return pb.ReportResponse(reports=[report]).SerializeToString()


def _answered(data: bytes, code: str, seconds: float) -> Answered:
    return Answered(data if code == "OK" else None, seconds, code)

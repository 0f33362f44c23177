"""All comparisons of the process: what takes pairs, answers for reports, and is kept in a file."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from infermesh.protocol import shadow_reports_pb2 as pb
from services.gateway.compare.comparison import Comparison, OtherState
from services.gateway.compare.gauges import gauges_of
from services.gateway.compare.pair import Answered, Kind, Pair
from services.gateway.compare.report import Report
from services.gateway.compare.wire import message_of
from services.gateway.compare_config import CompareConfig
from services.gateway.compare_frames import PAIR, REPORT, RESET, SETTINGS
from services.gateway.worker import Worker

__all__ = ["Board"]

MAX_COMPARISONS = 1000  # of a model, a shadow and a variant; pairs of others are not counted
GAUGES_S = 5.0
GAUGES_SHARE = 0.1  # of the process's time at most goes into gauges that are dear
TICK_BUDGET_S = 0.05
FILE_MODE = 0o600  # it holds values that models answered
NO_VERSION = ""

_log = logging.getLogger(__name__)

Key = tuple[str, str, str]  # model, shadow, variant


class Board(Worker):
    """Comparisons by model, shadow and the variant that answered.

    `state` is read at the beginning and written every `save_every_s` and at the end, whole or not at all, and for one process:
    another one that finds it taken keeps nothing. What can't be read or written is said, and counted; comparing goes on. A shadow
    begins anew when its settings or its target changed, or when another version answers for it or for the primary: the answers
    of two candidates are no distribution of one.
    """

    def __init__(
        self,
        state: Path | None,
        save_every_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._save_every_s = save_every_s
        self._clock = clock
        self._configs: dict[tuple[str, str], CompareConfig] = {}
        self._targets: dict[tuple[str, str], str] = {}
        self._all: dict[Key, Comparison] = {}
        self._versions: dict[Key, list[str]] = {}  # of the primary and of the shadow, that were compared
        self._answers: dict[Key, bytes] = {}  # reports of what has not changed since
        self._lock = self._locked()
        self._kept = self._read()  # of shadows that were not named yet, and how they were left
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
            found = self._found(asked.model, asked.shadow)
            # Messages that lie end to end are merged: their lists are one.
            return b"".join(self._report_of(key, each) for key, each in found)
        reset = pb.ResetRequest.FromString(data[len(RESET) :])
        gone = [key for key, _ in self._found(reset.model, reset.shadow)]
        for key in gone:
            self._forget(key)
        self._saved = False
        return pb.ResetResponse(forgotten=len(gone)).SerializeToString()

    def tick(self) -> dict[str, float]:
        began = now = self._clock()
        if now >= self._gauges_at and not self._due:
            self._due = [key for key in self._all if key[:2] in self._configs]
            self._gauges = {key: told for key, told in self._gauges.items() if key in self._all and key in self._due}
            self._gauges_at = now + GAUGES_S
        while self._due and now - began < TICK_BUDGET_S:  # the rest at the next tick: silence is taken for a hang
            key = self._due.pop()
            if key in self._all:
                self._gauges[key] = gauges_of(self._all[key].report(), key[2])
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
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def reports(self) -> Iterator[tuple[Key, Report]]:
        """Every report."""
        return ((key, each.report()) for key, each in self._all.items())

    def _found(self, model: str, shadow: str) -> list[tuple[Key, Comparison]]:
        return [
            (key, each)
            for key, each in sorted(self._all.items())
            if (not model or key[0] == model) and (not shadow or key[1] == shadow)
        ]

    def _adopt(self, shadows: list[dict[str, Any]]) -> None:
        configs = {(each["model"], each["shadow"]): CompareConfig.model_validate(each["compare"]) for each in shadows}
        targets = {(each["model"], each["shadow"]): str(each.get("target", "")) for each in shadows}
        for key, each in list(self._all.items()):
            config = configs.get(key[:2])
            if config is None:
                continue
            if targets[key[:2]] != self._targets.get(key[:2], targets[key[:2]]):
                self._forget(key)
            elif config != self._configs.get(key[:2]):
                self._all[key] = self._begun(key, config, each.state())
        self._configs = configs
        self._targets |= targets
        self._answers.clear()
        for key in [key for key in self._kept if key[:2] in configs and len(self._all) < MAX_COMPARISONS]:
            kept = self._kept.pop(key)
            if kept.get("target", "") == targets[key[:2]]:
                self._all[key] = self._begun(key, configs[key[:2]], kept["state"])
                self._versions[key] = list(kept.get("versions", ()))
        self._gauges_at = self._clock()

    def _report_of(self, key: Key, comparison: Comparison) -> bytes:
        message = self._answers.get(key)
        if message is None:
            report = message_of(comparison, comparison.report(), key[2])
            message = self._answers[key] = pb.ReportResponse(reports=[report]).SerializeToString()
        return message

    def _forget(self, key: Key) -> None:
        for known in (self._all, self._versions, self._answers, self._gauges):
            known.pop(key, None)

    def _begun(self, key: Key, config: CompareConfig, state: dict[str, Any]) -> Comparison:
        """A comparison that goes on from a state, or anew where what is counted has changed."""
        begun = Comparison(key[0], key[1], config)
        try:
            begun.restore(state)
        except OtherState as other:
            _log.info("%s, shadow %s, variant %s: begins anew: %s", *key, other)
        return begun

    def _add(self, head: dict[str, Any], primary: bytes, other: bytes) -> None:
        key = (head["model"], head["shadow"], head["variant"])
        versions = [str(head[end][2]) if len(head[end]) > 2 else NO_VERSION for end in ("primary", "other")]
        if head["kind"] == "shadow" and NO_VERSION not in versions:
            if self._versions.get(key, versions) != versions:
                _log.info("%s, shadow %s, variant %s: begins anew: other versions answer", *key)
                self._forget(key)
            self._versions[key] = versions
        comparison = self._all.get(key)
        if comparison is None:
            config = self._configs.get(key[:2])
            if config is None or len(self._all) >= MAX_COMPARISONS:
                self._counts["infermesh_shadow_pairs_unknown"] += 1
                return
            comparison = self._all[key] = Comparison(key[0], key[1], config)
        self._answers.pop(key, None)
        kind: Kind = head["kind"]
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

    def _read(self) -> dict[Key, dict[str, Any]]:
        if self._state is None:
            return {}
        try:
            kept = json.loads(self._state.read_bytes())["comparisons"]
            return {(each["model"], each["shadow"], each["variant"]): each for each in kept if dict(each["state"])}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
            _log.error("%s can't be used, and comparisons begin anew: %s", self._state, fault)
            return {}

    def _locked(self) -> int | None:
        """What holds the file for this process, to its end; None: another one has it."""
        if self._state is None:
            return None
        try:
            lock = os.open(self._state.with_name(f"{self._state.name}.lock"), os.O_WRONLY | os.O_CREAT, FILE_MODE)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            _log.error("%s can't be used, and nothing is kept: it is for one gateway (%s)", self._state, fault)
            return None
        return lock

    def _save(self) -> None:
        self._save_at = self._clock() + self._save_every_s
        if self._state is None or self._saved:
            return
        if self._lock is None:
            self._counts["infermesh_shadow_save_failures"] += 1
            return
        kept = [
            {
                "model": key[0],
                "shadow": key[1],
                "variant": key[2],
                "target": self._targets.get(key[:2], ""),
                "versions": self._versions.get(key, []),
                "state": each.state(),
            }
            for key, each in self._all.items()
        ]
        kept += self._kept.values()
        new = self._state.with_name(f"{self._state.name}.new")
        try:
            with os.fdopen(
                os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE), "w", encoding="utf-8"
            ) as file:
                json.dump({"comparisons": kept}, file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._state)
        except OSError as fault:
            _log.error("comparisons can't be kept in %s: %s", self._state, fault)
            self._counts["infermesh_shadow_save_failures"] += 1
            return
        self._saved = True


def _answered(data: bytes, code: str, seconds: float) -> Answered:
    return Answered(data if code == "OK" else None, seconds, code)

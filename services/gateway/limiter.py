"""Whether a call is within all of its limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.gateway.gcra import Gcra
from services.gateway.limit_rules import Level, Plan
from services.gateway.refusals import Refusals

__all__ = ["Decision", "Limiter", "Refusal", "Shared", "Tell"]

Costs = tuple[int, int, int]  # in the order of COSTS
Tell = Callable[[Level, int, float], None]  # units left of the level's burst, and the seconds until all are


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call is not let in. `wait_s` is infinite when it never will be: it costs more than the burst."""

    level: Level
    cost: int
    wait_s: float
    left: int = 0  # units that would be let in now
    reset_s: float = 0.0  # until the whole burst would
    store_away: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What a shared store says of some levels: which refuses the call, if one does, and which are over but only observe.

    What is left, and until when, is of the level that refuses; else of the nearest to its end, of those that are told of.
    """

    refused: int | None = None  # index
    wait_s: float = 0.0
    left: int = 0
    reset_s: float = 0.0
    over: Sequence[int] = ()
    nearest: int | None = None


class Shared(Protocol):
    """A store that all replicas share. Each decision is about all levels at once: when one refuses, none is charged."""

    @property
    def is_away(self) -> bool: ...

    async def decide(self, levels: Sequence[Level], costs: Sequence[int]) -> Decision | None:
        """None: it is away, or did not answer in time; then it may have charged the call or not."""
        ...


@dataclass(eq=False)
class Limiter:
    """Lets a call in when every level does, and then counts it in every level; else in none.

    What is local is decided without waiting. What the shared store refused is refused here until the time that it told. While
    the store is away each rule does as it is configured, at once.

    A call that is cancelled while the store decides may have been counted there; so may one that the store decided too late.

    `tell` is told what is left to a call that is let in, of the enforcing level that has the least of its burst left.
    """

    local: Gcra
    shared: Shared | None = None
    degraded: Gcra = field(default_factory=Gcra)  # instead of the shared store, while that is away
    refusals: Refusals = field(default_factory=Refusals)

    async def decide(self, plan: Plan, costs: Costs, tell: Tell | None = None) -> tuple[Refusal | None, bool]:
        """Why it is refused, if it is; and whether it is past a limit that only observes."""
        if not plan.shared or self.shared is None:
            return self.decide_here(plan.local, costs, tell)
        for level in (*plan.local, *plan.shared):
            rule, cost = level.rule, costs[level.rule.cost]
            if cost > level.limit.burst and rule.enforce:
                rule.outcomes["refused"] += 1
                return Refusal(level, cost, math.inf, 0, 0.0), False
        if (remembered := self._remembered(plan.shared, costs)) is not None:
            return remembered, False
        if self.shared.is_away:
            return self._without_store(plan, costs, tell)
        return await self._with_store(self.shared, plan, costs, tell)

    async def _with_store(
        self, store: Shared, plan: Plan, costs: Costs, tell: Tell | None
    ) -> tuple[Refusal | None, bool]:
        refusal, over = self._look(plan.local, costs)
        if refusal is not None:
            return refusal, bool(over)
        held = [level for level in plan.local if level not in over]
        asked = [level for level in plan.shared if costs[level.rule.cost] <= level.limit.burst]  # others are observed
        for level in held:
            self.local.hold(level.key, costs[level.rule.cost])
        try:
            decision = await store.decide(asked, [costs[level.rule.cost] for level in asked])
        finally:
            for level in held:
                self.local.let_go(level.key, costs[level.rule.cost])
        if decision is None:
            return self._without_store(plan, costs, tell)
        if decision.refused is not None:
            level = asked[decision.refused]
            cost = costs[level.rule.cost]
            level.rule.outcomes["refused"] += 1
            self.refusals.remember(level.key, cost, decision.wait_s, decision.reset_s)
            return Refusal(level, cost, decision.wait_s, decision.left, decision.reset_s), False
        for level in held:
            self.local.charge(level.key, level.limit, costs[level.rule.cost])
            level.rule.outcomes["admitted"] += 1
        past = {id(asked[at]) for at in decision.over}
        is_over = bool(over)
        for level in plan.shared:
            is_past = id(level) in past or costs[level.rule.cost] > level.limit.burst
            level.rule.outcomes["observed" if is_past else "admitted"] += 1
            is_over = is_over or is_past
        for level in over:
            level.rule.outcomes["observed"] += 1
        if tell is not None:
            at = decision.nearest
            shared = (asked[at], decision.left, decision.reset_s) if at is not None else None
            self._tell_nearest(plan.local, tell, shared)
        return None, is_over

    def decide_here(
        self, levels: Sequence[Level], costs: Costs, tell: Tell | None = None
    ) -> tuple[Refusal | None, bool]:
        """The same where nothing is shared: without waiting."""
        if len(levels) == 1:  # nearly always: the limit of each caller
            level = levels[0]
            rule = level.rule
            cost = costs[rule.cost]
            if cost <= level.limit.burst and not self._gcra(level).take(level.key, level.limit, cost):
                rule.outcomes["admitted"] += 1
                if tell is not None and rule.enforce:
                    tell(level, *self._gcra(level).left(level.key, level.limit))
                return None, False
        refusal, over = self._look(levels, costs)
        if refusal is not None:
            return refusal, bool(over)
        for level in levels:
            if level in over:
                level.rule.outcomes["observed"] += 1
            else:
                self._gcra(level).charge(level.key, level.limit, costs[level.rule.cost])
                level.rule.outcomes["admitted"] += 1
        if tell is not None:
            self._tell_nearest(levels, tell)
        return None, bool(over)

    def _look(self, levels: Sequence[Level], costs: Costs) -> tuple[Refusal | None, list[Level]]:
        """The level that refuses for longest, and those that are over but only observe. Nothing is charged."""
        worst: Refusal | None = None
        over = []
        for level in levels:
            gcra = self._gcra(level)
            cost = costs[level.rule.cost]
            wait_s = gcra.wait(level.key, level.limit, cost)
            if not wait_s:
                continue
            if not level.rule.enforce:
                over.append(level)
            elif worst is None or wait_s > worst.wait_s:
                worst = Refusal(level, cost, wait_s, *gcra.left(level.key, level.limit))
        if worst is not None:
            worst.level.rule.outcomes["refused"] += 1
        return worst, over

    def _tell_nearest(
        self, levels: Sequence[Level], tell: Tell, nearest: tuple[Level, int, float] | None = None
    ) -> None:
        for level in levels:
            if level.rule.enforce:
                left, reset_s = self._gcra(level).left(level.key, level.limit)
                if nearest is None or left * nearest[0].limit.burst < nearest[1] * level.limit.burst:
                    nearest = level, left, reset_s
        if nearest is not None:
            tell(*nearest)

    def _gcra(self, level: Level) -> Gcra:
        return self.degraded if level.rule.shared else self.local

    def _remembered(self, levels: Sequence[Level], costs: Costs) -> Refusal | None:
        if not len(self.refusals):
            return None
        for level in levels:
            cost = costs[level.rule.cost]
            if level.rule.enforce and (known := self.refusals.find(level.key, cost)) is not None:
                level.rule.outcomes["remembered"] += 1
                wait_s, reset_s = known
                return Refusal(level, cost, wait_s, 0, reset_s)
        return None

    def _without_store(self, plan: Plan, costs: Costs, tell: Tell | None) -> tuple[Refusal | None, bool]:
        if plan.closed is not None:
            plan.closed.rule.outcomes["failed_closed"] += 1
            return Refusal(plan.closed, costs[plan.closed.rule.cost], 0.0, store_away=True), False
        return self.decide_here(plan.degraded, costs, tell)

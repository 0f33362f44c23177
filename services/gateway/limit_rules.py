"""Which limits a call is under."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote

from infermesh.call import Call
from infermesh.errors import quoted
from services.gateway.gcra import Limit
from services.gateway.limits_config import DEFAULT_RULE, LimitConfig, RateLimitConfig, RuleConfig
from services.gateway.redis_units import Units

__all__ = ["COSTS", "Level", "Plan", "Plans", "Rule", "rules_of"]

COSTS = ("request", "rows", "bytes")  # a call's costs are a tuple in this order
MAX_PART = 128  # characters of a name in a key; of a longer one its digest stands there


@dataclass(eq=False)
class Rule:
    """A rule, and what it has decided so far."""

    name: str
    per: tuple[str, ...]
    limit: Limit
    cost: int = 0  # index in COSTS
    match: Mapping[str, str] = field(default_factory=dict)  # of tenant, model and caller, those that are named
    enforce: bool = True
    shared: bool = False  # counted in Redis
    on_failure: str = "local"
    degraded: Limit | None = None  # of one replica while Redis is away
    of_callers: Mapping[str, Limit] = field(default_factory=dict)
    outcomes: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("admitted", "refused", "remembered", "observed", "failed_closed"), 0)
    )

    def __repr__(self) -> str:
        each = f" per {', '.join(self.per)}" if self.per else ""
        what = COSTS[self.cost] if self.cost else "calls"
        return f"{self.name} {self.limit.rate:g} {what}/s{each}{'' if self.enforce else ' (observe)'}"


class Level(NamedTuple):
    """One limit of one call: a rule, with the key that counts it for this tenant, model, caller or host."""

    rule: Rule
    key: str
    limit: Limit
    units: tuple[str, ...]  # the limit as Redis' script takes it
    of: str  # who is limited, for people


@dataclass(frozen=True, slots=True)
class Plan:
    """The levels of calls that are alike: by where they are counted, with those that inferences alone pay apart."""

    local: tuple[Level, ...]
    shared: tuple[Level, ...]
    degraded: tuple[Level, ...]  # instead, while Redis is away
    closed: Level | None  # what refuses all meanwhile
    has_costs: bool

    def for_requests(self) -> Plan:
        """What is left for a call that is no inference, which has no rows and no bytes."""
        return _plan([level for level in (*self.local, *self.shared) if not level.rule.cost])


def rules_of(config: RateLimitConfig) -> list[Rule]:
    """The rules that are not off, the limit of each caller first."""
    enforce = config.mode == "enforce"
    rules = []
    if config.default is not None:
        of_callers = {name: _limit(each) for name, each in config.callers.items()}
        rules.append(
            Rule(DEFAULT_RULE, ("caller",), _limit(config.default), enforce=enforce, of_callers=of_callers),
        )
    rules += [_rule(each, enforce) for each in config.rules if each.mode != "off"]
    return rules


def _limit(config: LimitConfig) -> Limit:
    return Limit.of(config.rate, config.burst)


def _rule(config: RuleConfig, enforce: bool) -> Rule:
    share = config.local_share
    return Rule(
        config.name,
        tuple(config.per),
        _limit(config),
        cost=COSTS.index(config.cost),
        match={name: value for name, value in config.match.model_dump().items() if value},
        enforce=enforce and config.mode == "enforce",
        shared=config.store == "redis",
        on_failure=config.on_store_failure,
        degraded=Limit.of(config.rate * share, max(1, int(config.burst * share))),
    )


class Plans:
    """Finds the levels of a call; those of calls that are alike are made once, and a bounded number of them is kept.

    `label` names a model as its route does, so that made-up names share one limit. A caller without a name is its host. `told`:
    those who are let in want to know what is left of shared limits too.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        *,
        prefix: str = "infermesh-limits",
        label: Callable[[str], str] = lambda model: model,
        max_plans: int = 10_000,
        told: bool = False,
    ) -> None:
        self.rules = rules
        self._told = told
        self._tag = f"{{{prefix}}}"
        self._label = label
        self._max_plans = max_plans
        self._plans: dict[tuple[str, ...], Plan] = {}
        used = {name for rule in rules for name in (*rule.per, *rule.match)}
        self._by_caller, self._by_tenant = "caller" in used, "tenant" in used
        self._by_model, self._by_host = "model" in used, "host" in used
        patterns = {rule.match["model"] for rule in rules if "model" in rule.match}
        self._exact = {pattern for pattern in patterns if not pattern.endswith("*")}
        self._prefixes = sorted((p[:-1] for p in patterns if p.endswith("*")), key=len)

    def of(self, model: str, call: Call) -> Plan:
        caller = call.caller
        name = caller.name if self._by_caller else ""
        host = _host(call.peer) if self._by_host or (self._by_caller and not name) else ""
        tenant = caller.tenant if self._by_tenant else ""
        label = self._label(model) if self._by_model and model else ""
        # What the model's name fits, and not the name: there may be any number of these.
        exact = model if model in self._exact else ""
        prefix = self._longest(model) if self._prefixes else ""
        kind = (name, host, tenant, label, exact, prefix)
        plan = self._plans.get(kind)
        if plan is None:
            if len(self._plans) >= self._max_plans:  # they are made anew as they are needed
                self._plans.clear()
            plan = self._plans[kind] = self._made(*kind)
        return plan

    def __len__(self) -> int:
        return len(self._plans)

    def _longest(self, model: str) -> str:
        """The longest pattern that fits; every shorter one that does is a beginning of it."""
        for each in reversed(self._prefixes):
            if model.startswith(each):
                return f"{each}*"
        return ""

    def _made(self, name: str, host: str, tenant: str, label: str, exact: str, prefix: str) -> Plan:
        parts = {"tenant": tenant, "model": label, "caller": name or host, "host": host}
        levels = []
        for rule in self.rules:
            match = rule.match
            pattern = match.get("model", "")
            fits = pattern in ("", exact) or (
                pattern.endswith("*") and (exact.startswith(pattern[:-1]) or prefix.startswith(pattern[:-1]))
            )
            if fits and match.get("tenant", tenant) == tenant and match.get("caller", name) == name:
                levels.append(self._level(rule, parts, name))
        return _plan(levels)

    def _level(self, rule: Rule, parts: Mapping[str, str], name: str) -> Level:
        limit = rule.of_callers.get(name, rule.limit)
        of = " and ".join(f"the {each} {quoted(parts[each])}" for each in rule.per) or "everybody"
        key = ":".join([rule.name, *(_part(parts[each]) for each in rule.per)])
        if not rule.shared:
            return Level(rule, key, limit, (), of)
        units = Units.of(limit.rate, limit.burst)
        # The limit is in the key: numbers that were counted in units of another one would be read wrong.
        return Level(rule, f"{self._tag}:{units.name}:{key}", limit, units.words(rule.enforce, told=self._told), of)


def _plan(levels: Sequence[Level]) -> Plan:
    local = tuple(level for level in levels if not level.rule.shared)
    shared = tuple(level for level in levels if level.rule.shared)
    replaced = tuple(
        level._replace(limit=level.rule.degraded)
        for level in shared
        if level.rule.on_failure == "local" and level.rule.degraded is not None
    )
    closed = next((level for level in shared if level.rule.on_failure == "closed" and level.rule.enforce), None)
    return Plan(local, shared, local + replaced, closed, any(level.rule.cost for level in levels))


def _part(name: str) -> str:
    """A name as a part of a key: no colon, no brace, not too long."""
    if len(name) > MAX_PART:
        return "sha256-" + hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()
    return quote(name, safe="", errors="backslashreplace")


def _host(peer: str) -> str:
    """`ipv4:10.0.0.7` of `ipv4:10.0.0.7:51234`; the colons keep it apart from the names of callers in most cases, and no harm
    is done in the others: it only shares a limit."""
    return peer.rpartition(":")[0] or "anonymous"

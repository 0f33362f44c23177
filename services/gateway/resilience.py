"""The filters that make a route survive what its backends do; their state outlives route tables."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from infermesh.breaker import ALL, Breaker
from infermesh.config import BreakerConfig
from infermesh.filters import CircuitBreaker, WithinDeadline
from infermesh.service import Filter, InferenceService, stack
from services.gateway.answer_cache import AnswerCache
from services.gateway.backends import Backend
from services.gateway.constant_answer import ConstantAnswer
from services.gateway.deadline_config import DeadlineConfig, RouteDeadlineConfig
from services.gateway.enough_time import EnoughTime
from services.gateway.fallback import Asked, Fallback, Step
from services.gateway.fallback_config import FallbackStepConfig
from services.gateway.recent_median import RecentMedian
from services.gateway.remembering import Remembering
from services.gateway.routes import RouteConfig
from services.gateway.split import Variant
from services.gateway.sticky import StickyKey

__all__ = ["Resilience", "ResilienceObservers"]

Key = tuple[str, ...]


class ResilienceObservers(Protocol):
    """What it counts with; `GatewayMetrics` is one."""

    def breaker(self, model: str, variant: str) -> Callable[[str], None]: ...
    def no_time(self, model: str, variant: str, mode: str) -> Callable[[], None]: ...
    def fallback(self, model: str) -> Callable[[str, str], None]: ...
    def covered(self, model: str) -> Callable[[str, str, float], None]: ...


@dataclass(frozen=True, slots=True)
class _State:
    breaker: Breaker | None
    recent: RecentMedian | None


class Resilience:
    """Makes the filters of routes and variants. What they have learned is kept by route and variant, until `settle` finds that no
    route of the last table has it."""

    def __init__(
        self,
        deadline: DeadlineConfig,
        breaker: BreakerConfig,
        observers: ResilienceObservers,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._deadline = deadline
        self._breaker = breaker
        self._observers = observers
        self._draw = draw
        self._states: dict[Key, _State] = {}
        self._caches: dict[Key, AnswerCache] = {}
        self._used: set[Key] = set()

    def round_variant(
        self,
        label: str,
        variant: str,
        target: tuple[str, str, str],
        model: str,
        service: InferenceService,
        *,
        counts: Collection[str] = ALL,
        check_time: bool = True,
    ) -> InferenceService:
        """The variant's service with a breaker and a check of the time, but behind a prefix, where models share a variant;
        `target` is backend, model there and version.

        `counts` are the failures that its breaker counts. `model` is a name that the backend can be asked about (empty: about
        itself alone). `check_time` is not for explainers: they take the time that they get, so what an explanation took says
        nothing about what it needs.
        """
        key = (label, variant, *target)
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = self._new_state(label, variant)
        self._used.add(key)
        filters: list[Filter] = []
        enough = self._deadline.enough_time
        if check_time and state.recent is not None:
            filters.append(
                EnoughTime(
                    recent=state.recent,
                    enforce=enough.mode == "enforce",
                    probe_share=enough.probe_share,
                    observe=self._observers.no_time(label, variant, enough.mode),
                    draw=self._draw,
                )
            )
        if state.breaker is not None:
            enforce = self._breaker.mode == "enforce"
            observe = partial(self._observers.breaker(label, variant), "refused" if enforce else "observed")
            probe = partial(service.ready, model, target[2])
            filters.append(
                CircuitBreaker(
                    breaker=state.breaker, probe=probe, enforce=enforce, counts=frozenset(counts), observe=observe
                )
            )
        return stack(*filters, service=service) if filters else service

    def refusing(self, label: str, variant: str, target: tuple[str, str, str]) -> Breaker | None:
        """The breaker that `round_variant` has put round the variant, where it is one that refuses calls."""
        state = self._states.get((label, variant, *target))
        return state.breaker if state is not None and self._breaker.mode == "enforce" else None

    def round_route(
        self, deadline: RouteDeadlineConfig | None, service: InferenceService, *filters: Filter
    ) -> InferenceService:
        """The route with an end for every call, and the filters within; RemoteService holds the end, so no timer is needed."""
        own = deadline or RouteDeadlineConfig()
        default = self._deadline.default if own.default is None else own.default
        maximum = self._deadline.maximum if own.maximum is None else own.maximum
        return stack(WithinDeadline(min(default, maximum), maximum, ends_below=True), *filters, service=service)

    def remembering(self, route: RouteConfig, service: InferenceService, steps: Sequence[Step]) -> InferenceService:
        """The service, with its answers kept where the route's fallback gives the last one again."""
        caches = [step for step in steps if isinstance(step, AnswerCache)]
        return (
            Remembering(caches, service) if caches and route.fallback and route.fallback.mode == "enforce" else service
        )

    def steps(
        self,
        route: RouteConfig,
        variants: Sequence[Variant],
        backends: Mapping[str, Backend],
        sticky: StickyKey | None,
    ) -> list[Step]:
        """The steps of the route's fallback, if it has one."""
        config = route.fallback
        if config is None or config.mode == "off":
            return []
        return [self._step(route, each, variants, backends, sticky) for each in config.steps]

    def fallback(self, route: RouteConfig, steps: Sequence[Step]) -> tuple[Filter, ...]:
        """The route's fallback, if it has one."""
        config = route.fallback
        if config is None or config.mode == "off":
            return ()
        return (
            Fallback(
                steps=steps,
                reserve_s=config.reserve,
                enforce=config.mode == "enforce",
                observe=self._observers.fallback(route.label),
                failed=self._observers.covered(route.label),
            ),
        )

    def settle(self) -> None:
        """A table is compiled: forget what none of its routes uses."""
        self._states = {key: each for key, each in self._states.items() if key in self._used}
        self._caches = {key: each for key, each in self._caches.items() if key in self._used}
        self._used = set()

    def _new_state(self, label: str, variant: str) -> _State:
        breaker = recent = None
        if label.endswith("*"):  # a prefix: what one of its models does says nothing about the others
            return _State(breaker, recent)
        if self._breaker.mode != "off":
            changed = self._observers.breaker(label, variant)
            breaker = Breaker(self._breaker.limits(), changed=changed, draw=self._draw)
        enough = self._deadline.enough_time
        if enough.mode != "off":
            recent = RecentMedian(enough.min_calls, enough.window)
        return _State(breaker, recent)

    def _step(
        self,
        route: RouteConfig,
        config: FallbackStepConfig,
        variants: Sequence[Variant],
        backends: Mapping[str, Backend],
        sticky: StickyKey | None,
    ) -> Step:
        if config.variant:
            variant = next(each for each in variants if each.name == config.variant)
            return Asked(f"variant:{variant.name}", variant.service, variant.name, variant.model)
        if config.model:
            service = backends[config.backend or route.backend].answering(model=config.model, version=config.version)
            return Asked(f"model:{config.model}", service, "fallback", config.model)
        if config.constant is not None:
            return ConstantAnswer(config.constant)
        assert config.cached is not None
        where = route.sticky.model_dump_json() if route.sticky else ""
        # What other variants or targets have answered is another matter: a table that steps back begins with nothing.
        asked = [(each.name, each.backend.name, each.model, each.version) for each in variants]
        key = (route.label, config.cached.model_dump_json(), where, repr(asked))
        self._used.add(key)
        cache = self._caches.get(key)
        if cache is None:
            cache = self._caches[key] = AnswerCache(
                config.cached, sticky, entity=route.sticky.input if route.sticky else ""
            )
        return cache

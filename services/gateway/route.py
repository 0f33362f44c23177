"""One route of the file, compiled: what a call for its model goes through."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from infermesh.breaker import Breaker
from infermesh.names import EXPLAINER_SUFFIX
from infermesh.service import InferenceService, stack
from services.gateway.backends import Backend
from services.gateway.chooser import Chooser, Rule
from services.gateway.conditions import Condition
from services.gateway.copies import Copies
from services.gateway.pairs import Again, Pairs
from services.gateway.readiness import Gate, Place, ReadinessWatch
from services.gateway.resilience import Resilience
from services.gateway.routes import ReadinessConfig, RouteConfig
from services.gateway.shadow import Shadow, never
from services.gateway.split import Split, Variant
from services.gateway.sticky import StickyKey
from services.gateway.targets import ShadowConfig, VariantConfig
from services.gateway.weights import Weights

__all__ = ["Answering", "Observers", "Parts", "Route"]


class Observers(Protocol):
    """What a route counts with; `GatewayMetrics` is one."""

    def pick(self, model: str, variant: str, by: str) -> Callable[[], None]: ...
    def sticky_miss(self, model: str) -> Callable[[], None]: ...
    def shadow(self, model: str, shadow: str) -> Callable[[str], None]: ...
    def forget(self, model: str, variant: str) -> None: ...


class Comparing(Protocol):
    """What answers of shadows are handed to; `Comparer` is one."""

    def pairs(self, model: str, shadow: ShadowConfig, again: Again) -> Pairs: ...
    def adopt(self, shadows: Mapping[tuple[str, str], ShadowConfig]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What routes are put together from, and what outlives them."""

    backends: Mapping[str, Backend]
    observers: Observers
    copies: Callable[
        [str, str], Copies
    ]  # of a route's label and a shadow's name; so a reload does not lift their bound
    watch: ReadinessWatch | None = None
    resilience: Resilience | None = None
    draw: Callable[[], float] = random.random
    comparer: Comparing | None = None
    overloaded: Callable[[], bool] = never


class Answering:
    """What answers for one kind of name: a model, or the explainer of one.

    `backends` has everything that may be asked, copies included, with the name of the model there (empty: the caller's); `route`
    is the label of its route.
    """

    def __init__(
        self, service: InferenceService, split: Split, backends: list[tuple[Backend, str]], route: str
    ) -> None:
        self.route = route
        self.service = service
        self.split = split
        self.label = split.label
        self.backends = backends


class Route:
    """Two ways that share weights, rules and sticky key: to the model, through the shadows, and to its explainer; the same two
    once more for aliases. An explanation is not copied to shadows: it costs hundreds of predictions.

    `gates` are of the variants that are watched, by name; `listeners` want to hear when one of them opens or closes. Explanations
    go by the readiness of what they explain.
    """

    def __init__(
        self,
        config: RouteConfig,
        parts: Parts,
        readiness: ReadinessConfig | None = None,
        generation: int = 0,
    ) -> None:
        self.config = config
        self.label = config.label
        self.prefix = config.prefix
        self._parts = parts
        self._generation = generation
        self._sticky = StickyKey(config.sticky) if config.sticky else None
        readiness = readiness or ReadinessConfig()
        self.gates = self._gates() if readiness.mode != "off" else {}
        self.listeners: dict[Gate, list[Callable[[], None]]] = {gate: [] for gate in self.gates.values()}
        self._chooser = self._compiled(enforced=readiness.mode == "enforce")
        self._shadows = [self._shadow(at) for at, each in enumerate(config.shadows) if each.fraction]
        self.model, self.explainer = self._ways("")
        self._breakers = [self._breaker(each) for each in self.config.alternatives]
        self._by_alias: tuple[Answering, Answering] | None = None

    @property
    def variants(self) -> tuple[Variant, ...]:
        return self.model.split.variants

    @property
    def alias(self) -> tuple[Answering, Answering]:
        """The same two ways for callers who use another name; made when the first one does."""
        if self._by_alias is None:
            self._by_alias = self._ways(self.config.model)
        return self._by_alias

    def shares(self) -> list[float]:
        """What part of the calls that no rule holds for each variant gets now, 0 to 1; from any thread."""
        left_alone = (at for at, breaker in enumerate(self._breakers) if breaker is not None and not breaker.is_closed)
        return self._chooser.weights.shares(frozenset(left_alone))

    def __repr__(self) -> str:
        return f"{self.label}: {self.model.service!r}"

    def _gates(self) -> dict[str, Gate]:
        """Of the variants that share calls with another one, where somebody watches."""
        watch = self._parts.watch
        if watch is None:
            return {}
        sets = [{v.name: v.weight for v in self.config.alternatives}, *(rule.shares for rule in self.config.rules)]
        weighted = [{name for name, weight in each.items() if weight} for each in sets]
        sharing = {name for names in weighted if len(names) > 1 for name in names}
        gates = {}
        for each in self.config.alternatives:
            if each.name in sharing:
                backend = self._parts.backends[each.backend or self.config.backend]
                model = each.model or self.config.model
                if model:
                    place = Place(backend.name, model, each.version)
                    remote = backend.remote.variant(model=model, version=each.version)
                    gates[each.name] = watch.gate(place, partial(remote.ready, model, each.version))
                else:  # of all models that begin so, no one can be asked about
                    gates[each.name] = watch.gate(Place(backend.name, "", ""), backend.remote.ready)
        return gates

    def _breaker(self, variant: VariantConfig) -> Breaker | None:
        resilience = self._parts.resilience
        if resilience is None:
            return None
        backend = self._parts.backends[variant.backend or self.config.backend]
        return resilience.refusing(self.label, variant.name, (backend.name, variant.model, variant.version))

    def _compiled(self, *, enforced: bool) -> Chooser:
        config = self.config
        names = [each.name for each in config.alternatives]
        gates = [self.gates.get(name) if enforced else None for name in names]
        salt = (config.sticky.salt if config.sticky else "") or config.label

        def weights(of: Mapping[str, float]) -> Weights:
            made = Weights(
                names,
                [of.get(name, 0.0) for name in names],
                salt=salt,
                sticky=self._sticky is not None,
                gates=gates,
                when_dead=config.when_dead,
            )
            for gate in dict.fromkeys(gate for gate in gates if gate is not None):
                self.listeners[gate].append(made.regate)
            return made

        rules = [
            Rule(each.name or str(at), Condition(each.when), weights(each.shares))
            for at, each in enumerate(config.rules)
        ]
        base = weights({each.name: each.weight for each in config.alternatives})
        return Chooser(base, rules=rules, sticky=self._sticky, draw=self._parts.draw)

    def _ways(self, asked_as: str) -> tuple[Answering, Answering]:
        """To the model and to its explainer; `asked_as` is the name below where callers use another one."""
        config, backends, resilience = self.config, self._parts.backends, self._parts.resilience
        explainer = config.explanations.backend if config.explanations else ""
        models, explainers = [], []
        for each in config.alternatives:
            gate = self.gates.get(each.name)
            suspected = {"suspect": partial(self._parts.watch.suspect, gate)} if gate and self._parts.watch else {}
            backend, model = backends[each.backend or config.backend], each.model or asked_as
            once = config.retry == "not_started"
            service = backend.answering(model=model, version=each.version, not_started=once)
            if resilience is not None:
                target = (backend.name, each.model, each.version)
                service = resilience.round_variant(
                    config.label, each.name, target, config.model, service, counts=config.breaker.counts
                )
            models.append(Variant(each.name, each.weight, backend, service, each.version, model, **suspected))
            backend = backends[explainer] if explainer else backend
            model = model and model + EXPLAINER_SUFFIX
            service = backend.answering(model=model, version=each.version)
            if resilience is not None:
                asked = config.model and config.model + EXPLAINER_SUFFIX
                target = (backend.name, each.model and each.model + EXPLAINER_SUFFIX, each.version)
                service = resilience.round_variant(
                    config.label + EXPLAINER_SUFFIX,
                    each.name,
                    target,
                    asked,
                    service,
                    counts=config.breaker.counts,
                    check_time=False,
                )
            explainers.append(Variant(each.name, each.weight, backend, service, each.version, model))
        model_split = self._split(config.label, models)
        explainer_split = self._split(config.label + EXPLAINER_SUFFIX, explainers)
        answering: InferenceService = stack(*self._shadows, service=model_split) if self._shadows else model_split
        explaining: InferenceService = explainer_split
        if resilience is not None:
            steps = resilience.steps(config, models, backends, self._sticky)
            fallback, remembering = (
                resilience.fallback(config, steps),
                resilience.remembering(config, model_split, steps),
            )
            answering = resilience.round_route(config.deadline, remembering, *self._shadows, *fallback)
            explaining = resilience.round_route(config.deadline, explainer_split)
        copied = [(backends[s.backend or config.backend], s.model or asked_as) for s in config.shadows]
        return (
            Answering(answering, model_split, [(v.backend, v.model) for v in models] + copied, self.label),
            Answering(explaining, explainer_split, [(v.backend, v.model) for v in explainers], self.label),
        )

    def _split(self, label: str, variants: list[Variant]) -> Split:
        observers = self._parts.observers
        return Split(
            label,
            variants,
            self._chooser,
            count=observers.pick,
            count_miss=observers.sticky_miss(label) if self._sticky else _nothing,
            generation=self._generation,
        )

    def _shadow(self, at: int) -> Shadow:
        config, parts = self.config.shadows[at], self._parts
        backend = parts.backends[config.backend or self.config.backend]
        return Shadow(
            name=config.name,
            # No retries: a copy that fails has told what it can. Its model is named: a copy may be of a call by an alias.
            candidate=backend.copying(model=config.model or self.config.model, version=config.version),
            fraction=config.fraction,
            max_in_flight=config.max_in_flight,
            max_waiting=config.max_waiting,
            max_request_bytes=config.max_request,
            budget_s=config.budget,
            copies=parts.copies(self.config.label, config.name),
            pairs=self._pairs(config),
            overloaded=parts.overloaded,
            draw=parts.draw,
            observe=parts.observers.shadow(self.config.label, config.name),
        )

    def _pairs(self, shadow: ShadowConfig) -> Pairs | None:
        comparer = self._parts.comparer
        return comparer.pairs(self.config.model, shadow, self._again) if comparer and self.config.model else None

    def _again(self, variant: str, version: str) -> InferenceService | None:
        """What asks a variant once more, as a copy: in the version that answered, which a label may have moved from since."""
        found = next((each for each in self.variants if each.name == variant), None)
        if found is None:
            return None
        return found.backend.copying(model=found.model or self.config.model, version=version or found.version)


def _nothing() -> None:
    """There is no sticky key that a call could be without."""

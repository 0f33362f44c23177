"""One route of the file, compiled: what a call for its model goes through."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Protocol

from infermesh.names import EXPLAINER_SUFFIX
from infermesh.service import InferenceService, stack
from services.gateway.backends import Backend
from services.gateway.routes import RouteConfig
from services.gateway.shadow import Copies, Shadow
from services.gateway.split import Split, Variant
from services.gateway.sticky import StickyKey

__all__ = ["Answering", "Observers", "Route"]


class Observers(Protocol):
    """What a route counts with; `GatewayMetrics` is one."""

    def pick(self, model: str, variant: str, by: str) -> Callable[[], None]: ...
    def sticky_miss(self, model: str) -> Callable[[], None]: ...
    def shadow(self, model: str, shadow: str) -> Callable[[str], None]: ...


class Answering:
    """What answers for one kind of name: a model, or the explainer of one.

    `backends` has everything that may be asked, copies included, with the name of the model there (empty: the caller's).
    """

    def __init__(self, service: InferenceService, split: Split, backends: list[tuple[Backend, str]]) -> None:
        self.service = service
        self.split = split
        self.label = split.label
        self.backends = backends


class Route:
    """Two ways that share weights and sticky key: to the model, through the shadows, and to its explainer.

    An explanation is not copied to shadows: it costs hundreds of predictions. `copies` keeps what is under way of each shadow
    from one table to the next, so that a reload does not lift its bound.
    """

    def __init__(
        self,
        config: RouteConfig,
        backends: Mapping[str, Backend],
        observers: Observers,
        copies: Callable[[str], Copies],
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.label = config.label
        self.prefix = config.prefix
        sticky = StickyKey(config.sticky) if config.sticky else None

        def split(label: str, variants: list[Variant]) -> Split:
            miss = observers.sticky_miss(label)
            return Split(
                label, variants, salt=config.label, sticky=sticky, count=observers.pick, count_miss=miss, draw=draw
            )

        explainer = config.explanations.backend if config.explanations else ""
        models, explainers = [], []
        for each in config.alternatives:
            backend = backends[each.backend or config.backend]
            service = backend.answering(model=each.model, version=each.version)
            models.append(Variant(each.name, each.weight, backend, service, each.version, each.model))
            backend = backends[explainer] if explainer else backend
            model = each.model and each.model + EXPLAINER_SUFFIX
            service = backend.answering(model=model, version=each.version)
            explainers.append(Variant(each.name, each.weight, backend, service, each.version, model))
        shadows = [
            Shadow(
                name=each.name,
                # No retries: a copy that fails has told what it can.
                candidate=backends[each.backend or config.backend].remote.variant(
                    model=each.model, version=each.version
                ),
                fraction=each.fraction,
                max_in_flight=each.max_in_flight,
                max_request_bytes=each.max_request,
                budget_s=each.budget,
                copies=copies(each.name),
                draw=draw,
                observe=observers.shadow(config.label, each.name),
            )
            for each in config.shadows
            if each.fraction
        ]
        model_split = split(config.label, models)
        explainer_split = split(config.label + EXPLAINER_SUFFIX, explainers)
        self.model = Answering(
            stack(*shadows, service=model_split) if shadows else model_split,
            model_split,
            [(v.backend, v.model) for v in models]
            + [(backends[s.backend or config.backend], s.model) for s in config.shadows],
        )
        self.explainer = Answering(explainer_split, explainer_split, [(v.backend, v.model) for v in explainers])

    def __repr__(self) -> str:
        return f"{self.label}: {self.model.service!r}"

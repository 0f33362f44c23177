"""The models of the route file: which models there are for callers, and what happens to a call for each."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator, model_validator

from infermesh.config import ConfigError, Duration, Model, Size, parse
from infermesh.names import explained_model

__all__ = [
    "DEFAULT_VARIANT",
    "ExplanationsConfig",
    "RouteConfig",
    "RoutesFile",
    "ShadowConfig",
    "StickyConfig",
    "TargetConfig",
    "VariantConfig",
    "read_routes",
]

DEFAULT_VARIANT = "default"  # of a route that has one variant and gives it no name
NAME = r"^[a-z0-9][a-z0-9_.-]{0,62}$"  # of a variant or shadow: it travels in metadata and is a label of metrics

_SECRET = ("authorization", "x-api-key")

Version = Annotated[
    str,
    BeforeValidator(lambda v: str(v) if isinstance(v, int) and not isinstance(v, bool) else v),
    Field(pattern=r"^(0|[1-9][0-9]{0,17})?$"),
]


class StickyConfig(Model):
    """Where a call's sticky key is looked for: in each place that is named, in this order; the first that has one counts."""

    metadata: str = Field("", pattern=r"^[a-z0-9_.-]*$")
    """Key of the call's metadata, in lower case."""
    parameter: str = ""
    """Request parameter with a text or a whole number."""
    input: str = ""
    """Input with entity ids: texts or whole numbers. The first element counts, for all rows of the request."""
    tenant: bool = False
    """The caller's tenant."""

    @field_validator("metadata")
    @classmethod
    def _readable(cls, key: str) -> str:
        if key in _SECRET or key.startswith("x-infermesh-") or key.endswith("-bin"):
            raise ValueError("expected metadata of the caller's own; credentials, x-infermesh-* and *-bin are not")
        return key

    @model_validator(mode="after")
    def _one(self) -> StickyConfig:
        if not any((self.metadata, self.parameter, self.input, self.tenant)):
            raise ValueError("expected at least one of metadata, parameter, input and tenant")
        return self


class TargetConfig(Model):
    """What is asked for a route's model."""

    backend: str = ""
    """Backend, by its name in the gateway's configuration; left out: the route's."""
    version: Version = ""
    """Version that the backend is asked for; left out: the backend's own choice."""
    model: str = ""
    """Model that the backend is asked for, where it has another name there; callers see the name they asked for."""


class VariantConfig(TargetConfig):
    """One alternative behind a route."""

    name: str = Field(pattern=NAME)
    """Name in answers (`infermesh_variant`), metadata, logs and metrics."""
    weight: float = Field(ge=0, lt=math.inf)
    """Share of the split, relative to the other weights; 0: only for who asks for its version, or for it by name."""


class ShadowConfig(TargetConfig):
    """A candidate that gets a copy of some calls; nobody waits for its answers."""

    name: str = Field(pattern=NAME)
    """What hops below see as the variant of a copy."""
    fraction: float = Field(ge=0, le=1)
    """Share of the calls that are copied; explanations are not."""
    max_in_flight: int = Field(64, ge=1, le=4096)
    """Copies under way at a time; more are dropped, and counted as shed."""
    max_request: Size = Field("1MiB", ge=1)  # type: ignore[assignment]
    """Largest request that is copied: what waits for a slow candidate holds memory."""
    budget: Duration = Field("1s", gt=0)  # type: ignore[assignment]
    """How long a copy may take; the caller's own deadline is about someone who does not wait for it."""


class ExplanationsConfig(Model):
    """Who answers `<model>-explainer`."""

    backend: str
    """Backend that is asked instead of the variant's own."""


class RouteConfig(Model):
    """What happens to calls for one model, or for all whose names begin alike; explanations go with their model."""

    model: str = ""
    """Exact name of the model."""
    prefix: str | None = None
    """Instead of a name: how names begin. A name of its own wins, then the longest prefix; `""` catches the rest."""
    backend: str = ""
    """Backend of the variants and shadows that name none."""
    variants: list[VariantConfig] = []
    """The alternatives; left out: one, named `default`. Either each names a version, and callers can ask for these versions
    alone, or none does, and a version that a caller asks for is passed on to the heaviest."""
    sticky: StickyConfig | None = None
    """What keeps a caller, card or patient on one variant; left out: nothing does."""
    shadows: list[ShadowConfig] = []
    """Candidates that get copies of some calls; left out: none."""
    explanations: ExplanationsConfig | None = None
    """Another backend for explanations; left out: the variant's own."""

    @field_validator("model")
    @classmethod
    def _pattern(cls, model: str) -> str:
        if "*" in model:
            raise ValueError("expected an exact name; `prefix` is for all names that begin alike")
        if explained_model(model):
            raise ValueError(
                "expected the model itself: an explanation uses its route; `explanations` names the backend"
            )
        return model

    @model_validator(mode="after")
    def _whole(self) -> RouteConfig:
        faults = []
        if bool(self.model) == (self.prefix is not None):
            faults.append("expected either model or prefix")
        if not self.backend and not (self.variants and all(each.backend for each in self.targets)):
            faults.append("expected a backend, of the route or of each of its variants and shadows")
        if self.variants:
            faults += _doubles("variant", [v.name for v in self.variants])
            if not any(v.weight for v in self.variants):
                faults.append("expected a weight over 0: nobody would answer")
            if len({bool(v.version) for v in self.variants}) > 1:
                faults.append("expected a version for every variant, or for none")
        faults += _doubles("shadow", [s.name for s in self.shadows])
        if self.prefix is not None and any(each.model for each in self.targets):
            faults.append("expected a route for one model where a variant or shadow has another name for it")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def label(self) -> str:
        """The route's name in metrics and messages: `fraud-detector`, or `conf-*` for a prefix."""
        return self.model or f"{self.prefix}*"

    @property
    def alternatives(self) -> list[VariantConfig]:
        """The variants, also where there is but one without a name."""
        return self.variants or [VariantConfig(name=DEFAULT_VARIANT, weight=1)]

    @property
    def targets(self) -> list[TargetConfig]:
        """Everything that is asked for the model: variants, then shadows."""
        return [*self.alternatives, *self.shadows]

    @property
    def backends(self) -> set[str]:
        """Every backend that it names."""
        explainer = self.explanations.backend if self.explanations else ""
        return {explainer, *(each.backend or self.backend for each in self.targets)} - {""}


class RoutesFile(Model):
    """Every route of the gateway; a model without one is NOT_FOUND."""

    routes: list[RouteConfig] = Field(min_length=1)
    """One for each model, or for all whose names begin alike; their order does not matter."""

    @model_validator(mode="after")
    def _distinct(self) -> RoutesFile:
        if faults := _doubles("a route for", [route.label for route in self.routes]):
            raise ValueError("; ".join(faults))
        return self


def read_routes(file: Path, backends: Collection[str]) -> RoutesFile:
    """The routes of a file, all of whose backends exist. Raises ConfigError with every fault."""
    routes = parse(RoutesFile, file)
    known = ", ".join(sorted(backends)) or "none"
    faults = [
        f'routes.{at} ({route.label}): no backend "{name}"; the gateway has {known}'
        for at, route in enumerate(routes.routes)
        for name in sorted(route.backends - set(backends))
    ]
    if faults:
        raise ConfigError(str(file), faults)
    return routes


def _doubles(what: str, names: list[str]) -> list[str]:
    return [f"{what} {name} stands twice" for name in dict.fromkeys(names) if names.count(name) > 1]

"""The model of one route: which model callers may ask for, and what happens to a call for it."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from infermesh.config import Duration, Mode, Model
from infermesh.names import explained_model
from infermesh.parameters import BY_FALLBACK
from services.gateway.breaker_config import RouteBreakerConfig
from services.gateway.deadline_config import RouteDeadlineConfig
from services.gateway.fallback_config import FallbackConfig
from services.gateway.rules import RuleConfig
from services.gateway.targets import (
    DEFAULT_VARIANT,
    ExplanationsConfig,
    ShadowConfig,
    StickyConfig,
    TargetConfig,
    VariantConfig,
    WhenDead,
)

__all__ = ["ReadinessConfig", "RouteConfig"]

MAX_RULES = 32  # of a route: each call is held against them in turn
MAX_ALIASES = 32


class ReadinessConfig(Model):
    """How the gateway finds out which variants are ready: it asks them in the background, and no call waits for it.

    Asked are variants that share calls with another one, since the last one is never left out."""

    mode: Mode = "enforce"
    """`enforce`: one that is not ready gets no call that the split gives, see `when_dead`; `observe`: only metrics tell it."""
    every: Duration = Field("5s", ge=0.1)  # type: ignore[assignment]
    """How often each is asked, at most 50 in a second together; besides at once when a call finds it away."""
    fall: int = Field(2, ge=1, le=100)
    """Answers in a row that say no before it counts as not ready."""
    rise: int = Field(2, ge=1, le=100)
    """Answers in a row that say yes before it counts as ready again."""


class RouteConfig(Model):
    """What happens to calls for one model, or for all whose names begin alike; explanations go with their model."""

    model: str = ""
    """Exact name of the model."""
    aliases: list[Annotated[str, Field(min_length=1)]] = Field([], max_length=MAX_ALIASES)
    """Other exact names by which callers may ask for the model; their answers carry the name that was asked for, and
    `infermesh_model` says which model answered. Permissions go by the name that is asked for, limits and metrics by the route."""
    prefix: str | None = None
    """Instead of a name: how names begin. A name of its own wins, then the longest prefix; `""` catches the rest."""
    backend: str = ""
    """Backend of the variants and shadows that name none."""
    variants: list[VariantConfig] = []
    """The alternatives; left out: one, named `default`. Either each names a version or label, and callers can ask for these
    alone, or none does, and a version that a caller asks for is passed on to the heaviest."""
    total: float | None = Field(None, gt=0, lt=math.inf)
    """What the weights have to sum to, such as 100, those of each rule as well; left out: weights are relative, whatever
    their sum."""
    rules: list[RuleConfig] = Field([], max_length=MAX_RULES)
    """Calls that get a variant or other weights for what they say: the first rule that holds counts, else the weights above.
    A version or variant that a caller names comes before any rule."""
    when_dead: WhenDead = "others"
    """What becomes of the share of a variant that is not ready: the `others` get it in proportion to their weights, or its
    calls `fail` with UNAVAILABLE."""
    sticky: StickyConfig | None = None
    """What keeps a caller, card or patient on one variant; left out: nothing does."""
    shadows: list[ShadowConfig] = []
    """Candidates that get copies of some calls; left out: none."""
    explanations: ExplanationsConfig | None = None
    """Another backend for explanations; left out: the variant's own."""
    deadline: RouteDeadlineConfig | None = None
    """Ends for the calls of this model and its explanations; left out: as for all."""
    breaker: RouteBreakerConfig = RouteBreakerConfig()
    retry: Literal["safe", "not_started"] = "safe"
    """`safe`: what was not begun, or broke off where another replica may answer, since an inference has no effects;
    `not_started`: only what was not begun, for a model whose every run counts. Calls of a sequence (`sequence_id`) are always
    treated so."""
    fallback: FallbackConfig | None = None
    """What answers when the variants can't; left out: their error is the answer. Explanations have none."""

    @field_validator("model")
    @classmethod
    def _pattern(cls, model: str) -> str:
        return _exact(model)

    @field_validator("prefix")
    @classmethod
    def _beginning(cls, prefix: str | None) -> str | None:
        if prefix is not None and not prefix.isprintable():
            raise ValueError("expected a beginning of printable characters")
        return prefix

    @field_validator("aliases")
    @classmethod
    def _patterns(cls, aliases: list[str]) -> list[str]:
        return [_exact(alias) for alias in aliases]

    @model_validator(mode="after")
    def _whole(self) -> RouteConfig:
        faults = []
        if bool(self.model) == (self.prefix is not None):
            faults.append("expected either model or prefix")
        if not self.backend and not self.variants and self.shadows:
            faults.append("a shadow answers nobody: expected a backend of the route, or variants, that do")
        elif not self.backend and not (self.variants and all(each.backend for each in self.targets)):
            faults.append("expected a backend, of the route or of each of its variants and shadows")
        if self.variants:
            faults += _doubles("variant", [v.name for v in self.variants])
            if not any(v.weight for v in self.variants):
                faults.append("expected a weight over 0: nobody would answer")
            if len({bool(v.version) for v in self.variants}) > 1:
                faults.append("expected a version for every variant, or for none")
            if math.isinf(sum(v.weight for v in self.variants)):
                faults.append("expected weights with a sum that is a number")
        faults += _doubles("shadow", [s.name for s in self.shadows])
        faults += self._faults_of_rules()
        if self.prefix is not None and self.aliases:
            faults.append("expected a route for one model where it has aliases")
        faults += self._faults_of_targets()
        if self.fallback is not None:
            asked = {each.name: self._asked(each) for each in self.alternatives}
            faults += self.fallback.faults(asked, backend=self.backend, sticky=self.sticky)
        if self.prefix is not None and any(each.model for each in self.targets):
            faults.append("expected a route for one model where a variant or shadow has another name for it")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _asked(self, target: TargetConfig) -> tuple[str, str, str]:
        """What a target comes down to: backend, model and version."""
        return target.backend or self.backend, target.model or self.model, target.version

    def _faults_of_targets(self) -> list[str]:
        faults, asked = [], dict[tuple[str, str, str], str]()
        for each in self.variants:
            other = asked.setdefault(self._asked(each), each.name)
            if other != each.name and each.version:
                faults.append(
                    f"variants {other} and {each.name} ask for the same version: which is a caller to get by it?"
                )
            if each.name == BY_FALLBACK:
                faults.append(f"variant {each.name}: the name stands for what a fallback answers; expected another")
        return faults

    def _faults_of_rules(self) -> list[str]:
        faults = []
        names = [each.name for each in self.alternatives]
        for at, rule in enumerate(self.rules):
            if unknown := [name for name in rule.shares if name not in names]:
                faults.append(f"rules.{at}: no variant {', '.join(unknown)}; the route has {', '.join(names)}")
        faults += _doubles("rule", [rule.name for rule in self.rules if rule.name])
        if self.total is not None:
            sets = [("variants", [each.weight for each in self.variants])] if self.variants else []
            sets += [(f"rules.{at}", list(rule.weights.values())) for at, rule in enumerate(self.rules) if rule.weights]
            for where, weights in sets:
                if not math.isclose(sum(weights), self.total, rel_tol=1e-9):
                    faults.append(f"{where}: the weights sum to {sum(weights):g}, expected the total {self.total:g}")
        return faults

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
        fallback = self.fallback.backends if self.fallback else set()
        return {explainer, *fallback, *(each.backend or self.backend for each in self.targets)} - {""}


def _exact(model: str) -> str:
    if not model.isprintable():
        raise ValueError("expected a name of printable characters: others are in no log or metric as they are")
    if "*" in model:
        raise ValueError("expected an exact name; `prefix` is for all names that begin alike")
    if explained_model(model):
        raise ValueError("expected the model itself: an explanation uses its route; `explanations` names the backend")
    return model


def _doubles(what: str, names: list[str]) -> list[str]:
    return [f"{what} {name} stands twice" for name in dict.fromkeys(names) if names.count(name) > 1]

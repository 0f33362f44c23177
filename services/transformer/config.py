"""The transformer's settings."""

from __future__ import annotations

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from infermesh.config import BackendConfig, ConfigError, ConfigPath, Duration, Model, ServiceConfig, parse
from services.transformer.keys import DEFAULT_PREFIX
from services.transformer.views import FeatureFile

__all__ = ["DeadlineConfig", "RedisConfig", "RouteConfig", "RoutingConfig", "TransformerConfig"]

SCHEMES = ("redis://", "rediss://", "unix://")


class RedisConfig(Model):
    """The feature store, and what a lookup may cost."""

    url: str = "redis://redis:6379/0"
    """Address, with database: `redis://`, `rediss://` (TLS) or `unix://`."""
    password: SecretStr = SecretStr("")
    """Password, better given here by the environment than in the address, which may be logged."""
    key_prefix: str = Field(DEFAULT_PREFIX, pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """What every key begins with; parts several meshes that share a Redis."""
    connections: int = Field(8, ge=1, le=1024)
    """Connections at most; each serves one lookup at a time."""
    timeout: Duration = "50ms"  # type: ignore[assignment]
    """How long a lookup may take; past it the policies of the views answer."""
    deadline_share: float = Field(0.3, gt=0, le=1)
    """Share of the call's remaining time that a lookup may take, where that is less."""
    failures: int = Field(3, ge=1)
    """Failures in a row after which Redis is not asked until a probe succeeds."""
    probe_every: Duration = "500ms"  # type: ignore[assignment]
    """How often Redis is asked whether it is there."""
    max_entities: int = Field(10_000, ge=1)
    """Entities of one request at most; more are refused with RESOURCE_EXHAUSTED, since they would not come within `timeout`."""

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        if not url.startswith(SCHEMES):
            raise ValueError(f"expected an address that begins with one of {', '.join(SCHEMES)}")
        return url


class RouteConfig(Model):
    """Some models' way to a backend; the first route that fits is taken."""

    model: str
    """Exact name, or a prefix that ends in `*`."""
    variant: str = ""
    """Only calls that the gateway sent to this variant; left out: all."""
    backend: str
    """Backend that is asked, by its name in `backends`."""

    def fits(self, model: str) -> bool:
        """Whether the route is about this model."""
        return model.startswith(self.model[:-1]) if self.model.endswith("*") else model == self.model


class RoutingConfig(Model):
    """Which backend answers for which model."""

    routes: list[RouteConfig] = Field(default_factory=list)
    """Exceptions, looked at before the rest."""
    explanations: str = "explainer"
    """Backend of every `<model>-explainer`; empty: they are models like any other."""
    models: str = "predictor"
    """Backend of every other model."""


class DeadlineConfig(Model):
    """Ends for calls."""

    default: Duration = "30s"  # type: ignore[assignment]
    """For calls that come without a deadline."""
    maximum: Duration = "5m"  # type: ignore[assignment]
    """No call lasts longer, whatever its caller asks for."""


class TransformerConfig(ServiceConfig):
    """Settings of the transformer."""

    model_config = SettingsConfigDict(env_prefix="INFERMESH_TRANSFORMER__")

    features: ConfigPath | None = None
    """File of feature views and services; left out: every request passes untouched."""
    redis: RedisConfig = RedisConfig()
    backends: dict[str, BackendConfig] = Field(
        default_factory=lambda: {name: BackendConfig(target=f"{name}:8001") for name in ("predictor", "explainer")}
    )
    """Where requests go, by a name for each."""
    routing: RoutingConfig = RoutingConfig()
    deadline: DeadlineConfig = DeadlineConfig()

    def feature_file(self) -> FeatureFile:
        """The views and services. Raises ConfigError."""
        return parse(FeatureFile, self.features) if self.features else FeatureFile()

    @model_validator(mode="after")
    def _whole(self) -> TransformerConfig:
        named = {f"routing.routes.{at}.backend": route.backend for at, route in enumerate(self.routing.routes)}
        named |= {"routing.models": self.routing.models}
        if self.routing.explanations:
            named["routing.explanations"] = self.routing.explanations
        known = ", ".join(self.backends)
        faults = [
            f'{at}: no backend "{name}"; there are {known}' for at, name in named.items() if name not in self.backends
        ]
        try:
            self.feature_file()  # its faults are faults of the configuration, and found by who checks that
        except ConfigError as error:
            faults.append(str(error))
        if faults:
            raise ValueError("\n  ".join(faults))
        return self

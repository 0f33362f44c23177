"""The transformer's settings."""

from __future__ import annotations

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from infermesh.config import BackendConfig, ConfigError, ConfigPath, Duration, Model, ServiceConfig, parse
from services.transformer.redis.settings import RedisConfig
from services.transformer.served.settings import ServedLogConfig
from services.transformer.views import FeatureFile

__all__ = ["DeadlineConfig", "RedisConfig", "RouteConfig", "RoutingConfig", "TransformerConfig"]


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
    served_log: ServedLogConfig = ServedLogConfig()

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

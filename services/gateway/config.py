"""The gateway's settings."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from infermesh.config import BackendConfig, ConfigError, ConfigPath, Duration, Mode, Model, ServiceConfig, parse
from services.gateway.keys import KeysFile
from services.gateway.routes import RoutesFile, read_routes

__all__ = ["AuthConfig", "DeadlineConfig", "GatewayConfig", "LimitConfig", "RateLimitConfig", "RetryConfig"]


class AuthConfig(Model):
    """Who may call."""

    mode: Mode = "enforce"
    """`observe` refuses nobody and counts who would be; with `off` everybody may do everything."""
    keys: ConfigPath = Path("keys.yaml")
    """File of API keys; changes are taken over while the gateway runs."""


class LimitConfig(Model):
    """How often one caller may call one replica of the gateway."""

    rate: float = Field(gt=0, le=1e9)
    """Calls a second, in the long run."""
    burst: int = Field(ge=1, le=10**9)
    """Calls at once, after a pause."""


class RateLimitConfig(LimitConfig):
    """How often callers may call one replica of the gateway."""

    mode: Mode = "enforce"
    """`observe` lets all calls pass and counts those that are past their caller's limit."""
    rate: float = Field(200, gt=0, le=1e9)
    """Calls a second of one caller, in the long run; every RPC and every message of a stream is one."""
    burst: int = Field(400, ge=1, le=10**9)
    """Calls of one caller at once, after a pause."""
    callers: dict[str, LimitConfig] = Field(default_factory=dict)
    """Callers with limits of their own, by their names in the keys file."""
    max_callers: int = Field(10_000, ge=1)
    """Callers that are kept in mind; past it new ones have to wait until another has been idle."""


class RetryConfig(Model):
    """Other attempts, after a backend was away or had not begun: answers have no effects, so a second one harms nobody."""

    attempts: int = Field(6, ge=1, le=10)
    """Attempts in all; 1: no retries. The pauses between six sum to about 0.4 s: a backend that comes back is met."""
    budget_share: float = Field(0.1, ge=0, le=1)
    """Share of the calls to a backend that may be retried in the long run, so that retries
    don't keep down what is overloaded."""
    budget_minimum: int = Field(100, ge=1)
    """Retries at once, after a time without: what was under way at a replica that died."""


class DeadlineConfig(Model):
    """Ends for calls."""

    default: Duration = "30s"  # type: ignore[assignment]
    """For calls that come without a deadline."""
    maximum: Duration = "5m"  # type: ignore[assignment]
    """No call lasts longer, whatever its caller asks for."""


class GatewayConfig(ServiceConfig):
    """Settings of the gateway."""

    model_config = SettingsConfigDict(env_prefix="INFERMESH_GATEWAY__")

    auth: AuthConfig = AuthConfig()
    rate_limit: RateLimitConfig = RateLimitConfig()
    deadline: DeadlineConfig = DeadlineConfig()
    retry: RetryConfig = RetryConfig()
    routes: ConfigPath = Path("routes.yaml")
    """File of routes; changes are taken over while the gateway runs."""
    backends: dict[str, BackendConfig] = Field(
        default_factory=lambda: {
            name: BackendConfig(target=f"{name}:8001") for name in ("predictor", "transformer", "explainer")
        }
    )
    """Where calls go, by the names that the routes use."""
    look_every: Duration = Field("5s", gt=0)  # type: ignore[assignment]
    """How often routes and keys are looked at where the system tells of no changes."""

    def routes_file(self) -> RoutesFile:
        """The routes. Raises ConfigError."""
        return read_routes(self.routes, self.backends)

    def keys_file(self) -> KeysFile:
        """The keys. Raises ConfigError."""
        return parse(KeysFile, self.auth.keys)

    @model_validator(mode="after")
    def _files(self) -> GatewayConfig:
        faults = []
        for read in [self.routes_file, *([self.keys_file] if self.auth.mode != "off" else [])]:
            try:
                read()  # their faults are faults of the configuration, and found by who checks that
            except ConfigError as error:
                faults.append(str(error))
        if faults:
            raise ValueError("\n  ".join(faults))
        return self

"""The gateway's settings."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from infermesh.config import (
    BackendConfig,
    BreakerConfig,
    ConfigError,
    ConfigPath,
    Duration,
    Mode,
    Model,
    ServiceConfig,
    parse,
)
from services.gateway.audit.settings import AuditConfig
from services.gateway.comparer_config import ComparerConfig, MirroringConfig
from services.gateway.deadline_config import DeadlineConfig
from services.gateway.jwks import VerifyingKey, read_jwks_file
from services.gateway.jwt_config import JwtConfig
from services.gateway.keys import KeysFile
from services.gateway.limits_config import ConcurrencyConfig, RateLimitConfig
from services.gateway.payload.settings import PayloadLogConfig
from services.gateway.routes import RoutesFile, read_routes

__all__ = ["AuthConfig", "DeadlineConfig", "GatewayConfig", "RetryConfig"]


class AuthConfig(Model):
    """Who may call."""

    mode: Mode = "enforce"
    """`observe` refuses nobody and counts who would be; with `off` everybody may do everything."""
    keys: ConfigPath | None = Path("keys.yaml")
    """File of API keys, and of callers by their certificates; changes are taken over while the gateway runs.
    Nothing (`null`): nobody gets in by them."""
    jwt: JwtConfig | None = None
    """JSON Web Tokens; left out: none are taken."""


class RetryConfig(Model):
    """Other attempts, after a backend was away or had not begun: answers have no effects, so a second one harms nobody."""

    attempts: int = Field(6, ge=1, le=10)
    """Attempts in all; 1: no retries. The pauses between six sum to about 0.4 s: a backend that comes back is met."""
    budget_share: float = Field(0.2, ge=0, le=1)
    """Share of the calls of the last ten seconds to a backend that may be retried, so that retries
    don't keep down what is overloaded."""
    budget_minimum: float = Field(3, ge=0, le=1000)
    """Retries a second besides; those of ten seconds may be made at once: what was under way at a replica that died."""
    longest_pause: Duration = "1s"  # type: ignore[assignment]
    """A refusal that says to come back later than this is given back to the caller instead."""


class GatewayConfig(ServiceConfig):
    """Settings of the gateway."""

    model_config = SettingsConfigDict(env_prefix="INFERMESH_GATEWAY__")

    auth: AuthConfig = AuthConfig()
    rate_limit: RateLimitConfig = RateLimitConfig()
    concurrency: ConcurrencyConfig = ConcurrencyConfig()
    deadline: DeadlineConfig = DeadlineConfig()
    retry: RetryConfig = RetryConfig()
    breaker: BreakerConfig = BreakerConfig.model_validate({"max_backoff": "5s"})
    """Of each variant of each route: refuses calls at once while it keeps failing, so that a fallback can answer.
    The addresses of a backend have breakers of their own."""
    routes: ConfigPath = Path("routes.yaml")
    """File of routes; changes are taken over while the gateway runs."""
    backends: dict[str, BackendConfig] = Field(
        default_factory=lambda: {
            name: BackendConfig(target=f"{name}:8001") for name in ("predictor", "transformer", "explainer")
        }
    )
    """Where calls go, by the names that the routes use."""
    mirroring: MirroringConfig = MirroringConfig()
    compare: ComparerConfig = ComparerConfig()
    audit: AuditConfig = AuditConfig()
    """A line for each inference; docs/audit.md has what is in it."""
    payload_log: PayloadLogConfig = PayloadLogConfig()
    """A sample of inferences with their tensors; docs/audit.md has what is in it."""
    look_every: Duration = Field("5s", gt=0)  # type: ignore[assignment]
    """How often routes and keys are looked at where the system tells of no changes."""

    def routes_file(self) -> RoutesFile:
        """The routes. Raises ConfigError."""
        return read_routes(self.routes, self.backends)

    def keys_file(self) -> KeysFile:
        """The keys; none without a file. Raises ConfigError."""
        return parse(KeysFile, self.auth.keys) if self.auth.keys is not None else KeysFile(keys=[])

    def token_keys(self) -> list[VerifyingKey]:
        """The keys of tokens that are in a file; none where they are fetched. Raises ConfigError."""
        if self.auth.jwt is None or self.auth.jwt.jwks_file is None:
            return []
        return read_jwks_file(self.auth.jwt, self.auth.jwt.jwks_file)

    @model_validator(mode="after")
    def _files(self) -> GatewayConfig:
        faults = []
        for read in [self.routes_file, *([self.keys_file, self.token_keys] if self.auth.mode != "off" else [])]:
            try:
                read()  # their faults are faults of the configuration, and found by who checks that
            except ConfigError as error:
                faults.append(str(error))
        if unknown := set(self.concurrency.backends) - set(self.backends):
            faults.append(f"concurrency.backends: there is no backend {', '.join(sorted(unknown))}")
        if self.compare.enabled and self.server.processes > 1:  # each would see, report and save a part of the pairs
            faults.append("compare: expected `server.processes: 1` with it; several replicas can be had")
        if faults:
            raise ValueError("\n  ".join(faults))
        return self

"""The explainer's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from infermesh.config import BackendConfig, ConfigPath, Duration, Model, ServiceConfig, Size

__all__ = [
    "AskingConfig",
    "BackgroundsConfig",
    "DeadlineConfig",
    "ExplainerConfig",
    "LimitsConfig",
    "MethodsConfig",
    "RetryConfig",
]

MAX_EXACT_FEATURES = 16  # 65,536 coalitions; beyond it one row takes minutes, and the matrix of weights tens of MiB


class BackgroundsConfig(Model):
    """The rows that stand for "feature unknown"."""

    root: ConfigPath = Path("samples/backgrounds")
    """Folder with `<model>.json` (the default set of a model) and `<model>/<name>.json` (further ones), in OIP's JSON form."""
    max_rows: int = Field(100, ge=1, le=10_000)
    """Rows of a set that are used; a larger set is thinned evenly. Every evaluation asks the model about that many rows."""
    missing: Literal["refuse", "zeros"] = "refuse"
    """For a model without a set: refuse to explain it, or explain against one row of zeros and empty strings."""


class MethodsConfig(Model):
    """How much work an explanation may be."""

    exact_features: int = Field(12, ge=1, le=MAX_EXACT_FEATURES)
    """Models with at most as many features can be explained exactly; the work doubles with each feature."""
    exact_rows: int = Field(1_000_000, ge=1)
    """`auto` explains exactly while the rows to ask about (rows × coalitions × background) are at most as many."""
    pairs: int = Field(32, ge=2)
    """Antithetic pairs of permutations, when the request does not say `max_evals`."""
    max_evals: int = Field(100_000, ge=2)
    """The most evaluations per row that a request may ask for."""


class AskingConfig(Model):
    """How the model is asked."""

    max_rows: int = Field(4096, ge=1)
    """Rows of one ModelInfer. Larger ones are fewer, but predictions wait behind them."""
    max_bytes: Size = "4MiB"  # type: ignore[assignment]
    """Size of one ModelInfer and of its answer; a single row may be larger."""
    in_flight: int = Field(8, ge=1)
    """ModelInfers at a time, of all explanations together."""
    in_flight_each: int = Field(4, ge=1)
    """ModelInfers at a time, of one explanation."""
    threads: int = Field(2, ge=1, le=64)
    """Threads that build rows and sum up answers."""


class LimitsConfig(Model):
    """What is refused."""

    rows: int = Field(10_000, ge=1)
    """Rows of one request."""
    features: int = Field(1024, ge=1)
    """Features of a model."""
    concurrent: int = Field(16, ge=1)
    """Explanations that are worked on at a time; others wait."""
    queue: int = Field(4096, ge=0)
    """Explanations that wait; more are refused with RESOURCE_EXHAUSTED."""


class DeadlineConfig(Model):
    """Ends for calls."""

    default: Duration = "30s"  # type: ignore[assignment]
    """For calls that come without a deadline."""
    maximum: Duration = "5m"  # type: ignore[assignment]
    """No call lasts longer, whatever its caller asks for."""
    reserve: Duration = "200ms"  # type: ignore[assignment]
    """Sampling stops this long before the deadline, or a fifth of the time that it has if that is less, and answers."""


class RetryConfig(Model):
    """Other attempts of a single ModelInfer, after a replica of the backend went away: without them the whole explanation
    would be made again by whoever asked for it."""

    attempts: int = Field(3, ge=1, le=10)
    """Attempts in all; 1: no retries."""
    budget_share: float = Field(0.2, ge=0, le=1)
    """Share of the ModelInfers of the last ten seconds that may be retried."""
    budget_minimum: float = Field(3, ge=0, le=1000)
    """Retries a second besides; those of ten seconds may be made at once: what was under way at a replica that died."""


class ExplainerConfig(ServiceConfig):
    """Settings of the explainer."""

    model_config = SettingsConfigDict(env_prefix="INFERMESH_EXPLAINER__")

    backends: dict[str, BackendConfig] = Field({"predictor": BackendConfig(target="predictor:8001")})
    """Services that can be asked, by name."""
    backend: str = "predictor"
    """The one of them that holds the models."""
    backgrounds: BackgroundsConfig = BackgroundsConfig()
    methods: MethodsConfig = MethodsConfig()
    asking: AskingConfig = AskingConfig()
    limits: LimitsConfig = LimitsConfig()
    deadline: DeadlineConfig = DeadlineConfig()
    retry: RetryConfig = RetryConfig()

    @model_validator(mode="after")
    def _has_its_backend(self) -> ExplainerConfig:
        if self.backend not in self.backends:
            raise ValueError(f"backend: expected one of {', '.join(self.backends) or '(none)'}, got {self.backend!r}")
        return self

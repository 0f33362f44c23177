"""When calls have to end: settings of the gateway, and of a route."""

from __future__ import annotations

from pydantic import Field, model_validator

from infermesh.config import Duration, Mode, Model

__all__ = ["DeadlineConfig", "EnoughTimeConfig", "RouteDeadlineConfig"]


class EnoughTimeConfig(Model):
    """Calls that come too late are refused at once: with less time left than half of the variant's recent calls took."""

    mode: Mode = "enforce"
    """`observe` counts those that would be refused."""
    min_calls: int = Field(20, ge=5, le=64)
    """Calls within the window before their median says anything; the last 64 count."""
    window: Duration = Field("30s", gt=0)  # type: ignore[assignment]
    """How far back it looks."""
    probe_share: float = Field(0.05, ge=0.001, le=1)
    """Share of the calls with too little time that go on all the same, so that a variant that is fast again is found."""


class DeadlineConfig(Model):
    """Ends for calls."""

    default: Duration = "30s"  # type: ignore[assignment]
    """For calls that come without a deadline; a route may have its own."""
    maximum: Duration = "5m"  # type: ignore[assignment]
    """No call lasts longer, whatever its caller asks for; a route may have its own."""
    enough_time: EnoughTimeConfig = EnoughTimeConfig()


class RouteDeadlineConfig(Model):
    """Ends for the calls of one route; what is left out is as for all others."""

    default: Duration | None = Field(None, gt=0)
    """For calls that come without a deadline."""
    maximum: Duration | None = Field(None, gt=0)
    """No call lasts longer."""

    @model_validator(mode="after")
    def _ordered(self) -> RouteDeadlineConfig:
        if self.default is not None and self.maximum is not None and self.default > self.maximum:
            raise ValueError("expected a default that is no longer than the maximum")
        return self

"""Whether the answers of shadows are compared, and what that may cost."""

from __future__ import annotations

from importlib.util import find_spec

from pydantic import Field, model_validator

from infermesh.config import ConfigPath, Duration, Model, Size

__all__ = ["ComparerConfig", "MirroringConfig"]


class MirroringConfig(Model):
    """What holds for the copies of all shadows."""

    suppress_lag: Duration = Field("50ms", gt=0)  # type: ignore[assignment]
    """No call is copied while the gateway's event loop is this late: it has more to do than it can, and calls come first."""


class ComparerConfig(Model):
    """How the answers of shadows are compared with the primary's: in a process of its own, after the answer is sent."""

    enabled: bool = False
    """Whether they are. It takes numpy (extra `compare`) and, from the first pair on, a process of about 60 MB."""
    state: ConfigPath | None = None
    """File in which the results are kept over restarts; its folder has to exist. Left out: they begin anew."""
    save_every: Duration = Field("30s", ge=1)  # type: ignore[assignment]
    """How often they are written there, besides at the end."""
    max_queue: Size = Field("64MiB", ge=1 << 16)  # type: ignore[assignment]
    """Answers that may wait to be compared; past it pairs are dropped, and counted."""
    max_answer: Size = Field("1MiB", ge=1)  # type: ignore[assignment]
    """Largest answer that is compared; pairs with a larger one are skipped, and counted."""

    @model_validator(mode="after")
    def _possible(self) -> ComparerConfig:
        if self.enabled and find_spec("numpy") is None:
            raise ValueError("enabled: expected numpy to be installed; the extra `compare` has it")
        if self.enabled and self.state is not None and not self.state.parent.is_dir():
            raise ValueError(f"state: expected a folder {self.state.parent}")
        return self

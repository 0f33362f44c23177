"""What speaks against a variant, as a route says it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from infermesh.config import Model

__all__ = ["RouteBreakerConfig"]


class RouteBreakerConfig(Model):
    """Of the breakers of this route's variants; when they open and for how long is the gateway's setting `breaker`."""

    counts: list[Literal["unavailable", "deadline", "internal"]] = Field(["unavailable", "deadline", "internal"])
    """Failures that are counted: `unavailable` (away, or no sense in the answer), `deadline` (silent for as long as
    answers usually take) and `internal` (INTERNAL, UNKNOWN and DATA_LOSS that a server answers, which count in the window's
    ratio alone). Without `internal` a server that fails on some input takes the model from nobody."""

"""What is compared: two answers to one request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from infermesh.protocol.open_inference_pb2 import ModelInferResponse

__all__ = ["Answered", "Kind", "Pair"]

Kind = Literal["shadow", "repeat"]


@dataclass(frozen=True, slots=True)
class Answered:
    """How one call ended: with a message (or its bytes), or with the code of its failure; and how long it took."""

    message: ModelInferResponse | bytes | None
    seconds: float
    code: str = "OK"


@dataclass(frozen=True, slots=True)
class Pair:
    """The primary's answer, and that of the shadow, or of the primary when it was asked the same again (`repeat`)."""

    kind: Kind
    request_id: str
    at_s: float  # wall clock, seconds since 1970
    primary: Answered
    other: Answered

    @property
    def is_answered(self) -> bool:
        """Whether there are two answers to compare."""
        return self.primary.message is not None and self.other.message is not None

"""What becomes of one call on its way, told by those who decide it, for whoever writes an audit."""

from __future__ import annotations

from time import perf_counter
from typing import NamedTuple

__all__ = ["MAX_ATTEMPTS", "Attempt", "Journal"]

MAX_ATTEMPTS = 16  # that are kept: retries and the steps of a fallback are fewer


class Attempt(NamedTuple):
    """One asking of a backend; `endpoint` is the address, empty where nobody told it."""

    backend: str
    endpoint: str
    code: str
    took_s: float


class Journal:
    """Kept by a call that is audited (`Call.journal`) and shared by the copies that `derive` makes of it; a shadow copy has none.

    Filters write, and only where there is one: `if (journal := call.journal) is not None`. Times are of `perf_counter`, in
    seconds. Nothing of a message is kept here, so that a journal may outlive its call.
    """

    __slots__ = (
        "admitted_at",
        "attempted_until",
        "attempts",
        "endpoint",
        "fallback_for",
        "picked",
        "picked_by",
        "rpc",
        "shadows",
        "started",
        "waited_s",
    )

    def __init__(self, rpc: str) -> None:
        self.rpc = rpc
        self.started = perf_counter()
        self.admitted_at = 0.0  # when routing began; 0: it did not come so far
        self.attempted_until = 0.0  # when the last attempt ended; 0: there was none
        self.waited_s = 0.0  # between attempts
        self.endpoint = ""  # that was asked last; whoever has the connection says so
        self.picked = ""  # the variant that the router chose, and what decided
        self.picked_by = ""
        self.fallback_for: tuple[str, str] | None = (
            None  # code and reason of the failure that a fallback was to help with
        )
        self.attempts: list[Attempt] = []
        self.shadows: list[str] = []  # that got a copy

    def attempted(self, backend: str, code: str, began: float, ended: float, endpoint: str = "") -> None:
        """One asking of a backend has ended."""
        if self.attempted_until:
            self.waited_s += began - self.attempted_until
        self.attempted_until = ended
        if len(self.attempts) < MAX_ATTEMPTS:
            self.attempts.append(Attempt(backend, endpoint or self.endpoint, code, ended - began))
        self.endpoint = ""

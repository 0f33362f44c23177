"""Limits that all replicas of the gateway share, in Redis."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from services.gateway.limit_rules import Level
from services.gateway.limiter import Decision

__all__ = ["RedisLimits"]

ADMITTED = Decision()


class Asked(Protocol):
    """What runs the script; `Lane` is one."""

    @property
    def is_away(self) -> bool: ...

    def ask(self, command: tuple[str, ...]) -> Awaitable[Any]: ...


class RedisLimits:
    """Decides about all shared levels of a call by one run of the script, in the server's time: the gateways' clocks don't
    matter, and no other call comes in between."""

    def __init__(self, lane: Asked) -> None:
        self._lane = lane

    @property
    def is_away(self) -> bool:
        return self._lane.is_away

    async def decide(self, levels: Sequence[Level], costs: Sequence[int]) -> Decision | None:
        if not levels:
            return ADMITTED
        words = [str(len(levels)), *(level.key for level in levels)]
        for level, cost in zip(levels, costs, strict=True):
            words += level.units
            words.append(str(cost))
        reply = await self._lane.ask(tuple(words))
        if reply is None:
            return None
        if reply == 0:
            return ADMITTED
        refused, second, left, reset_us, *over = reply
        if refused:
            return Decision(refused - 1, second / 1e6, left, reset_us / 1e6)
        nearest = second - 1 if second else None
        return Decision(None, 0.0, left, reset_us / 1e6, [each - 1 for each in over], nearest)

    def __repr__(self) -> str:
        return f"RedisLimits({'away' if self._lane.is_away else 'up'})"

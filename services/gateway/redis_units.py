"""A limit in whole numbers that Redis' scripts, which have doubles alone, hold exactly."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

__all__ = ["Units"]

MOST = 2**52  # room and drain stay under it, so that sums do under 2**53: whole numbers are exact up to there


class Units(NamedTuple):
    """A limit as I.371's "continuous-state leaky bucket", which decides as GCRA does: every unit of cost adds `unit` to a debt
    that `drain` pays off each microsecond and that may not be over `room`.

    `drain` is rounded down, by less than 0.06 % for bursts that refill within 31 days, so that nothing is let in too early.
    """

    unit: int
    drain: int
    room: int

    @classmethod
    def of(cls, rate: float, burst: int) -> Units:
        """`rate` is in units a second, over 0."""
        per_microsecond = Fraction(rate) / 10**6
        unit = max(1, min(MOST // burst, int(MOST / per_microsecond)))
        if unit > 10**6:
            unit -= unit % 10**6  # then whole rates have a whole drain
        drain = int(per_microsecond * unit)
        assert drain, f"burst {burst} at {rate:g}/s takes years to refill: the configuration refuses that"
        return cls(unit, drain, unit * burst)

    @property
    def name(self) -> str:
        """What tells limits apart."""
        return f"{self.unit:x}.{self.drain:x}"

    def words(self, enforce: bool, *, told: bool = False) -> tuple[str, ...]:
        """As the script takes it, but for the cost; `told`: those who are let in want to know what is left."""
        return (str(self.unit), str(self.drain), str(self.room), ("2" if told else "1") if enforce else "0")

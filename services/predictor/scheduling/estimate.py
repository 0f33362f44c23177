"""How long a run is expected to take."""

from __future__ import annotations

__all__ = ["Estimate"]

FORGETTING = 0.95  # weight of a run falls by this with each one after it: about the last twenty count
KNOWN_AFTER = 5  # runs; the first ones of a session are slow and say little
MOST_TIMES = (
    10.0  # a run that took longer counts as this many times what was expected: one hiccup must not turn calls away
)
SPREAD = 1e-6  # of sizes, relative and squared; below it nothing can be said of how the time grows with them


class Estimate:
    """Seconds ≈ `fixed_s` + `per_byte_s` · bytes of input, by least squares over the last runs (recursive, with exponential
    forgetting: Haykin, Adaptive Filter Theory, "RLS"; here its two-parameter form by running sums).

    Bytes and not rows, since rows of a model with free inner dimensions differ in length; for all others they are proportional.
    When all runs had one size, time is taken to be proportional to it: careful, and put right by the first larger batch. Only
    whom a batch may still take is decided by that; nobody is refused for a size that was not seen (`seconds_as_seen`).
    """

    __slots__ = ("_largest", "_n", "_runs", "_x", "_xx", "_xy", "_y", "fixed_s", "per_byte_s")

    def __init__(self) -> None:
        self.fixed_s = 0.0
        self.per_byte_s = 0.0
        self._runs = 0
        self._largest = 0.0  # size among the last runs; forgotten as they are
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    @property
    def known(self) -> bool:
        """Whether enough runs were seen to expect anything; until then everything is expected to take no time."""
        return self._runs >= KNOWN_AFTER

    def seconds(self, size_bytes: float) -> float:
        """What a run of this many input bytes is expected to take; 0.0 while nothing is known."""
        return self.fixed_s + self.per_byte_s * size_bytes

    def seconds_as_seen(self, size_bytes: float) -> float:
        """As `seconds`, and for more bytes than the last runs had what the largest of them is expected to take."""
        return self.seconds(min(size_bytes, self._largest))

    def observe_at_least(self, size_bytes: float, seconds: float) -> None:
        """Count a run that was ended after so long, if that is longer than expected: of a model that became slower than its
        callers' deadlines no other run is ever seen. One that was ended earlier says nothing."""
        if seconds > self.seconds_as_seen(size_bytes):
            self.observe(size_bytes, seconds)

    def observe(self, size_bytes: float, seconds: float) -> None:
        """Count one run that succeeded. Those that failed say nothing about the next."""
        self._runs += 1
        if self._runs > KNOWN_AFTER:
            seconds = min(seconds, MOST_TIMES * self.seconds(size_bytes) + 1e-4)
        self._largest = max(size_bytes, FORGETTING * self._largest)
        self._n = FORGETTING * self._n + 1.0
        self._x = FORGETTING * self._x + size_bytes
        self._y = FORGETTING * self._y + seconds
        self._xx = FORGETTING * self._xx + size_bytes * size_bytes
        self._xy = FORGETTING * self._xy + size_bytes * seconds
        if self._runs >= KNOWN_AFTER:
            self._fit()

    def _fit(self) -> None:
        n, x, y, xx, xy = self._n, self._x, self._y, self._xx, self._xy
        spread = n * xx - x * x
        if x == 0.0:
            self.fixed_s, self.per_byte_s = y / n, 0.0
        elif spread <= SPREAD * x * x:
            self.fixed_s, self.per_byte_s = 0.0, y / x
        else:
            slope = (n * xy - x * y) / spread
            if slope <= 0.0:
                self.fixed_s, self.per_byte_s = y / n, 0.0
            elif slope * x >= y:  # no fixed part: through the origin
                self.fixed_s, self.per_byte_s = 0.0, xy / xx
            else:
                self.fixed_s, self.per_byte_s = (y - slope * x) / n, slope

"""One set of weights over a route's variants, less those that are not ready."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from services.gateway.readiness import Gate
from services.gateway.sticky import StickySplit
from services.gateway.targets import WhenDead

__all__ = ["Weights"]

MAX_KEPT = 64  # sets of variants that breakers left out


class Weights:
    """Picks a variant, by its index: at random, or for a sticky key.

    `gates` tell which variants are ready, where that is watched. With `when_dead: others` a variant that is not gets no call, and
    its share goes to the others in proportion to their weights; of the sticky keys its own move and no other one. With `fail` the
    shares stay, and `refused` has who is not ready. When none is, all count as ready: the last one is never taken away, and a
    call then gets the backend's own error.
    """

    def __init__(
        self,
        names: Sequence[str],
        weights: Sequence[float],
        *,
        salt: str = "",
        sticky: bool = False,
        gates: Sequence[Gate | None] = (),
        when_dead: WhenDead = "others",
    ) -> None:
        self.names = tuple(names)
        self.weights = tuple(weights)
        self._salt = salt
        self._is_sticky = sticky
        self._gates = tuple(gates)
        self._when_dead = when_dead
        self._without: dict[frozenset[int], Weights] = {}
        self.regate()

    def regate(self) -> None:
        """Look at the gates, one of which has opened or closed."""
        dead = frozenset(at for at, gate in enumerate(self._gates) if gate is not None and not gate.open)
        if all(at in dead for at, weight in enumerate(self.weights) if weight):
            dead = frozenset()
        self.refused: frozenset[int] = dead if self._when_dead == "fail" else frozenset()
        self._take([0.0 if at in dead - self.refused else weight for at, weight in enumerate(self.weights)])

    def without(self, passed: frozenset[int]) -> Weights | None:
        """The same without these variants, each of whose shares goes to the others; None when no other has weight and is ready,
        or `when_dead` says that shares stay. Made when it is asked for first, until a gate opens or closes."""
        if self._when_dead == "fail":
            return None
        found = self._without.get(passed)
        if found is None:
            left = [0.0 if at in passed else weight for at, weight in enumerate(self._current)]
            if not any(left):
                return None
            if len(self._without) >= MAX_KEPT:
                self._without.clear()
            found = Weights(self.names, left, salt=self._salt, sticky=self._is_sticky)
            self._without[passed] = found
        return found

    def at_random(self, drawn: float) -> int:
        """The variant for a number that was drawn, from 0 to just under 1."""
        return bisect_right(self._bounds, drawn, hi=self._last)

    def of_key(self, key: bytes) -> int:
        """The variant that the key belongs to."""
        return self._sticky.pick(key)

    def shares(self, passed: frozenset[int] = frozenset()) -> list[float]:
        """What part of the calls each variant gets now, 0 to 1; as `without` these, where it leaves any. From any thread."""
        weights = current = self._current
        if passed and self._when_dead == "others":
            left = [0.0 if at in passed else weight for at, weight in enumerate(current)]
            weights = left if any(left) else current
        total = sum(weights)
        return [weight / total for weight in weights]

    def _take(self, weights: list[float]) -> None:
        self._current = weights
        self._without.clear()
        self._total = total = sum(weights)
        bounds = [bound / total for bound in accumulate(weights)]
        while len(bounds) > 1 and bounds[-2] >= bounds[-1]:
            bounds.pop()  # so that a number just under 1 never falls on a last variant without weight
        self._bounds, self._last = bounds, len(bounds) - 1
        self.only = next((at for at, weight in enumerate(weights) if weight == total), None)
        """The variant that all calls go to, if there is such a one."""
        if self._is_sticky and self.only is None:
            self._sticky = StickySplit(self._salt, list(zip(self.names, weights, strict=True)))

"""Stops asking a store that does not answer."""

from __future__ import annotations

__all__ = ["Breaker"]


class Breaker:
    """Opens after some failures in a row; while it is open nobody should ask.

    It closes by a success alone, and who asks while it is open is a probe on a clock of its own (`FeatureStore.watch`): no call
    pays for finding out whether the store is back.
    """

    def __init__(self, failures: int) -> None:
        self._threshold = failures
        self._in_a_row = 0

    @property
    def is_open(self) -> bool:
        return self._in_a_row >= self._threshold

    def failed(self) -> None:
        self._in_a_row += 1

    def succeeded(self) -> None:
        self._in_a_row = 0

"""Counts by text of which there may be any number: the first ones have a place of their own, all others share one."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["OTHER", "BoundedCounts"]

OTHER = "other"


class BoundedCounts(dict[str, int]):
    """Text → how often; at most `places` texts, and `other`."""

    def __init__(self, places: int = 32, counts: Mapping[str, int] | None = None) -> None:
        super().__init__(counts or {})
        self._places = places

    def add(self, text: str) -> None:
        """Count a text."""
        if text not in self and len(self) >= self._places:
            text = OTHER
        self[text] = self.get(text, 0) + 1

    def most(self) -> list[tuple[str, int]]:
        """The most frequent first."""
        return sorted(self.items(), key=lambda each: -each[1])

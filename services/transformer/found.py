"""The words for what is found and what is served, and the stand-in for a row that nobody could be asked for.

Two vocabularies, and they are not the same. What was *found* is counted for each entity and view: present, null, previous (a row
of an earlier schema), missing, stale, foreign, unavailable, cached (a good row that was kept from before Redis went away). What
was *served* is told to the caller for the request as a whole, as the worst of its rows.
"""

from __future__ import annotations

from enum import IntEnum

from services.transformer.row import UnreadableRow

__all__ = ["FOUND", "UNANSWERED", "Served", "micros"]

FOUND = ("present", "null", "previous", "missing", "stale", "foreign", "unavailable", "cached")

UNANSWERED = UnreadableRow("the feature store did not answer")
"""Stands, itself and no copy, for a row of which nothing is known while others of its request are."""


class Served(IntEnum):
    """What the caller got, from best to worst; the response says the word."""

    PRESENT = 0
    STALE = 1
    CACHED = 2
    DEFAULTED = 3
    REDIS_UNAVAILABLE = 4

    @property
    def word(self) -> str:
        return self.name.lower()


def micros(seconds: float) -> int:
    """A time or duration as rows hold it."""
    return round(seconds * 1e6)

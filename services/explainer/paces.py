"""How fast models answer, as far as it is known."""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["Paces"]

ENTRIES = 256


class Paces:
    """Seconds for a composite row of the versions that were explained last, by their last explanation."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], float] = OrderedDict()

    def find(self, model: str, version: str) -> float | None:
        """None: not known yet."""
        return self._known.get((model, version))

    def learn(self, model: str, version: str, seconds: float, rows: int) -> None:
        """An explanation of so many composite rows took so long."""
        if rows > 0:
            self._known[model, version] = seconds / rows
            self._known.move_to_end((model, version))
            if len(self._known) > ENTRIES:
                self._known.popitem(last=False)

"""Views of cards and shops for tests of feature services, and their rows."""

from __future__ import annotations

from typing import Any

from services.transformer.row import RowFormat
from services.transformer.views import FeatureFile

NOW_US = 1_700_000_000_000_000
HOUR_US = 3_600_000_000

CARD: dict[str, Any] = {
    "entity": {"name": "card_id"},
    "max_age": "1h",
    "missing": "default",
    "stale": "serve",
    "unavailable": "default",
    "features": [
        {"name": "limit", "default": 100.0},
        {"name": "declines", "datatype": "INT64", "default": 1},
        {"name": "country", "datatype": "BYTES", "default": "??"},
        {"name": "taste", "shape": [2], "default": [0.0, 0.0]},
    ],
}
CARD_ROWS = RowFormat(FeatureFile.model_validate({"views": {"card": CARD}}).views["card"].columns)


def card_row(limit: float, declines: int | None, country: str, taste: list[float], *, at_us: int = NOW_US) -> bytes:
    """A row of the view `card`."""
    return CARD_ROWS.pack([limit, declines, country, taste], at_us)

"""What the gateway and the comparing process say to each other; shared, and so without numpy."""

from __future__ import annotations

__all__ = ["PAIR", "REPORT", "RESET", "SEPARATOR", "SETTINGS"]

SETTINGS = 1  # one part: JSON, the shadows that there are with how they are compared
PAIR = 2  # head (JSON), the primary's answer, the other one

REPORT = b"report"  # before a ReportRequest
RESET = b"reset "  # before a ResetRequest

SEPARATOR = "\x1f"  # between the name of a gauge and the values of its labels

"""What goes from the gateway to the process that writes payloads."""

from __future__ import annotations

__all__ = ["CALL", "SETTINGS", "SHAPES"]

CALL = 1  # the head of the record (JSON), the request's bytes, the answer's bytes
SHAPES = 2  # the head alone, with the shapes in it: the call was too large
SETTINGS = (
    "INFERMESH_PAYLOAD_SETTINGS"  # variable with the process's settings (JSON): arguments can be seen by other users
)

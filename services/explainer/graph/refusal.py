"""Why a model's graph can't be read."""

from __future__ import annotations

__all__ = ["NotReadable"]


class NotReadable(Exception):
    """The file is no graph that attributions can be read from; `reason` names the node and what is the matter with it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

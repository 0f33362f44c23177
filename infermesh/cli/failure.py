"""What the command line says when it can't go on."""

from __future__ import annotations

__all__ = ["Failure"]


class Failure(Exception):
    """Ends a command with one clear line and a status other than 0; never with a traceback.

    The text says what was wrong and where; `hint` what would be right. A defect of ours is no Failure: it keeps its traceback.
    """

    def __init__(self, text: str, *, hint: str = "", status: int = 1) -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint
        self.status = status

"""Bars drawn with block characters: shares, and signed amounts round a middle line."""

from __future__ import annotations

from rich.text import Text

__all__ = ["FALLS", "RISES", "share_bar", "signed_bar"]

RISES, FALLS = "bright_red", "bright_blue"  # the colours that SHAP's plots made usual: towards and away from the output

_EIGHTHS = " ▏▎▍▌▋▊▉"


def share_bar(share: float, width: int = 20, style: str = "cyan") -> Text:
    """A bar that fills `share` (0 to 1) of the width, to an eighth of a character; the rest is a faint line."""
    eighths = round(min(1.0, max(0.0, share)) * width * 8)
    full, part = divmod(eighths, 8)
    bar = "█" * full + (_EIGHTHS[part] if part else "")
    return Text.assemble((bar, style), ("·" * (width - len(bar)), "bright_black"))


def signed_bar(value: float, largest: float, half: int = 18) -> Text:
    """A bar to the right of a middle line for what is positive, to the left for the rest; `largest` fills one half."""
    length = 0.0 if largest <= 0 else min(1.0, abs(value) / largest) * half
    if value >= 0:
        eighths = round(length * 8)
        full, part = divmod(eighths, 8)
        bar = "█" * full + (_EIGHTHS[part] if part else "")
        return Text.assemble(" " * half, ("│", "bright_black"), (bar.ljust(half), RISES))
    halves = round(length * 2)  # there is no left-hand counterpart of the eighths, but one of a half
    full, part = divmod(halves, 2)
    bar = ("▐" if part else "") + "█" * full
    return Text.assemble((bar.rjust(half), FALLS), ("│", "bright_black"), " " * half)

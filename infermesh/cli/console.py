"""Where the command line writes: answers to standard output, what goes on and what went wrong to standard error."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from infermesh.cli.failure import Failure

__all__ = ["err", "out", "say_failure"]

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def say_failure(failure: Failure) -> None:
    """The failure in one line, and its hint in a second; never cut or wrapped, so that it can be searched for."""
    err.print(Text.assemble(("error: ", "bold red"), failure.text), soft_wrap=True)
    if failure.hint:
        err.print(Text.assemble(("hint: ", "bold cyan"), failure.hint), soft_wrap=True)

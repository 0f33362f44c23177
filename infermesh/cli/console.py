"""Where the command line writes: answers to standard output, what goes on and what went wrong to standard error."""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.text import Text

from infermesh.cli.failure import Failure

__all__ = ["err", "out", "say_failure"]

PIPE_WIDTH = 120  # rich takes 80 for what is no terminal, which cuts addresses in tables

out = Console(highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH)
err = Console(stderr=True, highlight=False)


def say_failure(failure: Failure) -> None:
    """The failure in one line, and its hint in a second; never cut or wrapped, so that it can be searched for."""
    err.print(Text.assemble(("error: ", "bold red"), failure.text), soft_wrap=True)
    if failure.hint:
        err.print(Text.assemble(("hint: ", "bold cyan"), failure.hint), soft_wrap=True)

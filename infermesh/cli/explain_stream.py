"""Better and better answers in one place of the terminal, until the last one is there."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing

from rich.console import RenderableType
from rich.live import Live

from infermesh.cli.console import out
from infermesh.cli.failure import Failure
from infermesh.protocol.open_inference_pb2 import ModelInferResponse

__all__ = ["last_of"]


def last_of(
    answers: Generator[ModelInferResponse, None, None], view: Callable[[ModelInferResponse], RenderableType]
) -> ModelInferResponse:
    """The last of the answers. On a terminal each is shown while it is the best, and then taken away: the caller shows the last.

    What is no terminal gets nothing: half an answer in a file is taken for a whole one. However this ends, so does the call.
    """
    last = None
    with closing(answers), Live(console=out, auto_refresh=False, transient=True) as live:
        for last in answers:
            if out.is_terminal:
                live.update(view(last), refresh=True)
    if last is None:
        raise Failure("the stream ended without an answer")
    return last

"""`infermesh ready`: does a service say that it is ready for traffic?"""

from __future__ import annotations

from typing import Annotated

import typer

from infermesh.cli.asking import connection
from infermesh.cli.console import out
from infermesh.cli.failure import Failure
from infermesh.transport.probe import CHECK_S, is_serving, wait_until_serving

__all__ = ["ready"]


def ready(
    target: Annotated[str, typer.Argument(metavar="HOST:PORT")],
    wait: Annotated[float, typer.Option("--wait", metavar="SECONDS", min=0.0, help="Ask again until then.")] = 0.0,
    live: Annotated[bool, typer.Option("--live", help="Ask about the process, not about readiness.")] = False,
) -> None:
    """Ask a service's health (grpc.health.v1); the exit status is 0 when it serves, and 1 otherwise.

    Images without this command have [bold]python -m infermesh.transport.probe HOST:PORT[/], which does the same.
    """
    service = "live" if live else ""
    tls = connection().tls
    try:
        if wait:
            good = wait_until_serving(target, wait, service=service, tls=tls)
        else:
            good = is_serving(target, service, CHECK_S, tls=tls)
    except OSError as error:
        raise Failure(f"TLS: {error.filename}: {error.strerror}", status=2) from None
    out.print(f"{target} {'serves' if good else 'does not serve'}")
    if not good:
        raise typer.Exit(1)

"""`infermesh up` and `infermesh demo`: the whole mesh on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.rule import Rule
from rich.text import Text

import infermesh
from infermesh.cli.board import Board, Line
from infermesh.cli.calls import pasteable
from infermesh.cli.console import out
from infermesh.cli.failure import Failure
from infermesh.cli.interrupts import Interrupted, interruptible
from infermesh.cli.launch import Launch, Launched, launched
from infermesh.cli.store import fill
from infermesh.cli.tour import DEMO_KEY, tour

__all__ = ["demo", "up"]

WATCH_S = 0.2
FRAMES_PER_SECOND = 2

Redis = Annotated[
    str, typer.Option("--redis", metavar="URL", help="A Redis or Valkey of your own; left out: an embedded Valkey.")
]
Port = Annotated[
    int, typer.Option("--gateway-port", metavar="PORT", min=0, max=65535, help="The gateway's port; 0: any free one.")
]
Models = Annotated[
    Path | None, typer.Option("--models", metavar="DIR", help="Folder with <model>/<version>/model.onnx.")
]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="DIR", help="Folder with <service>.yaml for each of the four services."),
]
Features = Annotated[
    Path | None,
    typer.Option("--features", metavar="DIR", help="Folder with the CSV files that the feature views name."),
]
Engine = Annotated[
    str, typer.Option("--engine", metavar="ENGINE", help="grpcio or envoy, for all services; left out: as configured.")
]
NoTour = Annotated[bool, typer.Option("--no-tour", help="Start without asking the sample models anything.")]
Plain = Annotated[bool, typer.Option("--plain", help="Lines instead of a live table; so it is without a terminal.")]
Key = Annotated[str, typer.Option("--key", envvar="INFERMESH_KEY", metavar="KEY", help="The API key of the tour.")]


def up(
    redis: Redis = "",
    gateway_port: Port = 8001,
    models: Models = None,
    config: Config = None,
    features: Features = None,
    engine: Engine = "",
    no_tour: NoTour = False,
    plain: Plain = False,
    key: Key = DEMO_KEY,
) -> None:
    """Start the whole mesh on this machine, show how it is doing, and drain it on Ctrl-C.

    What is left out is the samples': four models, their features and routes. The gateway listens on 8001; all other ports are
    any free ones. Everything listens on 127.0.0.1 alone, and ends with this command.

    [bold]What can go wrong[/]

    - A port that is taken, a configuration that can't be used, a service that can't start: one line says so, whatever runs is
    stopped, and the exit status is 1 (2 for a mistake on this line).

    - A model that does not load: one line gives the reason; all others are served.

    - A service that dies later is started again on its port, up to five times a minute, each time a little later; after that
    the others are drained, and the exit status is 1. The embedded store is started again and filled anew.

    - Ctrl-C drains everything, gateway first; a second Ctrl-C kills it.
    """
    launch = Launch.given(
        redis=redis, gateway_port=gateway_port, models=models, config=config, features=features, engine=engine
    )
    _greet()
    with ExitStack() as display:
        live: list[Live] = []

        def stay(running: Launched) -> None:
            board = display.enter_context(Board(running.mesh, lambda: _store_line(running)))
            board.refresh()
            if plain or not out.is_terminal:
                out.print(board)
                out.print("Ctrl-C drains it all")
            else:
                live.append(display.enter_context(Live(board, console=out, refresh_per_second=FRAMES_PER_SECOND)))
                out.print(Text("Ctrl-C drains it all", "bright_black"))
            _watch(running)

        def leave() -> None:
            display.close()

        _run(launch, key, None if no_tour else _tour_if_it_can_be, stay, leave)


def demo(
    redis: Redis = "",
    gateway_port: Port = 0,
    models: Models = None,
    config: Config = None,
    features: Features = None,
    engine: Engine = "",
    key: Key = DEMO_KEY,
) -> None:
    """Start the whole mesh, take the tour of `infermesh up`, and end: exit status 0, or a reason and 1."""
    launch = Launch.given(
        redis=redis, gateway_port=gateway_port, models=models, config=config, features=features, engine=engine
    )
    _greet()
    _run(launch, key, _tour)


def _tour(running: Launched, key: str) -> None:
    tour(running, key, out)
    out.print(Text("that was the tour: every answer was as the samples promise", "green"))


def _tour_if_it_can_be(running: Launched, key: str) -> None:
    """With models, routes or keys of one's own the samples may not be there: no reason to take the mesh down."""
    try:
        _tour(running, key)
    except Failure as failure:
        out.print(Text("no tour:", "yellow"), failure.text, soft_wrap=True)


def _run(
    launch: Launch,
    key: str,
    take_tour: Callable[[Launched, str], None] | None,
    stay: Callable[[Launched], None] = lambda running: None,
    leave: Callable[[], None] = lambda: None,
) -> None:
    """Start, tour, stay; `leave` takes the live table away before the drain is told about."""
    running: Launched | None = None

    def kill() -> None:
        if running is not None:
            running.mesh.kill()

    with interruptible(kill):
        try:
            with launched(launch, _say) as running:
                try:
                    mesh = running.mesh
                    out.print(
                        Text.assemble(
                            ("ready", "bold green"), f" in {running.seconds:.1f} s: gateway at ",
                            (mesh.address("gateway"), "bold cyan"),
                        )
                    )  # fmt: skip
                    if take_tour is not None:
                        take_tour(running, key)
                    out.print(Rule("calls to paste", style="bright_black", align="left"))
                    out.print(pasteable(mesh.address("gateway"), key), soft_wrap=True)
                    stay(running)
                except Interrupted:
                    leave()
                    out.print("draining; another Ctrl-C kills what is left")
                    raise
                finally:
                    leave()
        except Interrupted:
            if running is None:
                out.print("stopped before it was ready")


def _watch(running: Launched) -> None:
    """Return never: until a signal comes, or Failure when a service is given up."""
    while not running.mesh.failed.wait(WATCH_S):
        valkey = running.valkey
        if valkey is not None and not valkey.is_running:
            _say(f"store: the embedded Valkey ended; starting it again at {valkey.url}, and filling it")
            valkey.start()
            fill(running.config / "transformer.yaml", running.features, running.redis_url)
    names = ", ".join(member.name for member in running.mesh.members if member.state == "failed")
    raise Failure(f"{names} can't be kept running; everything else is drained")


def _greet() -> None:
    out.print(Text.assemble(("infermesh", "bold"), f" {infermesh.__version__}"))


def _store_line(running: Launched) -> Line:
    address = running.redis_url.rpartition("@")[2].removeprefix("redis://")
    if running.valkey is None:
        return Line("store", address, "", "not watched")  # one of the user's own
    return Line("store", address, "", "ready" if running.valkey.is_running else "ended")


def _say(line: str) -> None:
    """An event: with its time, so that lines of a long run can be told apart."""
    out.print(Text.assemble((time.strftime("%H:%M:%S "), "bright_black"), line), soft_wrap=True)

"""The live table of `infermesh up`: what runs where, in which state, and how busy it is."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from infermesh.cli.processes import Member, Mesh
from infermesh.cli.scrape import Samples, Traffic, scrape, traffic

__all__ = ["Board", "Line", "table"]

SCRAPE_S = 1.0

_STYLES = {
    "ready": "bold green",
    "starting": "yellow",
    "restarting": "bold yellow",
    "draining": "yellow",
    "stopped": "bright_black",
    "failed": "bold red",
    "ended": "bold red",
    "not watched": "bright_black",
}


@dataclass(frozen=True)
class Line:
    """One service in the table."""

    name: str
    address: str
    metrics_address: str
    state: str
    restarts: int = 0
    traffic: Traffic | None = None


def table(lines: list[Line]) -> Table:
    """The lines as a table that fits a hundred columns."""
    drawn = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), border_style="bright_black", header_style="bold"
    )
    drawn.add_column("service", style="bold", no_wrap=True)
    drawn.add_column("address", style="cyan", no_wrap=True)
    drawn.add_column("metrics", no_wrap=True)
    drawn.add_column("state", min_width=12, no_wrap=True)
    for title in ("requests", "errors", "p50 ms", "p99 ms"):
        drawn.add_column(title, justify="right", no_wrap=True)
    for line in lines:
        busy = line.traffic
        numbers = (
            [str(busy.requests), _errors(busy), _time(busy.p50_s), _time(busy.p99_s)] if busy else ["", "", "", ""]
        )
        state = Text(line.state, _STYLES.get(line.state, "yellow"))
        if line.restarts:
            state.append(f" ↻{line.restarts}", "yellow")  # how often it was started again
        drawn.add_row(line.name, line.address, line.metrics_address, state, *numbers)
    return drawn


class Board:
    """Keeps the table of a mesh current: the services' metrics are read once a second, by a thread. A context manager.

    `store` is asked for the store's line whenever the table is drawn.
    """

    def __init__(self, mesh: Mesh, store: Callable[[], Line]) -> None:
        self._mesh = mesh
        self._store = store
        self._samples: Mapping[str, Samples | None] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="board", daemon=True)

    def __enter__(self) -> Board:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def lines(self) -> list[Line]:
        """The services, and the store last."""
        return [*(self._line(member) for member in self._mesh.members), self._store()]

    def __rich__(self) -> Table:
        return table(self.lines())

    def refresh(self) -> None:
        """Read the metrics now."""
        self._samples = {member.name: scrape(member.http_address) for member in self._mesh.members}

    def _follow(self) -> None:
        while not self._over.wait(SCRAPE_S):
            self.refresh()

    def _line(self, member: Member) -> Line:
        samples = self._samples.get(member.name)
        state: str = member.state
        if state == "ready" and samples is not None and not samples.total("infermesh_ready"):
            state = "not ready"
        busy = traffic(samples) if samples is not None and member.state == "ready" else None
        return Line(member.name, member.address, member.http_address, state, member.restarts, busy)


def _errors(busy: Traffic) -> Text:
    return Text(str(busy.errors), "yellow" if busy.errors else "bright_black")


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return "–"
    return f"{seconds * 1000:.2f}" if seconds < 0.1 else f"{seconds * 1000:.0f}"

"""The live table."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from rich.console import Console

from infermesh.cli.board import Board, Line, table
from infermesh.cli.launch import Launched
from infermesh.cli.processes import Mesh
from infermesh.cli.scrape import Traffic
from infermesh.cli.up import _store_line
from infermesh.cli.valkey import Valkey
from infermesh.transport.outside import OutsideCaller


def shown(view, width: int = 100) -> list[list[str]]:
    console = Console(width=width, file=StringIO())
    console.print(view)
    return [line.split() for line in console.file.getvalue().splitlines() if line.strip()]


def test_it_fits_a_hundred_columns():
    """Even with long names, restarts and many calls nothing is cut."""
    busy = Traffic(12_345_678, 1_234, 0.00234, 0.987)

    rows = shown(table([Line("predictor-2", "127.0.0.1:31999", "127.0.0.1:31998", "restarting", 5, busy)]))

    assert rows[-1] == [
        "predictor-2",
        "127.0.0.1:31999",
        "127.0.0.1:31998",
        "restarting",
        "↻5",
        "12345678",
        "1234",
        "2.34",
        "987",
    ]


def test_before_the_first_call():
    """No call, no latency; a service that is away has no numbers."""
    rows = shown(
        table(
            [
                Line("gateway", "127.0.0.1:1", "127.0.0.1:2", "ready", 0, Traffic(0, 0, float("nan"), float("nan"))),
                Line("predictor", "127.0.0.1:3", "", "restarting"),
            ]
        )
    )

    assert rows[-2][3:] == ["ready", "0", "0", "–", "–"]
    assert rows[-1] == ["predictor", "127.0.0.1:3", "restarting"]


def test_numbers_of_a_real_service(predictor_config):
    """The table counts the calls that a service was really asked, and shows its store last."""
    with Mesh(config=predictor_config, services=["predictor"]) as mesh:
        with OutsideCaller(mesh.address("predictor")) as caller:
            caller.metadata("iris")
        board = Board(mesh, lambda: Line("store", "127.0.0.1:9", "", "ready"))
        board.refresh()

        before = shown(board)
        mesh.stop_one("predictor")
        after = shown(board)

    assert before[-2][:1] + before[-2][3:5] == ["predictor", "ready", "0"]
    assert before[-1] == ["store", "127.0.0.1:9", "ready"]
    assert after[-2][3] == "stopped"


def test_the_store_is_as_it_is():
    """An embedded store that has ended is not called ready; of a store of one's own the table claims nothing."""

    def launched(valkey: Valkey | None, url: str) -> Launched:
        return Launched(Mesh(), valkey, url, Path(), Path(), 0.0)

    with Valkey() as valkey:
        running = launched(valkey, valkey.url)
        board = Board(running.mesh, lambda: _store_line(running))

        before = shown(board)[-1]
        valkey.stop()
        after = shown(board)[-1]

    assert before == ["store", f"127.0.0.1:{valkey.port}", "ready"]
    assert after == ["store", f"127.0.0.1:{valkey.port}", "ended"]
    own = _store_line(launched(None, "redis://user:secret@store.example:6379/0"))
    assert (own.address, own.state) == ("store.example:6379/0", "not watched")

"""`infermesh features`, against a real Valkey."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from infermesh.cli.failure import Failure
from infermesh.cli.features import app
from services.transformer.config import RedisConfig


@pytest.fixture
def store(redis_config: RedisConfig) -> list[str]:
    """The options that name the store of this test."""
    return ["--redis", redis_config.url, "--prefix", redis_config.key_prefix]


def views(samples: Path) -> list[str]:
    return ["--views", str(samples / "config" / "features.yaml")]


def run(*arguments: str) -> Result:
    """Run the command in a thread's stead: it starts an event loop of its own."""
    return CliRunner().invoke(app, list(arguments))


def test_a_table_is_loaded_and_looked_at(samples: Path, store: list[str]) -> None:
    """`load` tells rows and speed, `get` shows each feature with value and status, and how old the row is."""
    loaded = run("load", str(samples / "features" / "cards.csv"), *views(samples), "--view", "card", *store)
    shown = run("get", "c-0001", *views(samples), "--view", "card", *store)

    assert loaded.exit_code == 0, loaded.output
    assert "card: 500 of 500 rows written" in loaded.output
    assert "rows/s" in loaded.output
    assert shown.exit_code == 0, shown.output
    assert "card c-0001: present, " in shown.output
    assert re.search(r"credit_limit +FP32 +4600 +present", shown.output)


def test_the_view_may_be_left_out_where_the_columns_say_it(samples: Path, store: list[str]) -> None:
    """`load` finds the view by the header of the file."""
    loaded = run("load", str(samples / "features" / "patients.csv"), *views(samples), *store)

    assert "patient: 569 of 569 rows written" in loaded.output


def test_an_entity_that_is_not_stored_is_shown_as_missing(samples: Path, store: list[str]) -> None:
    """`get` of an unknown id shows the defaults that would be served, or that the call would fail."""
    card = run("get", "c-9999", *views(samples), "--view", "card", *store)
    patient = run("get", "p-9999", *views(samples), "--view", "patient", *store)

    assert "card c-9999: missing" in card.output
    assert "defaulted" in card.output
    assert "fails" in patient.output


def test_refused_rows_are_named(samples: Path, store: list[str], tmp_path: Path) -> None:
    """Rows that do not fit are told with line and reason, and the command ends with status 1."""
    header = (samples / "features" / "cards.csv").read_text().splitlines()[0]
    table = tmp_path / "cards.csv"
    table.write_text(f"{header}\nc-1,1,2,3,4,5,6,7,8\nc-2,1,2,3,4,5,6,7,much\n")

    loaded = run("load", str(table), *views(samples), *store)

    assert loaded.exit_code == 1
    assert "card: 1 of 2 rows written" in loaded.output
    assert "refused: line 3: feature \"home_country_risk\": expected FP32, got 'much'" in loaded.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["load", "none.csv"], "none.csv: can't be read"),
        (["load", "none.csv", "--view", "kard"], 'has no view "kard"'),
        (["get", "c-1"], "has the views card, patient"),
        (
            ["get", "c-1", "--view", "card", "--redis", "http://there"],
            "url: expected an address that begins with one of",
        ),
        (["get", "c-1", "--view", "card", "--redis", "redis://127.0.0.1:1"], "the feature store does not answer"),
        (["load", "{cards}", "--ttl", "30"], "--ttl: expected a duration with its unit"),
        (["get", "", "--view", "card"], "the entity id is empty"),
    ],
)
def test_what_a_user_did_wrong_is_one_line(samples: Path, store: list[str], arguments: list[str], words: str) -> None:
    """Wrong files, views, addresses and durations end in a Failure with what was wrong, never in a traceback."""
    cards = str(samples / "features" / "cards.csv")
    arguments = [argument.format(cards=cards) for argument in arguments]
    options = [] if "--redis" in arguments else store

    result = run(*arguments, *views(samples), *options)

    assert isinstance(result.exception, Failure)
    assert words in result.exception.text
    assert result.exception.status == 1


def test_a_command_leaves_no_loop_behind(samples: Path, store: list[str]) -> None:
    """The command can be run again in one process, as tests and notebooks do."""
    for _ in range(2):
        assert run("get", "c-1", *views(samples), "--view", "card", *store).exit_code == 0

    assert asyncio.run(asyncio.sleep(0, True))

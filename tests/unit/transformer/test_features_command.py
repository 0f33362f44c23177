"""`infermesh features`, against a real Valkey."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from infermesh.cli.failure import Failure
from infermesh.cli.features import app
from services.transformer.config import RedisConfig

ROOT = Path(__file__).parents[3]


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
        (["get", "c-1"], "has the views card, customer, patient"),
        (["get", "kard", "c-1"], '"kard" is none of the views of'),
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


def options(samples: Path, store: list[str]) -> list[str]:
    return [*views(samples), *store]


CARDS = "card_id,card_age_days,credit_limit,average_amount_30d,transactions_24h,declines_7d,distance_from_home_km,"
CARDS += "foreign_share_90d,home_country_risk"


def cards_of(file: Path, rows: int) -> Path:
    file.write_text("\n".join([CARDS, *(f"c-{n},1,2,3,4,5,6,7,8" for n in range(rows))]))
    return file


def test_several_entities_are_shown_as_json(samples: Path, store: list[str]) -> None:
    """The view may be the first word; each entity is an object with what is stored, its status, and what would be served."""
    run("load", str(samples / "features" / "cards.csv"), *options(samples, store))

    shown = run("get", "card", "c-0001", "c-9999", "--json", *options(samples, store))

    there, missing = map(json.loads, shown.output.splitlines())
    assert (there["entity"], there["status"]) == ("c-0001", "PRESENT")
    assert there["features"]["credit_limit"]["stored"] == 4600.0
    assert there["event_time"].endswith("Z")
    assert (missing["status"], missing["event_time"]) == ("MISSING", None)
    assert missing["features"]["credit_limit"] == {
        "datatype": "FP32", "stored": None, "status": "MISSING", "served": "defaulted", "age_s": None,
    }  # fmt: skip


def test_a_dry_run_writes_nothing(samples: Path, store: list[str], tmp_path: Path) -> None:
    """Every row is checked, and what would be refused is told with the same status; the store is not touched."""
    file = cards_of(tmp_path / "cards.csv", 3)
    file.write_text(file.read_text() + "\nc-bad,much,2,3,4,5,6,7,8")

    checked = run("load", str(file), "--dry-run", *options(samples, store))

    assert checked.exit_code == 1
    assert "card: 3 of 4 rows fit; nothing was written" in checked.output
    assert "refused: line 5" in checked.output
    assert "c-0: missing" in run("get", "card", "c-0", *options(samples, store)).output


def test_a_load_that_was_interrupted_goes_on(samples: Path, store: list[str], tmp_path: Path) -> None:
    """After Ctrl-C the status is 130 and a hint says how to go on; `--resume` deals with the rest, and once only."""
    file = cards_of(tmp_path / "cards.csv", 7000)
    command = [sys.executable, "-c", INTERRUPTING, "load", str(file), *options(samples, store)]

    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    again = run("load", str(file), *options(samples, store), "--dry-run")
    resumed = run("load", str(file), "--resume", *options(samples, store))
    anew = run("load", str(file), "--resume", *options(samples, store))

    assert ended.returncode == 130, ended.stderr
    assert "error: interrupted" in ended.stderr
    assert "4,000 rows are dealt with; the same command with --resume goes on from there" in ended.stderr
    assert "7,000 of 7,000 rows fit" in again.output
    assert "card: 3,000 of 3,000 rows written" in resumed.output
    assert "4,000 rows before them were dealt with by an earlier load" in resumed.output
    assert "card: 7,000 of 7,000 rows written" in anew.output  # nothing is left of a load that came to its end
    assert "present" in run("get", "card", "c-0", *options(samples, store)).output


# A real SIGINT at a known row.
INTERRUPTING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests in the background may ignore it
from infermesh.cli import features_load
from infermesh.cli.main import app
tell = features_load._bar.tell
def told(self, summary):
    tell(self, summary)
    if summary.rows == 4000:
        os.kill(os.getpid(), signal.SIGINT)
features_load._bar.tell = told
sys.argv[1:1] = ["features"]
app()
"""


def test_rows_may_have_a_time_to_live(samples: Path, store: list[str], tmp_path: Path) -> None:
    """`--ttl` lets rows go by themselves."""
    run("load", str(cards_of(tmp_path / "cards.csv", 3)), "--ttl", "30d", *options(samples, store))

    shown = run("stats", "card", *options(samples, store))

    assert "100% have a time to live" in shown.output


def test_what_was_applied_is_listed_and_guarded(samples: Path, store: list[str], tmp_path: Path) -> None:
    """`apply` shows changes and refuses those that leave rows unread; then `load` refuses a file of another schema."""
    changed = tmp_path / "features.yaml"
    text = (samples / "config" / "features.yaml").read_text()
    changed.write_text(text.replace("name: credit_limit", "name: ceiling"))
    original = str(samples / "config" / "features.yaml")

    assert "nothing was applied to this store" in run("ls", *store).output
    first = run("apply", original, *store)
    again = run("apply", original, *store)
    refused = run("apply", str(changed), *store)
    dry = run("apply", str(changed), "--dry-run", "--force", *store)
    listed = run("ls", *store)
    loaded = run("load", str(cards_of(tmp_path / "c.csv", 2)), "--views", str(changed), "--view", "card", *store)
    forced = run("apply", str(changed), "--force", *store)

    assert re.search(r"new +view card", first.output)
    assert "applied: 6 of 6 views and services" in first.output
    assert "applied: 0 of 6 views and services" in again.output
    assert "features.ceiling: added" in refused.output
    assert isinstance(refused.exception, Failure)
    assert "view:card would leave stored rows unread" in refused.exception.text
    assert "would be applied: 1 of 6" in dry.output
    assert re.search(r"card +8 +[0-9a-f]{8} +1 +~?0", listed.output)
    assert isinstance(loaded.exception, Failure)
    assert "the store was told of" in loaded.exception.text
    assert "applied: 1 of 6" in forced.output
    assert re.search(r"card +8 +[0-9a-f]{8} +2 ", run("ls", *store).output)


def test_a_folder_is_applied_as_one(samples: Path, store: list[str], tmp_path: Path) -> None:
    """All files that hold views and services are taken, others are left; a name in two files is refused."""
    shown = run("apply", str(samples / "config"), *store)
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text((samples / "config" / "features.yaml").read_text())
    twice = run("apply", str(tmp_path), *store)

    assert "applied: 6 of 6" in shown.output
    assert isinstance(twice.exception, Failure)
    assert '"breast-cancer" stands in another file of the folder too' in twice.exception.text


def test_rows_are_deleted_when_somebody_says_yes(samples: Path, store: list[str], tmp_path: Path) -> None:
    """Without a yes nothing goes; entities go by name, all by request."""
    run("load", str(cards_of(tmp_path / "cards.csv", 5)), *options(samples, store))

    no = CliRunner().invoke(app, ["delete", "card", "--all", *options(samples, store)], input="n\n")
    some = run("delete", "card", "c-1", "c-1", "c-none", "--yes", *options(samples, store))
    both = run("delete", "card", "c-1", "--all", "--yes", *options(samples, store))
    rest = run("delete", "card", "--all", "--yes", *options(samples, store))

    assert isinstance(no.exception, Failure)
    assert no.exception.text == "nothing was deleted"
    assert "card: 1 of 2 rows deleted" in some.output
    assert isinstance(both.exception, Failure)
    assert "card: 4 rows deleted" in rest.output


def test_delete_asks_about_as_many_rows_as_there_are_ids(samples: Path, store: list[str]) -> None:
    """An id that was given twice is one row."""
    asked = CliRunner().invoke(app, ["delete", "card", "c-1", "x", "x", *options(samples, store)], input="n\n")

    assert "Delete 2 rows of view card" in asked.output


def test_a_view_that_others_write_is_not_loaded_by_its_columns(store: list[str], tmp_path: Path) -> None:
    """Where a view of hashes has the same columns, a file is for the one that can be loaded."""
    view = {"entity": {"name": "id"}, "features": [{"name": "a"}]}
    declared = tmp_path / "views.yaml"
    declared.write_text(json.dumps({"views": {"h": {**view, "layout": "hash"}, "card": view}}))
    table = tmp_path / "c.csv"
    table.write_text("id,a\nx,1\n")

    loaded = run("load", str(table), "--views", str(declared), *store)

    assert "card: 1 of 1 rows written" in loaded.output


def test_a_reader_that_goes_away_is_no_fault(samples: Path, store: list[str]) -> None:
    """`get --json | head -1` ends without a traceback."""
    ids = [f"c-{n}" for n in range(3000)]
    command = [
        sys.executable,
        "-m",
        "infermesh.cli.main",
        "features",
        "get",
        "card",
        *ids,
        "--json",
        *options(samples, store),
    ]

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read().decode()
        process.wait()

    assert "Traceback" not in said
    assert process.returncode == 1

"""What a board keeps over restarts, and for how long."""

from __future__ import annotations

import json

import pytest

from services.gateway.compare.board import Board
from services.gateway.compare_frames import PAIR, SETTINGS
from tests.unit.gateway.compare.boards import board, feed, head, reports, settings
from tests.unit.gateway.compare.pairs import fraud

DAY_S = 86_400


def test_results_are_kept_over_a_restart(clock, tmp_path):
    """At the end, and every 30 s; a process that was killed goes on from the last time."""
    first = board(clock, tmp_path / "state")
    feed(first, 60)
    clock.now += 31
    first.tick()
    feed(first, 5)

    killed = board(clock, tmp_path / "state")
    assert [each.pairs for each in reports(killed)] == [60]
    before = reports(first)[0].verdict.findings
    first.close()
    ended = board(clock, tmp_path / "state")
    feed(ended, 1)

    assert [each.pairs for each in reports(ended)] == [66]
    assert [each.text for each in reports(killed)[0].verdict.findings] != []
    assert before


def test_kept_results_wait_for_their_shadow(clock, tmp_path):
    """A route that comes back with a later table has them, and they are not dropped from the file meanwhile."""
    first = board(clock, tmp_path / "state")
    feed(first, 5)
    first.close()
    second = Board(tmp_path / "state", 30.0, clock=clock, wall_clock=clock)
    second.take(SETTINGS, (settings(("iris", "candidate")),))
    feed(second, 1, model="iris")
    second.close()

    third = Board(tmp_path / "state", 30.0, clock=clock, wall_clock=clock)
    third.take(SETTINGS, (settings(("iris", "candidate"), ("fraud", "candidate")),))

    assert [(each.model, each.pairs) for each in reports(third)] == [("fraud", 5), ("iris", 1)]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"comparisons": [1]}',
        b"\xff",
        b'{"comparisons": [{"model": "fraud", "shadow": "candidate", "variant": "stable", "state": {}}]}',
        b'{"comparisons": null}',
        b"[" * 100_000,
    ],
)
def test_a_file_that_can_t_be_used(clock, tmp_path, content):
    """Damaged or foreign: comparisons begin anew, and are kept again."""
    (tmp_path / "state").write_bytes(content)

    there = board(clock, tmp_path / "state")
    feed(there, 2)
    there.close()

    assert [each.pairs for each in reports(board(clock, tmp_path / "state"))] == [2]


def test_a_full_disk(clock, tmp_path):
    """What was kept before stays whole, the failure is counted, and comparing goes on."""
    there = board(clock, tmp_path / "state")
    feed(there, 2)
    there.close()
    (tmp_path / "state.new").symlink_to("/dev/full")
    feed(there, 3)
    clock.now += 31

    assert there.tick()["infermesh_shadow_save_failures"] == 1
    assert [each.pairs for each in reports(there)] == [5]
    assert [each.pairs for each in reports(board(clock, tmp_path / "state"))] == [2]


def test_a_file_is_for_one_process(clock, tmp_path):
    """A second gateway with the same file compares, keeps nothing, and says so; what the first one kept stays whole."""
    first, second = board(clock, tmp_path / "state"), board(clock, tmp_path / "state")
    feed(first, 3)
    feed(second, 4)

    second.close()
    first.close()

    assert second.tick()["infermesh_shadow_save_failures"] == 1
    assert [each.pairs for each in reports(board(clock, tmp_path / "state"))] == [3]
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o600


def test_a_comparison_that_began_anew_says_so(clock, tmp_path):
    """How often, and which versions it is of; after a restart too."""
    there = board(clock, tmp_path / "state")
    answered = json.loads(head())
    for other in ("4", "5", "6"):
        answered["primary"], answered["other"] = ["OK", 0.1, "1"], ["OK", 0.1, other]
        there.take(PAIR, (json.dumps(answered).encode(), fraud(0.2), fraud(0.2)))
    there.close()

    for each in (there, board(clock, tmp_path / "state")):
        (report,) = reports(each)
        assert "version 6 of the shadow beside version 1 of the primary; begun anew 2 times" in report.verdict.notes[0]


def test_shadows_that_left_the_routes_are_forgotten_after_a_week(clock, tmp_path):
    """Their results can be read until then, and are kept over restarts; one that comes back stays."""
    there = board(clock, tmp_path / "state")
    feed(there, 5)
    there.take(SETTINGS, (settings(),))
    clock.now += 6 * DAY_S
    there.tick()
    assert len(reports(there)) == 1
    there.take(SETTINGS, (settings(("fraud", "candidate")),))
    there.take(SETTINGS, (settings(),))
    clock.now += 6 * DAY_S
    there.tick()
    assert len(reports(there)) == 1
    there.close()

    again = Board(tmp_path / "state", 30.0, clock=clock, wall_clock=clock)
    again.take(SETTINGS, (settings(),))
    clock.now += 2 * DAY_S
    again.tick()
    again.take(SETTINGS, (settings(("fraud", "candidate")),))
    there.tick()

    assert reports(again) == []
    assert reports(there) == []


def test_one_damaged_entry_costs_no_other(clock, tmp_path):
    """Entries that are no comparison are left out, whatever is in them."""
    first = board(clock, tmp_path / "state")
    feed(first, 3)
    first.close()
    whole = json.loads((tmp_path / "state").read_bytes())["comparisons"]
    damaged = [
        {**whole[0], "variant": "null", "state": None},
        {**whole[0], "variant": "list", "state": [["version", 1]]},
        {**whole[0], "variant": 7},
        {**whole[0], "variant": "gone", "gone_s": "yesterday"},
        {**whole[0], "variant": "deep", "state": {"version": 1, "of": {}}},
        None,
        {},
    ]
    (tmp_path / "state").write_text(json.dumps({"comparisons": damaged + whole}))

    there = board(clock, tmp_path / "state")

    assert {each.variant: each.pairs for each in reports(there) if each.pairs} == {"stable": 3}


def test_nothing_is_reckoned_while_settings_are_taken(clock, tmp_path):
    """What was kept is read back when it is wanted, or in ticks that end in time: a thousand of them would seem a hang."""
    first = board(clock, tmp_path / "state")
    for number in range(5):
        feed(first, 1, variant=f"v{number}")
    first.close()

    second = board(clock, tmp_path / "state")
    begun = second._begun
    second._begun = lambda *args: (setattr(clock, "now", clock.now + 1.0), begun(*args))[1]
    at = clock.now
    second.take(SETTINGS, (settings(("fraud", "candidate")),))
    assert clock.now == at
    second.tick()
    assert clock.now == at + 1
    feed(second, 1, variant="v0")

    assert [each.pairs for each in reports(second, model="fraud")] == [2, 1, 1, 1, 1]

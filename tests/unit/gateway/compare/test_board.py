"""All comparisons of the comparing process: settings, pairs, reports, gauges, and what is kept in a file."""

from __future__ import annotations

import json

import numpy as np
import pytest

from infermesh.protocol import shadow_reports_pb2 as pb
from services.gateway.compare.board import Board
from services.gateway.compare_frames import PAIR, RESET, SEPARATOR, SETTINGS
from tests.unit.gateway.compare.boards import board, feed, head, reports, settings
from tests.unit.gateway.compare.pairs import answer, fraud


def test_pairs_are_counted_by_the_variant_that_answered(clock):
    """A canary's answers and the stable version's are not thrown together; a failure of the shadow is a code."""
    there = board(clock)
    feed(there, 60)
    feed(there, 3, variant="canary")
    there.take(PAIR, (head(99, code="UNAVAILABLE"), fraud(0.2), b""))

    canary, stable = reports(there, model="fraud")

    assert (canary.variant, canary.pairs) == ("canary", 3)
    assert canary.verdict.state == pb.Verdict.NOT_ENOUGH
    assert (stable.variant, stable.pairs, stable.repeats) == ("stable", 60, 0)
    assert {(each.primary, each.other): each.count for each in stable.codes} == {
        ("OK", "OK"): 60,
        ("OK", "UNAVAILABLE"): 1,
    }
    flipped = next(each for each in stable.events if each.what == "label")
    assert (flipped.shadow.hits, flipped.shadow.of) == (60, 60)
    assert stable.worst[0].request_id.startswith("r")
    assert stable.latency.shadow.p50 == pytest.approx(0.003, rel=0.02)
    assert sum(stable.latency.shadow_histogram.counts) == 60


def test_reports_by_model_and_shadow(clock):
    """Empty names mean all; unknown ones nothing."""
    there = Board(None, 30.0, clock=clock, wall_clock=clock)
    there.take(SETTINGS, (settings(("fraud", "candidate"), ("iris", "candidate")),))
    feed(there, 1)
    feed(there, 1, model="iris")

    assert [each.model for each in reports(there)] == ["fraud", "iris"]
    assert [each.model for each in reports(there, model="iris", shadow="candidate")] == ["iris"]
    assert reports(there, model="iris", shadow="other") == []
    assert reports(there, model="nothing") == []


def test_pairs_of_nothing_that_is_compared(clock):
    """Of a route that has gone in the meantime: counted, and no memory is held."""
    there = board(clock)

    feed(there, 2, model="other")

    assert reports(there) == []
    assert there.tick()["infermesh_shadow_pairs_unknown"] == 2


def test_answers_that_are_none_harm_nobody(clock):
    """Bytes that are no message, for one pair."""
    there = board(clock)
    there.take(PAIR, (head(0), fraud(0.2), b"\xff\xff\xff"))
    feed(there, 1)

    (report,) = reports(there)
    assert report.pairs == 2
    assert report.structure[0].count == 1


def test_gauges_are_told_now_and_then(clock):
    """With their labels; a shadow that is no longer compared has none."""
    there = board(clock)
    feed(there, 2)
    there.tick()
    feed(there, 3)
    assert there.tick()[SEPARATOR.join(("infermesh_shadow_pairs", "fraud", "candidate", "stable"))] == 2
    clock.now += 6

    told = there.tick()

    assert told[SEPARATOR.join(("infermesh_shadow_pairs", "fraud", "candidate", "stable"))] == 5
    share = SEPARATOR.join(("infermesh_shadow_event_share", "fraud", "candidate", "stable", "label", "label", "shadow"))
    assert told[share] == 1.0
    there.take(SETTINGS, (settings(),))
    assert not any("candidate" in key for key in there.tick())
    assert len(reports(there)) == 1  # what was found can still be read


def test_a_reset_forgets(clock):
    """Everything that was counted for a shadow; the next pair begins anew."""
    there = board(clock)
    feed(there, 5)

    gone = pb.ResetResponse.FromString(there.answer(RESET + pb.ResetRequest(model="fraud").SerializeToString()))
    feed(there, 1)

    assert gone.forgotten == 1
    assert [each.pairs for each in reports(there)] == [1]


def test_other_settings_begin_anew(clock, tmp_path):
    """What was counted by another tolerance is no part of it; what only judges (alpha) keeps the counts."""
    there = board(clock)
    feed(there, 5)
    there.take(SETTINGS, (settings(("fraud", "candidate"), alpha=0.01),))
    assert [each.pairs for each in reports(there)] == [5]

    there.take(SETTINGS, (settings(("fraud", "candidate"), atol=0.1),))

    assert [each.pairs for each in reports(there)] == [0]


def test_memory_has_a_bound(clock):
    """However many variants and request ids come."""
    there = board(clock)
    for number in range(1100):
        there.take(PAIR, (head(number, variant=f"v{number}"), fraud(0.2), fraud(0.8)))

    assert len(reports(there)) == 1000
    assert there.tick()["infermesh_shadow_pairs_unknown"] == 100


def test_another_candidate_begins_anew(clock):
    """By the route, or by the version that answers: answers of two models are no distribution of one."""
    there = board(clock)
    feed(there, 5)
    told = json.loads(settings(("fraud", "candidate")))
    there.take(SETTINGS, (json.dumps([{**told[0], "target": "predictor//3"}]).encode(),))
    feed(there, 1)
    there.take(SETTINGS, (json.dumps([{**told[0], "target": "predictor//4"}]).encode(),))
    assert reports(there) == []

    answered = json.loads(head())
    for primary, other, expected in (("1", "4", 1), ("1", "4", 2), ("1", "5", 1), ("2", "5", 1), ("2", "5", 2)):
        answered["primary"], answered["other"] = ["OK", 0.1, primary], ["OK", 0.1, other]
        there.take(PAIR, (json.dumps(answered).encode(), fraud(0.2), fraud(0.2)))
        assert [each.pairs for each in reports(there)] == [expected]


def test_gauges_of_many_take_their_turns(clock):
    """A tick goes on only for so long, whatever there is to reckon: the process must not seem to hang."""
    there = board(clock)
    for number in range(5):
        feed(there, 1, variant=f"v{number}")
    reckoned = there._all
    for key in reckoned:
        report = reckoned[key].report
        reckoned[key].report = lambda report=report: (setattr(clock, "now", clock.now + 1.0), report())[1]

    counts = [sum(key.startswith("infermesh_shadow_pairs\x1f") for key in there.tick()) for _ in range(6)]

    assert counts == [1, 2, 3, 4, 5, 5]


def test_shadows_that_left_the_routes_make_room(clock):
    """When all places are taken, the one that left first goes first; pairs of others are counted and not held."""
    there = board(clock)
    feed(there, 1)
    there.take(SETTINGS, (settings(("iris", "candidate")),))
    clock.now += 1
    for number in range(1001):
        feed(there, 1, model="iris", variant=f"v{number}")

    assert len(reports(there)) == 1000
    assert reports(there, model="fraud") == []
    assert there.tick()["infermesh_shadow_pairs_unknown"] == 1


def test_many_reports_are_answered_in_time(clock):
    """Past some seconds those that were reckoned before are told as they were."""
    there = board(clock)
    for number in range(8):
        feed(there, 1, variant=f"v{number}")
    assert len(reports(there)) == 8
    for number in range(8):
        feed(there, 1, variant=f"v{number}")
        report = there._all["fraud", "candidate", f"v{number}"].report
        there._all["fraud", "candidate", f"v{number}"].report = lambda report=report: (
            setattr(clock, "now", clock.now + 2.0),
            report(),
        )[1]

    assert [each.pairs for each in reports(there)] == [2, 2, 2, 1, 1, 1, 1, 1]


def test_labels_hold_no_control_characters(clock):
    """Names come from answers."""
    there = board(clock, outputs=[], thresholds=[], classes=[])
    odd = answer(("a\x1fb\x00\nc", "FP32", np.array([[0.5]], "<f4")))
    there.take(PAIR, (head(), odd, odd))

    told = [key for key in there.tick() if key.startswith("infermesh_shadow_difference" + SEPARATOR)]

    assert [key.split(SEPARATOR)[4] for key in told] == ["a?b??c", "a?b??c"]


def test_what_could_not_be_reckoned_in_time_is_told(clock):
    """Never left out: a report that says that it waits, and is one at the next question."""
    there = board(clock)
    for number in range(3):
        feed(there, 1, variant=f"v{number}")
        report = there._all["fraud", "candidate", f"v{number}"].report
        there._all["fraud", "candidate", f"v{number}"].report = lambda report=report: (
            setattr(clock, "now", clock.now + 3.0),
            report(),
        )[1]

    first = reports(there)
    again = reports(there, shadow="candidate")

    assert [each.pairs for each in first] == [1, 1, 0]
    assert first[2].verdict.text == "not reckoned yet, there are too many: ask again"
    assert first[2].verdict.state == pb.Verdict.NOT_ENOUGH
    assert [each.variant for each in again] == ["v0", "v1", "v2"]


def test_a_comparison_that_can_t_be_reported_on_harms_no_other(clock, caplog):
    """It begins anew, and the log says why; the others are reported and told of."""
    there = board(clock)
    feed(there, 3)
    feed(there, 5, variant="canary")

    def fails() -> None:
        raise ValueError("as told")

    there._all["fraud", "candidate", "stable"].report = fails

    canary, stable = reports(there)

    assert (canary.pairs, stable.pairs) == (5, 0)
    assert stable.verdict.notes[0] == "begun anew 1 time"
    assert "no report can be made" in caplog.text
    told = there.tick()
    assert told[SEPARATOR.join(("infermesh_shadow_pairs", "fraud", "candidate", "canary"))] == 5

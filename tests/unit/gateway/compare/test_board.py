"""All comparisons of the comparing process: settings, pairs, reports, gauges, and what is kept in a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infermesh.protocol import shadow_reports_pb2 as pb
from services.gateway.compare.board import Board
from services.gateway.compare_config import CompareConfig
from services.gateway.compare_frames import PAIR, REPORT, RESET, SEPARATOR, SETTINGS
from tests.unit.gateway.compare.pairs import FRAUD, fraud

CONFIG = {**FRAUD, "min_pairs": 50, "bin_from": 50, "repeat": 0.0}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def settings(*shadows: tuple[str, str], **config) -> bytes:
    """What the gateway says first."""
    compare = CompareConfig(**{**CONFIG, **config}).model_dump(mode="json")
    return json.dumps([{"model": m, "shadow": s, "compare": compare} for m, s in shadows]).encode()


def head(
    number: int = 0, *, model: str = "fraud", variant: str = "stable", kind: str = "shadow", code: str = "OK"
) -> bytes:
    return json.dumps(
        {
            "kind": kind,
            "model": model,
            "shadow": "candidate",
            "variant": variant,
            "request_id": f"r{number}",
            "at_s": 1000.0 + number,
            "primary": ["OK", 0.002],
            "other": [code, 0.003],
        }
    ).encode()


def board(clock: Clock, state: Path | None = None, **config) -> Board:
    made = Board(state, 30.0, clock=clock)
    made.take(SETTINGS, (settings(("fraud", "candidate"), **config),))
    return made


def feed(to: Board, count: int, **about) -> None:
    """Pairs in which the candidate says the opposite."""
    for number in range(count):
        to.take(PAIR, (head(number, **about), fraud(0.2), fraud(0.8)))


def reports(of: Board, **asked: str) -> list[pb.Report]:
    return list(pb.ReportResponse.FromString(of.answer(REPORT + pb.ReportRequest(**asked).SerializeToString())).reports)


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
    there = Board(None, 30.0, clock=clock)
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
    second = Board(tmp_path / "state", 30.0, clock=clock)
    second.take(SETTINGS, (settings(("iris", "candidate")),))
    feed(second, 1, model="iris")
    second.close()

    third = Board(tmp_path / "state", 30.0, clock=clock)
    third.take(SETTINGS, (settings(("iris", "candidate"), ("fraud", "candidate")),))

    assert [(each.model, each.pairs) for each in reports(third)] == [("fraud", 5), ("iris", 1)]


def test_other_settings_begin_anew(clock, tmp_path):
    """What was counted by another tolerance is no part of it; what only judges (alpha) keeps the counts."""
    there = board(clock)
    feed(there, 5)
    there.take(SETTINGS, (settings(("fraud", "candidate"), alpha=0.01),))
    assert [each.pairs for each in reports(there)] == [5]

    there.take(SETTINGS, (settings(("fraud", "candidate"), atol=0.1),))

    assert [each.pairs for each in reports(there)] == [0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"comparisons": [1]}',
        b"\xff",
        b'{"comparisons": [{"model": "fraud", "shadow": "candidate", "variant": "stable", "state": {}}]}',
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

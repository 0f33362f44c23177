"""Tests of a whole comparison: what is planted is found, noise is not, and faults cost nothing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy import stats

from services.gateway.compare.comparison import Comparison, OtherState
from services.gateway.compare.report import EventReport, Report
from services.gateway.compare_config import CompareConfig
from tests.unit.gateway.compare.pairs import FRAUD, Scores, answer, compared, fraud, pair, planted, same_model

QUICK = {"bin_from": 100}


def event(report: Report, what: str, detail: str = "") -> EventReport:
    (found,) = [each for each in report.events if each.what == what and each.detail == detail]
    return found


def found(report: Report) -> set[str]:
    return {each.what for each in report.verdict.findings}


def test_a_planted_flip_rate_is_found() -> None:
    """4 % of the answers turned round: said with an interval that holds it, as more than the primary's 0 %."""
    report = compared(planted(1, 1000, flips=0.04)).report()

    flips = event(report, "label")
    assert report.verdict.state == "differs"
    assert {"label", "largest_column", "outside", "rises", "falls"} <= found(report)
    assert flips.shadow.low <= 0.04 <= flips.shadow.high
    assert flips.repeat.hits == 0
    (text,) = [each.text for each in report.verdict.findings if each.what == "label"]
    assert text.startswith(f"label: label differs in {100 * flips.shadow.share:.1f} % (95 % ")


def test_flips_of_one_direction_are_told_from_those_of_the_other() -> None:
    """A shadow that adds to every score makes rows reach the threshold, and none leave it."""
    report = compared(planted(2, 600, shift=0.4)).report()

    assert "rises" in found(report)
    assert "falls" not in found(report)
    assert event(report, "falls", "fraud at 0.5").shadow.hits == 0


def test_a_planted_shift_is_found() -> None:
    """Scores 0.2 higher in the logit: the distribution is another one, and the interval holds the mean difference."""
    scores = Scores(33)
    many, _ = scores.twice(200_000)
    true = float(np.mean(1 / (1 + (1 - many) / many * np.exp(-0.2)) - many))

    report = compared(planted(3, 600, shift=0.2), **QUICK).report()

    (column,) = [each for each in report.shifts if each.column == "fraud"]
    assert "shift" in found(report)
    assert column.psi is not None and column.psi > 0
    assert column.mean_low is not None and column.mean_high is not None
    assert column.mean_low <= true <= column.mean_high


def test_a_planted_outlier_is_found() -> None:
    """One call in a thousand that is far off: the largest difference, and the first of the worst, with its request id."""
    comparison = compared(same_model(4, 0.0, 999, 60))
    comparison.add(pair(answer(*_scored(0.01)), answer(*_scored(250.0)), name="the-one"))

    report = comparison.report()

    (output,) = [each for each in report.outputs if each.name == "probabilities"]
    assert output.max_abs.largest == pytest.approx(249.99)
    assert output.max_abs.p99 < 1e-5
    assert report.worst[0].request_id == "the-one"


def test_larger_differences_than_the_primarys_own_are_found() -> None:
    """Every element within tolerance, yet always further off than the primary from itself: sizes tell."""
    comparison = compared(iter(()), rtol=0.1, atol=0.1)
    numbers = np.random.default_rng(5)
    for kind, size, count in (("shadow", 1e-3, 300), ("repeat", 1e-6, 60)):
        for score in numbers.uniform(0.6, 0.9, count):
            comparison.add(pair(fraud(score), fraud(score + numbers.normal(0, size)), kind))  # type: ignore[arg-type]

    assert "magnitude" in found(comparison.report())


@pytest.mark.parametrize("noise", [0.0, 0.2], ids=["rounding", "labels flip"])
def test_one_model_beside_itself_gives_no_findings(noise: float) -> None:
    """Of 100 seeded runs no more find anything than 5 % would by chance, at one in a thousand."""
    wrong = sum(bool(_same(seed, noise).verdict.findings) for seed in range(100))

    assert wrong <= stats.binom.ppf(0.999, 100, 0.05)


@pytest.mark.long
@pytest.mark.parametrize("noise", [0.0, 0.2], ids=["rounding", "labels flip"])
def test_one_model_beside_itself_gives_no_findings_in_many_runs(noise: float) -> None:
    """Findings in at most 5 % of 1,000 seeded runs."""
    assert sum(bool(_same(seed, noise).verdict.findings) for seed in range(1000)) <= 50


@pytest.mark.long
def test_stated_intervals_cover_what_is_planted() -> None:
    """Flip rate in at least 93 % of 400 runs, from messages to report."""
    held = 0
    for seed in range(400):
        flips = event(compared(planted(seed, 300, flips=0.05, repeats=20)).report(), "label").shadow
        held += flips.low <= 0.05 <= flips.high

    assert held / 400 >= 0.93


def test_a_verdict_says_what_it_could_not_have_found() -> None:
    """With 40 repeats even 10 % of other labels might be noise; with 400, 1 % might."""
    few, many = (compared(same_model(15, 0.0, 200, count)).report().verdict for count in (40, 400))

    assert "in less than 12.4 % of the calls" in few.text
    assert "in less than 1.3 % of the calls" in many.text


def test_noise_that_flips_labels_is_noise() -> None:
    """Labels that differ as often between the primary and itself are counted, and are no finding."""
    report = _same(7, 0.2)

    assert event(report, "label").shadow.hits > 0
    assert event(report, "label").repeat.hits > 0
    assert report.verdict.state == "within noise"


def test_too_few_pairs_are_not_judged() -> None:
    """What is missing is said; counts are there, p-values are not."""
    report = compared(planted(8, 40, flips=1.0, repeats=3)).report()

    assert report.verdict.text == "not enough pairs yet: 40 of 200; not enough repeats yet: 3 of 20"
    assert report.verdict.findings == ()
    assert event(report, "label").shadow.hits == 40
    assert all(each.p is None for each in report.events)


def test_a_report_on_nothing_is_one() -> None:
    """Before the first pair there is a report, and a state."""
    comparison = compared(iter(()))

    assert comparison.report().verdict.state == "not enough"
    assert json.loads(json.dumps(comparison.state(), allow_nan=False))["version"] == 1


def test_without_repeats_only_differences_in_kind_are_said() -> None:
    """Labels that differ are told, as not held against noise; sizes, which always differ, are not."""
    flipped = compared(planted(9, 300, flips=0.05, repeats=0), repeat=0).report()
    rounded = compared(planted(9, 300, repeats=0), repeat=0).report()

    assert {"label", "rises", "falls"} <= found(flipped) <= {"label", "largest_column", "rises", "falls", "shift"}
    assert "not held against noise" in flipped.verdict.text
    assert "how often the primary differs from itself is not known" in flipped.verdict.findings[0].text
    assert rounded.verdict.state == "nothing seen"
    assert "the noise floor is not known" in rounded.verdict.text


def test_another_structure_is_found_and_named() -> None:
    """A shadow with another name for an output: each difference by name, nothing of it is compared."""
    comparison = compared(iter(()))
    for _ in range(200):
        comparison.add(pair(fraud(0.2), answer(("score", "FP32", np.zeros((1, 2), "<f4")))))
    for _ in range(20):
        comparison.add(pair(fraud(0.2), fraud(0.2), "repeat"))

    report = comparison.report()

    assert found(report) == {"structure"}
    assert dict(report.structure) == {
        'output "label" is missing': 200,
        'output "probabilities" is missing': 200,
        'output "score" is extra': 200,
    }
    assert "threshold 0.5: no floating output probabilities" in report.verdict.notes[0]


def test_nan_is_found() -> None:
    """A shadow that says NaN for one call in twenty."""
    pairs = [pair(fraud(0.3), fraud(np.nan if at % 20 == 0 else 0.3)) for at in range(400)]
    repeats = [pair(fraud(0.3), fraud(0.3), "repeat") for _ in range(300)]

    report = compared(iter([*pairs, *repeats])).report()

    assert "nonfinite" in found(report)
    assert event(report, "nonfinite").shadow.hits == 20


def test_failures_are_counted_by_both_codes() -> None:
    """Which of the two failed, and how; they are not compared, and the verdict's notes say what share."""
    comparison = compared(same_model(10, 0.0, 60, 0))
    for _ in range(20):
        comparison.add(pair(fraud(0.1), None, code="DEADLINE_EXCEEDED"))
    comparison.add(pair(None, fraud(0.1), primary_code="INTERNAL"))
    comparison.add(pair(fraud(0.1), None, "repeat"))

    report = comparison.report()

    assert report.codes == (("OK", "OK", 60), ("OK", "DEADLINE_EXCEEDED", 20), ("INTERNAL", "OK", 1))
    assert report.repeat_codes == (("OK", "UNAVAILABLE", 1),)
    assert (report.pairs, report.repeats) == (60, 0)
    assert report.verdict.notes[0].startswith("the shadow failed in 25.0 % (95 % ")


def test_latencies_are_stated_and_not_judged() -> None:
    """Median and p99 of both, and the median of the differences, within 1 %."""
    latency = compared(same_model(11, 0.0, 100, 0)).report().latency

    assert latency.primary.p50 == pytest.approx(0.003, rel=0.01)
    assert latency.shadow.p99 == pytest.approx(0.004, rel=0.01)
    assert latency.median_difference == pytest.approx(0.001, rel=0.01)


def test_the_histograms_behind_the_quantiles_can_be_read() -> None:
    """Latencies of both, differences of both kinds by output; of an output that is not there, empty ones."""
    comparison = compared(same_model(16, 0.0, 100, 30))

    first, second = comparison.differences("probabilities")
    empty = comparison.differences("score")

    assert [sum(count for _, count in each.values()) for each in (*comparison.latencies, first, second, *empty)] == [
        *(100, 100),
        *(100, 30),
        *(0, 0),
    ]


def test_the_same_pairs_give_the_same_report() -> None:
    """Rows and redraws come from the seed."""
    first, again = (compared(planted(12, 300, flips=0.02), **QUICK).report() for _ in range(2))

    assert first == again


def test_one_row_of_a_call_is_drawn_for_distributions() -> None:
    """A call of 50 rows counts once, and any of its rows may be the one."""
    rows = np.arange(50, dtype="<f4")
    comparison = Comparison("m", "s", CompareConfig(bin_from=50), seed=1)
    for _ in range(400):
        comparison.add(pair(answer(("x", "FP32", rows)), answer(("x", "FP32", rows))))

    (shift,) = comparison.report().shifts

    assert shift.pairs == 400
    assert sum(shift.primary) == 400
    assert min(shift.primary[:-1]) > 0


@pytest.mark.parametrize("pairs", [30, 400], ids=["before bins", "after"])
def test_a_comparison_is_kept_over_a_restart(pairs: int) -> None:
    """As JSON and back it says the same, and goes on."""
    comparison = compared(planted(13, pairs, flips=0.05), **QUICK)
    state = json.loads(json.dumps(comparison.state(), allow_nan=False))

    again = compared(iter(()), **QUICK)
    again.restore(state)
    said = again.report()
    again.add(pair(fraud(0.1), fraud(0.2)))

    assert said == comparison.report()
    assert again.report().pairs == pairs + 1


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        ({"version": 0}, {}),
        ({}, {"rtol": 0.1}),
        ({"tallies": {}}, {}),
        ({"shifts": {"past": 0, "columns": [{"output": "x"}]}}, {}),
        ({"latency": "x"}, {}),
        ({"worst": [{"a": 1}]}, {}),
    ],
)
def test_a_state_of_something_else_is_refused(change: Any, settings: Any) -> None:
    """Another version, other tolerances, or damage: an error, and the comparison is as it was."""
    state = {**compared(planted(14, 50)).state(), **change}
    comparison = compared(iter(()), **settings)

    with pytest.raises(OtherState, match=r"expected a state|was damaged"):
        comparison.restore(state)

    assert comparison.report().pairs == 0


def test_names_without_end_take_bounded_memory() -> None:
    """A primary and shadow that name their outputs anew in each call: 32 are kept, the state stays small, a note says so."""
    comparison = Comparison("m", "s", CompareConfig())
    for at in range(2000):
        x = np.array([at], "<i8")
        name = f"output {at}"
        comparison.add(pair(answer((name, "INT64", x)), answer((name, "INT64", x + 1), (f"{name}!", "INT64", x))))

    report = comparison.report()

    assert len(report.outputs) == 32
    assert len(report.shifts) <= 64
    assert len(report.structure) <= 33
    assert len(json.dumps(comparison.state())) < 50_000
    assert any("more than 32 outputs" in note for note in report.verdict.notes)


def _scored(score: float) -> list[tuple[str, str, Any]]:
    return [("label", "INT64", np.array([0], "<i8")), ("probabilities", "FP32", np.array([[0.99, score]], "<f4"))]


def _same(seed: int, noise: float) -> Report:
    return compared(same_model(seed, noise, 200, 40), seed, **QUICK).report()


def test_settings_of_the_samples_are_valid() -> None:
    """What these tests are made with is a configuration that a route may have."""
    assert CompareConfig(**FRAUD).column_of(CompareConfig(**FRAUD).thresholds[0]) == 1


def test_a_candidate_that_fails_is_no_candidate() -> None:
    """Some of the calls that the primary answers, or all of them: a finding, not a note, and not a lack of pairs."""
    good = fraud(0.2)
    for every in (1, 3):
        calls = [pair(good, None if at % every == 0 else good, code="INTERNAL", name=f"r{at}") for at in range(300)]
        repeats = [pair(good, good, "repeat") for _ in range(40)]

        said = compared(iter([*calls, *repeats])).report()

        assert said.verdict.state == "differs"
        assert said.verdict.findings[0].what == "failed"
        assert event(said, "failed").shadow.hits == len(range(0, 300, every))


def test_what_could_not_be_compared_is_not_called_equal() -> None:
    """Answers without outputs in common: nothing was seen because nothing could be."""
    calls = [pair(answer(), answer(), kind) for kind in ("shadow", "repeat") for _ in range(250)]

    said = compared(iter(calls)).report()

    assert (said.verdict.state, said.verdict.text) == ("not enough", "nothing could be compared in 250 pairs")

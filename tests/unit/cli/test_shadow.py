"""`infermesh shadow`: reports in the terminal and as JSON, the list, and beginning anew."""

from __future__ import annotations

import math
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from infermesh.protocol import shadow_reports_pb2 as pb
from tests.unit.cli.shadow_parts import ESCAPES, gateway, generated, hostile, serving

OTHERS = "others; --rows shows more, --json has all"


@pytest.fixture(scope="module")
def differs() -> pb.Report:
    return generated(1000, 200, bias=0.6)


def test_the_verdict_comes_first_and_then_its_numbers(infermesh: Any, differs: pb.Report) -> None:
    """One line says that they differ, sentences say how, and every table names its units."""
    with serving(differs, not_compared={"dropped": 12, "skipped": 0}) as address:
        shown = infermesh("shadow", "report", "fraud-detector", "--target", address)

    lines = shown.out.splitlines()
    assert shown.status == 0
    assert lines[0] == "fraud-detector: shadow candidate beside variant stable"
    assert lines[1] == f"DIFFERS: {differs.verdict.text}"
    assert [line.strip() for line in lines if "●" in line] == [f"● {each.text}" for each in differs.verdict.findings]
    labels = next(line for line in lines if line.split()[:3] == ["label", "differs", "label"])
    event = next(each for each in differs.events if each.what == "label")
    assert f"{event.shadow.hits / event.shadow.of * 100:.1f} %" in labels
    took = differs.latency.shadow
    p50, p99 = f"{took.p50 * 1e3:.3g}", f"{took.p99 * 1e3:.3g}"
    assert ["shadow", "980", p50, "ms", p99, "ms"] in [line.split()[:6] for line in lines]
    assert any(line.split()[:4] == ["OK", "shadow", "DEADLINE_EXCEEDED", "20"] for line in lines)
    assert differs.worst[0].request_id in shown.out
    assert lines[-1] == "pairs not compared since the gateway started, of all models: 12 dropped"


@pytest.mark.parametrize(
    ("made", "word"),
    [
        (generated(1000, 200), "WITHIN NOISE: nothing above the noise floor in 980 pairs (200 repeats)"),
        (generated(40, 4), "NOT ENOUGH: not enough pairs yet: 40 of 200; not enough repeats yet: 4 of 20"),
        (generated(0, 0), "NOT ENOUGH: not enough pairs yet: 0 of 200"),
        (generated(300, 0, noise=0.0, repeat=0), "NOTHING SEEN: no difference in kind seen in 300 pairs"),
        (pb.Report(model="fraud-detector"), "NO VERDICT: "),
    ],
    ids=["within noise", "not enough", "empty", "nothing seen", "newer gateway"],
)  # fmt: skip
def test_every_state_has_its_words(infermesh: Any, made: pb.Report, word: str) -> None:
    """Also a report with nothing in it is shown, and is no failure."""
    with serving(made) as address:
        shown = infermesh("shadow", "report", "fraud-detector", "--fail-on-difference", "--target", address)

    assert shown.status == 0
    expected = word.replace("40 of", f"{made.pairs} of")
    assert shown.out.splitlines()[1].startswith(expected.rstrip())


def test_a_difference_fails_only_when_asked(infermesh: Any, differs: pb.Report) -> None:
    """For CI there is an exit status; the report is printed all the same."""
    with serving(differs) as address:
        failed = infermesh("shadow", "report", "fraud-detector", "--fail-on-difference", "--target", address)

    assert failed.status == 1
    assert "DIFFERS" in failed.out and failed.err == ""


def test_json_is_the_whole_answer(infermesh: Any, differs: pb.Report) -> None:
    """Read back, it is the message that the gateway sent, also where a number is none."""
    empty = generated(0, 0, variant="canary")
    assert math.isnan(empty.latency.primary.p50)
    with serving(differs, empty, not_compared={"lost": 3}) as address:
        shown = infermesh("shadow", "report", "fraud-detector", "--json", "--target", address)

    read = json_format.Parse(shown.out, pb.ReportResponse())
    sent = pb.ReportResponse(reports=[differs, empty], not_compared={"lost": 3})
    assert read.SerializeToString(deterministic=True) == sent.SerializeToString(deterministic=True)


def test_a_variant_is_chosen(infermesh: Any, differs: pb.Report) -> None:
    """Of several comparisons one is shown; a name that is not there is answered with those that are."""
    with serving(differs, generated(40, 4, variant="canary")) as address:
        both = infermesh("shadow", "report", "fraud-detector", "--target", address)
        one = infermesh("shadow", "report", "fraud-detector", "--variant", "canary", "--target", address)
        none = infermesh("shadow", "report", "fraud-detector", "--variant", "blue", "--target", address)

    assert both.out.count("beside variant") == 2
    assert "beside variant canary" in one.out and "stable" not in one.out
    assert (none.status, none.out) == (2, "")
    assert "there is canary, stable" in none.err


def test_long_tables_are_cut_with_a_count(infermesh: Any) -> None:
    """Of a thousand disagreements ten are shown, the worst; --rows shows more."""
    worst = [pb.Disagreement(request_id=f"id-{at:04}", what=["label output"], where="label[0]") for at in range(1000)]
    with serving(pb.Report(model="m", worst=worst)) as address:
        ten = infermesh("shadow", "report", "m", "--target", address)
        many = infermesh("shadow", "report", "m", "--rows", "300", "--target", address)

    assert (ten.out.count("id-0"), many.out.count("id-0")) == (10, 300)
    assert f"and 990 {OTHERS}" in ten.out
    assert f"and 700 {OTHERS}" in many.out


def test_a_terminal_of_100_columns_holds_it(
    infermesh: Any, differs: pb.Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line is longer, no number is cut, and an id can be copied in one piece."""
    monkeypatch.setattr("infermesh.cli.console.out.width", 100)
    differs = pb.Report.FromString(differs.SerializeToString())
    differs.worst[0].request_id = "0f0e0d0c-0b0a-4908-8706-050403020100"
    with serving(differs) as address:
        shown = infermesh("shadow", "report", "fraud-detector", "--target", address)

    assert max(len(line) for line in shown.out.splitlines()) <= 100
    assert "…" not in shown.out
    assert "0f0e0d0c-0b0a-4908-8706-050403020100" in shown.out


def test_what_comes_from_outside_can_not_steer_a_terminal(infermesh: Any) -> None:
    """Escape sequences and marks of direction are shown as text, in every place."""
    with serving(hostile(ESCAPES)) as address:
        shown = infermesh("shadow", "report", ESCAPES, "--rows", "99", "--target", address)
        listed = infermesh("shadow", "ls", "--target", address)

    for text in (shown.out, listed.out):
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
        assert "\\x1b[2J" in text


def test_the_list_has_every_comparison(infermesh: Any, differs: pb.Report) -> None:
    """Model, shadow, variant, pairs, repeats and the verdict."""
    with serving(differs, generated(40, 4, variant="canary")) as address:
        listed = infermesh("shadow", "ls", "--target", address)

    rows = [line.split() for line in listed.out.splitlines()]
    assert ["fraud-detector", "candidate", "stable", "980", "200", "DIFFERS"] in [row[:6] for row in rows]
    assert ["fraud-detector", "candidate", "canary", "40", "4", "NOT", "ENOUGH"] in [row[:7] for row in rows]


def test_a_list_of_nothing_says_so(infermesh: Any) -> None:
    """An empty list is no failure."""
    with serving() as address:
        listed = infermesh("shadow", "ls", "--target", address)

    assert (listed.status, listed.out) == (0, "nothing was compared yet\n")


def test_no_report_on_a_model(infermesh: Any) -> None:
    """The gateway's own words, and where to look."""
    with serving() as address:
        shown = infermesh("shadow", "report", "iris", "--target", address)

    assert shown.status == 1
    assert "error: NOT_FOUND: model iris: nothing is compared" in shown.err
    assert "hint: `infermesh shadow ls`" in shown.err


@pytest.mark.parametrize("words", [("report", "iris"), ("ls",), ("reset", "iris")], ids=lambda words: words[0])
def test_a_server_without_reports(infermesh: Any, words: tuple[str, ...]) -> None:
    """Where comparison is switched off, the hint says how it is switched on."""
    with gateway() as address:
        shown = infermesh("shadow", *words, "--target", address)

    assert shown.status == 1
    assert "error: UNIMPLEMENTED" in shown.err
    assert "hint: a gateway with `compare: {enabled: true}` has reports" in shown.err


@pytest.mark.parametrize(
    ("forgotten", "said"),
    [(0, "nothing to forget"), (1, "1 comparison begins anew"), (3, "3 comparisons begin anew")],
)
def test_counting_begins_anew(infermesh: Any, forgotten: int, said: str) -> None:
    """Model and shadow are named, and the key goes along; it is said how many were forgotten."""
    came: list[tuple[pb.ResetRequest, dict[str, str]]] = []

    def reset(data: bytes, context: Any) -> bytes:
        came.append((pb.ResetRequest.FromString(data), dict(context.invocation_metadata())))
        return pb.ResetResponse(forgotten=forgotten).SerializeToString()

    with gateway(reset=reset) as address:
        done = infermesh("shadow", "reset", "fraud", "--shadow", "candidate", "--key", "k", "--target", address)

    ((request, metadata),) = came
    assert request == pb.ResetRequest(model="fraud", shadow="candidate")
    assert metadata["x-api-key"] == "k"
    assert (done.status, done.out) == (0, f"fraud, shadow candidate: {said}\n")


def test_a_caller_who_may_not_reset(infermesh: Any) -> None:
    """A refusal keeps its code and text."""

    def reset(data: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "expected the scope admin")
        raise AssertionError

    with gateway(reset=reset) as address:
        refused = infermesh("shadow", "reset", "fraud", "--target", address)

    assert refused.status == 1
    assert "error: PERMISSION_DENIED: expected the scope admin" in refused.err

"""The comparison of the engines itself: it would be worth nothing if it let a difference pass."""

from __future__ import annotations

import pytest
from conformance_engines import LONG_CASES, MATTERS_OF_TIME, WORDS_OF_THE_ENGINE, Compared
from conformance_heard import Heard

SAME = {"ModelInfer": frozenset({"StatusCode.OK '' y", "StatusCode.NOT_FOUND 'no model' last: a=1"})}


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"ModelInfer": frozenset({"StatusCode.OK '' y"})},
        {"ModelInfer": frozenset({"StatusCode.OK '' y", "StatusCode.NOT_FOUND 'no such' last: a=1"})},
        {"ModelInfer": frozenset({"StatusCode.OK '' y", "StatusCode.NOT_FOUND 'no model' last: "})},
        {**SAME, "ModelReady": frozenset({"StatusCode.OK"})},
    ],
    ids=["nothing", "an end less", "another text", "no metadata", "a call more"],
)
def test_a_difference_is_a_failure(other: dict[str, frozenset[str]]) -> None:
    """In an end, its text, its metadata or a call; and the message says which call it was."""
    compared = Compared()
    compared.check("ERR-order", ["gateway"], "grpcio", SAME)

    compared.check("ERR-order", ["gateway"], "envoy", SAME)
    with pytest.raises(AssertionError, match="told otherwise:\nModel"):
        compared.check("ERR-order", ["gateway"], "envoy", other)


def test_a_case_is_compared_with_its_own_self() -> None:
    """Same hop and same value; without the first engine's there is nothing to compare with, and that is said."""
    compared = Compared()
    compared.check("ERR-order", ["gateway"], "grpcio", SAME)

    with pytest.raises(AssertionError, match="run the case on engine grpcio too"):
        compared.check("ERR-order", ["predictor"], "envoy", SAME)


def test_where_the_words_are_the_engines_the_code_counts() -> None:
    """Another text passes, another code does not."""
    (case, *_) = WORDS_OF_THE_ENGINE
    compared = Compared()
    compared.check(case, [], "grpcio", {"ModelInfer": frozenset({"StatusCode.RESOURCE_EXHAUSTED 'this'"})})

    compared.check(case, [], "envoy", {"ModelInfer": frozenset({"StatusCode.RESOURCE_EXHAUSTED 'that'"})})
    with pytest.raises(AssertionError, match="told otherwise"):
        compared.check(case, [], "envoy", {"ModelInfer": frozenset({"StatusCode.INTERNAL 'this'"})})


def test_exceptions_are_of_cases_that_there_are(request: pytest.FixtureRequest) -> None:
    """A name that is written wrong would except nothing, and nobody would see it."""
    readme = request.path.with_name("README.md").read_text(encoding="utf-8")

    for case in LONG_CASES | MATTERS_OF_TIME | set(WORDS_OF_THE_ENGINE):
        assert f"| `{case}`" in readme, case


def test_an_end_belongs_to_the_case_in_which_its_call_began() -> None:
    """A call that an earlier case has left is no end in the next one, and the same end twice is one."""
    heard = Heard()
    left = heard.asked("earlier")
    heard.begin()

    for _ in range(2):
        heard.asked("now")(lambda: "OK")
    left(lambda: "CANCELLED")

    assert heard.all() == {"now": frozenset({"OK"})}

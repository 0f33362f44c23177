"""What travels beside a request."""

import dataclasses

from infermesh.call import ANONYMOUS, Call, Caller
from infermesh.deadline import Deadline


def test_a_derived_call_differs_only_in_what_was_asked_for() -> None:
    """`derive` copies every field that it is not given."""
    call = Call(
        deadline=Deadline(5.0),
        caller=Caller("ann", "blue"),
        metadata={"a": "b"},
        request_id="r1",
        trace={"traceparent": "00-1"},
        variant="canary",
        shadow=True,
        attempt=3,
        peer="ipv4:1",
    )

    same = call.derive()
    changed = call.derive(attempt=4, shadow=False, variant="", request_id="r2", trace={}, deadline=Deadline(1.0))

    assert same == call and same is not call
    fields = {f.name for f in dataclasses.fields(Call)}
    differing = {name for name in fields if getattr(changed, name) != getattr(call, name)}
    assert differing == {"attempt", "shadow", "variant", "request_id", "trace", "deadline"}
    assert (changed.attempt, changed.shadow, changed.variant, changed.trace) == (4, False, "", {})


def test_a_derived_call_can_have_another_caller() -> None:
    """Authentication puts the caller into a copy."""
    assert Call().derive(caller=Caller("ann")).caller.name == "ann"


def test_a_call_is_anonymous_first_and_unbounded() -> None:
    """Nothing is assumed about who calls, nor how long they wait."""
    call = Call()

    assert call.caller is ANONYMOUS
    assert call.deadline.remaining() == float("inf")
    assert (call.attempt, call.shadow) == (1, False)


def test_metadata_is_not_shown_when_a_call_is_printed() -> None:
    """Credentials in the metadata don't reach a log by way of a call's repr."""
    assert "secret" not in repr(Call(metadata={"x-api-key": "secret"}))

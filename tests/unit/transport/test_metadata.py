"""Which metadata travels between hops."""

from __future__ import annotations

import math

import pytest

from infermesh.call import Call, Caller
from infermesh.transport.metadata import read_call, write_call

TRACE = {"traceparent": "00-1-2-01", "tracestate": "a=b", "baggage": "k=v"}
MESH = (
    ("x-request-id", "r1"),
    ("x-infermesh-tenant", "blue"),
    ("x-infermesh-variant", "canary"),
    ("x-infermesh-shadow", "1"),
    ("x-infermesh-attempt", "3"),
    *TRACE.items(),
)


def read(*metadata: tuple[str, str | bytes], inside_mesh: bool = True, remaining: float | None = None) -> Call:
    return read_call(metadata, remaining, "ipv4:1.2.3.4:5", inside_mesh=inside_mesh)


def test_a_hop_believes_what_another_hop_says() -> None:
    """Tenant, variant, shadow, attempt, trace and request id are read between hops."""
    call = read(*MESH)

    assert (call.caller.tenant, call.variant, call.shadow, call.attempt, call.request_id) == (
        "blue",
        "canary",
        True,
        3,
        "r1",
    )
    assert dict(call.trace) == TRACE
    assert call.peer == "ipv4:1.2.3.4:5"


def test_at_the_edge_nobody_can_pose_as_a_hop() -> None:
    """Every `x-infermesh-*` key of a caller is dropped, but the wish for a variant, which stays a wish in the metadata."""
    call = read(*MESH, ("x-infermesh-anything", "1"), ("x-api-key", "k"), inside_mesh=False)

    assert (call.caller.tenant, call.variant, call.shadow, call.attempt) == ("", "", False, 1)
    assert [key for key in call.metadata if key.startswith("x-infermesh")] == ["x-infermesh-variant"]
    assert call.metadata["x-api-key"] == "k"
    assert (call.request_id, dict(call.trace)) == ("r1", TRACE)


def test_what_is_written_is_what_the_next_hop_reads() -> None:
    """A call comes through a hop as it went, with all that hops tell each other."""
    sent = Call(caller=Caller("ann", "blue"), request_id="r1", trace=TRACE, variant="canary", shadow=True, attempt=3)

    got = read(*write_call(sent))

    for name in ("request_id", "trace", "variant", "shadow", "attempt"):
        assert getattr(got, name) == getattr(sent, name)
    assert got.caller.tenant == "blue"


@pytest.mark.parametrize("name", ["münchen", "50%", "a b/c", "%41", "\n"])
def test_names_in_any_letters_travel(name: str) -> None:
    """What an operator calls a tenant or a variant is not limited to what gRPC can carry."""
    metadata = write_call(Call(caller=Caller(tenant=name), variant=name))

    assert all(value.isascii() and value.isprintable() for _, value in metadata)
    assert (read(*metadata).caller.tenant, read(*metadata).variant) == (name, name)


def test_credentials_and_unknown_metadata_stay_here() -> None:
    """Only what the mesh knows is written; nothing else that the caller sent goes on."""
    call = read(("authorization", "Bearer k"), ("x-api-key", "k"), ("cookie", "c"), ("x-request-id", "r1"))

    assert write_call(call) == [("x-request-id", "r1")]


def test_a_plain_call_writes_nothing() -> None:
    """What has its default value costs no metadata."""
    assert write_call(Call()) == []


def test_each_gateway_that_a_call_comes_through_is_counted() -> None:
    """At the edge, from whoever says how many there were; hops inside the mesh pass the number on."""
    first = read_call((), None, "peer", inside_mesh=False)
    inside = read_call(write_call(first), None, "peer", inside_mesh=True)
    second = read_call(write_call(inside), None, "peer", inside_mesh=False)

    assert (first.gateways, inside.gateways, second.gateways) == (1, 1, 2)
    assert "x-infermesh-gateways" not in second.metadata
    assert first.derive(variant="a").gateways == 1


@pytest.mark.parametrize("sent", ["-1", "", "1000", "two", "²", "1e9"])
def test_a_number_of_gateways_that_is_none_is_none(sent: str) -> None:
    """What a caller makes up is not believed, and can't get past the bound of what is counted."""
    assert read(("x-infermesh-gateways", sent)).gateways == 0
    assert read(("x-infermesh-gateways", "999")).gateways == 99


def test_wishes_of_a_caller_are_left_to_authentication() -> None:
    """A variant and a word about how it was chosen may be asked for at the edge; any other key of the mesh is dropped."""
    sent = [("x-infermesh-variant", "v"), ("x-infermesh-debug", "1"), ("x-infermesh-tenant", "t"), ("x-card", "c")]

    call = read_call(sent, None, "peer", inside_mesh=False)

    assert set(call.metadata) == {"x-infermesh-variant", "x-infermesh-debug", "x-card"}


@pytest.mark.parametrize("sent", ["", "x" * 129, "a\nb", "\x00", "a\x1b[31m"])
def test_a_request_id_that_no_log_should_carry_is_replaced(sent: str) -> None:
    """A missing, over-long or unprintable id becomes one of ours."""
    made = read(("x-request-id", sent)).request_id

    assert made != sent
    assert len(made) == 16 and made.isalnum()


def test_two_calls_without_an_id_get_two() -> None:
    """An id that is made stands for one call."""
    assert read().request_id != read().request_id


@pytest.mark.parametrize("sent", ["0x1", "-1", "", "1000", "two", "²"])
def test_an_attempt_that_is_no_small_number_is_the_first(sent: str) -> None:
    """What a hop makes up does not become a number."""
    assert read(("x-infermesh-attempt", sent)).attempt == 1


def test_only_1_marks_a_shadow() -> None:
    """A copy is marked by one value."""
    assert not read(("x-infermesh-shadow", "true")).shadow


def test_the_first_value_of_a_key_counts_and_binary_ones_are_not_read() -> None:
    """A second value can't override the first."""
    call = read(("x-api-key", "one"), ("x-api-key", "two"), ("blob-bin", b"\xff"))

    assert dict(call.metadata) == {"x-api-key": "one"}


def test_baggage_that_would_overflow_the_next_hops_metadata_stays_here() -> None:
    """A call is not refused one hop later for what we add to it; its trace goes on."""
    call = read(*{**TRACE, "baggage": "b" * 5000}.items())

    assert set(call.trace) == {"traceparent", "tracestate"}


def test_baggage_travels_without_a_trace_and_state_does_not() -> None:
    """tracestate means nothing without its traceparent; baggage stands for itself."""
    assert dict(read(("baggage", "k=v")).trace) == {"baggage": "k=v"}
    assert dict(read(("tracestate", "a=b")).trace) == {}


@pytest.mark.parametrize("remaining", [None, math.inf])
def test_without_a_deadline_there_is_none(remaining: float | None) -> None:
    """grpc's two ways to say none."""
    assert read(remaining=remaining).deadline.at == math.inf


def test_a_deadline_is_what_remains_from_now() -> None:
    """The deadline of a call is monotonic time here."""
    assert read(remaining=5.0).deadline.remaining() == pytest.approx(5.0, abs=0.1)


@pytest.mark.parametrize("value", ["caf\u00e9", "a\nb", "a\x01b", "a\x7fb", "\u00ff\u00fe"])
def test_what_the_next_hop_could_not_be_told_stays_here(value: str) -> None:
    """gRPC refuses a call whose metadata is not printable ASCII, which a client that is not gRPC can send us."""
    call = read(("x-request-id", value), ("traceparent", value), ("tracestate", "a=b"), ("baggage", value))

    assert dict(call.trace) == {}
    assert call.request_id.isalnum() and call.request_id != value
    assert dict(read(("traceparent", TRACE["traceparent"]), ("baggage", value)).trace) == {
        "traceparent": TRACE["traceparent"]
    }

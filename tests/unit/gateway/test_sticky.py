"""Tests of what keeps a key on its variant."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infermesh.call import Call, Caller
from infermesh.protocol.open_inference_pb2 import ModelInferRequest
from infermesh.tensors import add_inputs
from services.gateway.routes import StickyConfig
from services.gateway.sticky import StickyKey, StickySplit

KEYS = [f"c-{number:05}".encode() for number in range(20_000)]
Z_999 = 3.2905  # of the normal distribution, two-sided 99.9 %


def _key(request: ModelInferRequest, call: Call | None = None, **config: Any) -> bytes:
    return StickyKey(StickyConfig(**config)).of(request, call or Call())


def _request(array: np.ndarray, *, raw: bool) -> ModelInferRequest:
    request = ModelInferRequest()
    add_inputs(request, {"other": np.zeros(3, np.float32), "id": array}, raw=raw)
    return request


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize(
    "dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64, object]
)
def test_an_entity_gives_the_same_key_however_it_is_sent(dtype: Any, raw: bool) -> None:
    """The first element of an input is the key: as text or as any whole number, raw or typed."""
    array = np.array([[b"42"], [b"7"]], object) if dtype is object else np.array([[42], [7]], dtype)

    assert _key(_request(array, raw=raw), input="id") == b"42"


def test_the_other_sources_give_the_same_key_too() -> None:
    """Metadata, parameters and the tenant give the key that an entity with this id gives."""
    request = ModelInferRequest()
    request.parameters["text"].string_param = "42"
    request.parameters["number"].int64_param = 42

    assert _key(request, parameter="text") == _key(request, parameter="number") == b"42"
    assert _key(request, Call(metadata={"x-card": "42"}), metadata="x-card") == b"42"
    assert _key(request, Call(caller=Caller(tenant="42")), tenant=True) == b"42"


def test_the_first_source_that_has_a_key_counts() -> None:
    """Metadata comes before a parameter, before an input, before the tenant; one without a key is passed over."""
    request = _request(np.array([9], np.int64), raw=True)
    call = Call(metadata={"x-card": "m"}, caller=Caller(tenant="t"))
    every = {"metadata": "x-card", "parameter": "p", "input": "id", "tenant": True}

    assert _key(request, call, **every) == b"m"
    assert _key(request, Call(caller=call.caller), **every) == b"9"
    assert _key(ModelInferRequest(), Call(caller=call.caller), **every) == b"t"
    assert _key(ModelInferRequest(), **every) == b""


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x05\x00\x00\x00", b"\xff\xff\xff\xffab"])
def test_broken_raw_texts_are_left_to_others(data: bytes) -> None:
    """Raw BYTES that are cut off raise nothing and read nothing beyond what is there: to refuse them is the model's part."""
    request = ModelInferRequest()
    request.inputs.add(name="id", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(data)

    assert _key(request, input="id") == data[4:]


@pytest.mark.parametrize("datatype", ["FP32", "BOOL", "bytes", ""])
def test_other_datatypes_are_no_entities(datatype: str) -> None:
    """A float or an unknown datatype gives no key."""
    request = ModelInferRequest()
    request.inputs.add(name="id", datatype=datatype, shape=[1])
    request.raw_input_contents.append(bytes(8))

    assert _key(request, input="id") == b""


def test_looking_for_a_key_changes_nothing() -> None:
    """A request is the same after it was searched for keys that it does not have."""
    request = ModelInferRequest(model_name="m")
    request.inputs.add(name="id", datatype="INT64", shape=[1])
    before = request.SerializeToString()

    assert _key(request, parameter="absent", input="id") == b""
    assert request.SerializeToString() == before


def test_a_long_key_is_cut() -> None:
    """No more than 256 bytes of a key are looked at."""
    assert _key(_request(np.array([b"x" * 10_000], object), raw=True), input="id") == b"x" * 256


def test_shares_are_the_weights() -> None:
    """Of many keys each variant gets its share, within the 99.9 % bound of a binomial."""
    weights = {"stable": 80.0, "canary": 15.0, "test": 5.0}
    split = StickySplit("fraud", list(weights.items()))
    counts = [0, 0, 0]

    for key in KEYS:
        counts[split.pick(key)] += 1

    for count, weight in zip(counts, weights.values(), strict=True):
        p = weight / 100
        assert abs(count - len(KEYS) * p) <= Z_999 * math.sqrt(len(KEYS) * p * (1 - p))


def test_raising_a_canary_moves_only_keys_to_it() -> None:
    """From 5 to 10 % about a twentieth of the keys move from stable to the canary, and none moves the other way."""
    before = StickySplit("fraud", [("stable", 95), ("canary", 5)])
    after = StickySplit("fraud", [("stable", 90), ("canary", 10)])

    moves = [(before.pick(key), after.pick(key)) for key in KEYS]

    assert (1, 0) not in moves
    assert abs(moves.count((0, 1)) / len(KEYS) - 0.05) < Z_999 * math.sqrt(0.05 * 0.95 / len(KEYS))


def test_taking_a_variant_away_moves_only_its_keys() -> None:
    """When a variant goes, the keys of the others stay where they are, in whatever order the file names them."""
    before = StickySplit("fraud", [("a", 50), ("b", 30), ("c", 20)])
    after = StickySplit("fraud", [("b", 30), ("a", 50)])

    for key in KEYS[:5000]:
        was, names = before.pick(key), ("b", "a")
        if was != 2:
            assert names[after.pick(key)] == "abc"[was]


@given(
    key=st.binary(max_size=40),
    old=st.lists(st.floats(0.1, 100), min_size=3, max_size=3),
    new=st.lists(st.floats(0.1, 100), min_size=3, max_size=3),
)
def test_a_key_moves_only_to_what_rose_against_what_it_leaves(key: bytes, old: list[float], new: list[float]) -> None:
    """A key goes from one variant to another only if the other's weight rose in proportion to the one's."""
    was = StickySplit("m", list(zip("abc", old, strict=True))).pick(key)
    now = StickySplit("m", list(zip("abc", new, strict=True))).pick(key)

    assert was == now or new[now] / new[was] > old[now] / old[was]


def test_routes_do_not_share_their_canaries() -> None:
    """The keys of one route's canary are spread over the variants of another route."""
    one, other = (StickySplit(salt, [("stable", 50), ("canary", 50)]) for salt in ("fraud", "churn"))

    both = sum(one.pick(key) == other.pick(key) == 1 for key in KEYS) / len(KEYS)

    assert abs(both - 0.25) < Z_999 * math.sqrt(0.25 * 0.75 / len(KEYS))


def test_without_weight_no_key_comes() -> None:
    """A variant of weight 0 gets no key."""
    split = StickySplit("m", [("off", 0), ("on", 1e-9)])

    assert {split.pick(key) for key in KEYS[:1000]} == {1}


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_a_raise_moves_only_the_keys_between(count: int) -> None:
    """Of N variants one goes from 5 to 10 % of the calls: keys move to it alone, as many as its share grew; the other variants
    keep all keys that they don't give to it."""
    rest = [(f"v{number}", 95 * (number + 1)) for number in range(count - 1)]
    total = sum(weight for _, weight in rest)
    before = StickySplit("m", [*rest, ("canary", total * 0.05 / 0.95)])
    after = StickySplit("m", [*rest, ("canary", total * 0.10 / 0.90)])

    was, now = [before.pick(key) for key in KEYS], [after.pick(key) for key in KEYS]
    moved = [(a, b) for a, b in zip(was, now, strict=True) if a != b]

    assert {to for _, to in moved} == {count - 1}
    assert abs(len(moved) - 0.05 * len(KEYS)) < Z_999 * math.sqrt(len(KEYS) * 0.05 * 0.95)


def test_percentages_that_leave_a_third_alone_move_a_little_more() -> None:
    """(90, 5, 5) to (85, 10, 5) in percent: the third gives 5 % of its own keys to the canary, and gets as many from the first;
    docs/routing.md says why none at all can't be had."""
    before = StickySplit("m", [("stable", 90), ("canary", 5), ("third", 5)])
    after = StickySplit("m", [("stable", 85), ("canary", 10), ("third", 5)])

    moves = [(before.pick(key), after.pick(key)) for key in KEYS]
    expected = len(KEYS) * (0.05 - 5 / 105)

    for swapped in ((2, 1), (0, 2)):
        assert abs(moves.count(swapped) - expected) < Z_999 * math.sqrt(expected)
    assert {move for move in moves if move[0] != move[1]} <= {(0, 1), (2, 1), (0, 2)}


@pytest.mark.parametrize("count", [3, 6])
def test_without_one_only_its_own_keys_move(count: int) -> None:
    """A variant that gets no call any more gives its keys away, and the others keep theirs."""
    weights = [(f"v{number}", number + 1.0) for number in range(count)]
    whole, less = StickySplit("m", weights), StickySplit("m", [*weights[:-1], (weights[-1][0], 0)])

    for key in KEYS[:5000]:
        if (was := whole.pick(key)) != count - 1:
            assert less.pick(key) == was

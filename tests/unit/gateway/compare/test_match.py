"""Tests of two answers laid side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from infermesh.protocol.open_inference_pb2 import ModelInferResponse
from services.gateway.compare.match import MAX_OUTPUTS, Event, Match, match
from services.gateway.compare_config import CompareConfig
from tests.unit.gateway.compare.pairs import FRAUD, answer

CONFIG = CompareConfig()
SHAPED = hnp.array_shapes(min_dims=0, max_dims=3, max_side=5)
FP32 = SHAPED.flatmap(lambda shape: st.tuples(*[hnp.arrays(np.float32, shape, elements=st.floats(width=32))] * 2))


def matched(a: Any, b: Any, config: CompareConfig = CONFIG, datatype: str = "FP32", raw: bool = True) -> Match:
    return match(answer(("x", datatype, a), raw=raw), answer(("x", datatype, b), raw=raw), config)


def happened(found: Match) -> set[Event]:
    return {event for output in found.outputs for event, did in output.events.items() if did}


@settings(deadline=None)
@given(FP32)
def test_an_answer_is_equal_to_itself(arrays: tuple[Any, Any]) -> None:
    """Whatever is in it: nothing happened, NaN and infinities are no difference."""
    found = matched(arrays[0], arrays[0].copy())

    assert found.structure == ()
    assert happened(found) == set()
    assert [(each.distance.max_abs, each.differing) for each in found.outputs if each.distance] in ([(0, 0)], [])


@settings(deadline=None)
@given(FP32)
def test_tolerance_is_numpys(arrays: tuple[Any, Any]) -> None:
    """Elements outside are those that `numpy.isclose` does not find close, NaN beside NaN being equal."""
    a, b = (each.astype(float) for each in arrays)
    with np.errstate(all="ignore"):
        expected = int((~np.isclose(b, a, rtol=1e-5, atol=1e-6, equal_nan=True)).sum())

    found = matched(*arrays)

    assert sum(each.differing for each in found.outputs) == expected


@settings(deadline=None)
@given(FP32)
def test_sizes_do_not_depend_on_the_side(arrays: tuple[Any, Any]) -> None:
    """Largest differences and non-finite elements are the same the other way round, and finite; crossings change direction."""
    config = CompareConfig(thresholds=[{"output": "x", "at": 0.0}])
    one, other = matched(*arrays, config), matched(*arrays[::-1], config)

    for first, second in zip(one.outputs, other.outputs, strict=True):
        assert first.distance is not None and second.distance is not None
        assert first.distance.max_abs == second.distance.max_abs < np.inf
        assert first.distance.max_rel == second.distance.max_rel <= 2
        assert first.distance.nonfinite == second.distance.nonfinite
        name = "0 at 0.0"
        assert first.events.get(Event("rises", "x", name)) == second.events.get(Event("falls", "x", name))


def test_raw_and_typed_answers_say_the_same() -> None:
    """How an answer travels is no difference."""
    array = np.array([[0.25, 0.75]], "<f4")

    found = match(answer(("x", "FP32", array)), answer(("x", "FP32", array), raw=False), CONFIG)

    assert (found.structure, happened(found)) == ((), set())


def test_the_largest_difference_is_found() -> None:
    """The absolute one, the relative one, the share of elements, and where."""
    found = matched(np.array([[1.0, 2.0], [4.0, 0.0]], "<f4"), np.array([[1.0, 2.5], [4.0, 1e-7]], "<f4")).outputs[0]

    assert found.distance is not None
    assert (found.distance.max_abs, found.distance.max_rel) == (0.5, 0.2)  # next to zero a ratio says nothing
    assert (found.differing, found.elements) == (1, 4)
    assert found.shown() == ("x[0,1]", "2", "2.5")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_in_one_alone_is_told(value: float) -> None:
    """NaN or an infinity beside a number, or beside another one of them, is non-finite; beside itself it is equal."""
    number, odd = np.array([1.0, 2.0], "<f4"), np.array([1.0, value], "<f4")

    assert Event("nonfinite", "x") in happened(matched(number, odd))
    assert Event("nonfinite", "x") in happened(matched(odd, number))
    assert happened(matched(odd, odd.copy())) == set()


def test_huge_values_have_a_difference() -> None:
    """A difference past FP64 is the largest number, not an infinity."""
    found = matched(np.array([1.7e308]), np.array([-1.7e308]), datatype="FP64").outputs[0]

    assert found.distance is not None
    assert np.isfinite(found.distance.max_abs)
    assert found.distance.nonfinite == 0


@pytest.mark.parametrize(
    ("datatype", "a", "b"),
    [
        ("BYTES", np.array([b"fraud", b"genuine"], object), np.array([b"fraud", b"fraud"], object)),
        ("BOOL", np.array([True, False]), np.array([True, True])),
        ("INT64", np.array([1, 0], "<i8"), np.array([1, 1], "<i8")),
        ("UINT8", np.array([1, 0], "u1"), np.array([1, 1], "u1")),
    ],
)
def test_labels_agree_or_do_not(datatype: str, a: Any, b: Any) -> None:
    """Texts, truths and whole numbers are labels: as good as another or not."""
    found = matched(a, b, datatype=datatype)

    assert happened(found) == {Event("label", "x")}
    assert (found.outputs[0].differing, found.outputs[0].elements) == (1, 2)
    assert happened(matched(a, a.copy(), datatype=datatype)) == set()


def test_another_largest_column_is_told() -> None:
    """Of rows with two columns or more; and the share of the three largest that both have."""
    a, b = np.array([[0.4, 0.3, 0.2, 0.1]], "<f4"), np.array([[0.2, 0.4, 0.05, 0.35]], "<f4")

    found = matched(a, b)

    assert Event("largest_column", "x") in happened(found)
    assert found.outputs[0].overlap == pytest.approx(2 / 3)


def test_crossings_are_told_by_direction() -> None:
    """Reached by the shadow alone, or by the primary alone; a value on the line has reached it, NaN is on no side."""
    config = CompareConfig(**FRAUD)
    a = np.array([[0.6, 0.4], [0.4, 0.6], [np.nan, np.nan], [0.5, 0.5]], "<f4")
    up, down = a.copy(), a.copy()
    up[0] = [0.5, 0.5]
    down[1] = [0.51, 0.49]
    down[2] = [0.0, 1.0]

    outputs = [(("probabilities", "FP32", each),) for each in (a, up, down)]
    rises, falls = (match(answer(*outputs[0]), answer(*each), config) for each in outputs[1:])

    crossed = [{event for event in happened(each) if event.detail} for each in (rises, falls)]
    assert crossed == [
        {Event("rises", "probabilities", "fraud at 0.5")},
        {Event("falls", "probabilities", "fraud at 0.5")},
    ]


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ((("y", "FP32", np.zeros(2, "<f4")),), 'output "x" is missing'),
        ((("x", "FP32", np.zeros(2, "<f4")), ("y", "FP32", np.zeros(2, "<f4"))), 'output "y" is extra'),
        ((("x", "FP64", np.zeros(2)),), 'output "x" is FP64, not FP32'),
        ((("x", "FP32", np.zeros((1, 2), "<f4")),), 'output "x" has another shape'),
    ],
)
def test_structure_is_named(other: Any, text: str) -> None:
    """What is missing, extra, or of another datatype or shape is said, and not compared."""
    found = match(answer(("x", "FP32", np.zeros(2, "<f4"))), answer(*other), CONFIG)

    assert text in found.structure
    assert all(output.name != "x" for output in found.outputs) or "extra" in text


@pytest.mark.parametrize("broken", [b"\xff\xff", ModelInferResponse(outputs=[{"name": "x", "datatype": "FP33"}])])
def test_an_answer_that_breaks_the_protocol_is_a_structure(broken: Any) -> None:
    """No exception: a sentence that says whose answer it is and what is wrong."""
    found = match(answer(("x", "FP32", np.zeros(2, "<f4"))), broken, CONFIG)

    assert found.structure[0].startswith("the other's answer ")
    assert found.outputs == ()


@settings(deadline=None)
@given(st.binary(max_size=60), st.integers(0, 80))
def test_no_bytes_are_too_bad(noise: bytes, at: int) -> None:
    """Whatever bytes stand in an answer: a match comes back."""
    good = answer(("x", "FP32", np.ones((2, 2), "<f4")), ("y", "BYTES", np.array([b"a"], object)))

    assert match(good, good[:at] + noise + good[at + len(noise) :], CONFIG) is not None


def test_an_output_that_stands_twice_is_a_structure() -> None:
    """Which of the two would be compared?"""
    twice = answer(("x", "FP32", np.zeros(2, "<f4")), ("x", "FP32", np.ones(2, "<f4")))

    assert match(twice, twice, CONFIG).structure == ("the primary's answer has an output twice",)


def test_more_outputs_than_the_bound_are_counted() -> None:
    """A thousand outputs are not a thousand things to remember, be they in both or in one."""
    many = answer(*((f"x{at}", "FP32", np.zeros(1, "<f4")) for at in range(1000)))

    both, one = match(many, many, CONFIG), match(answer(), many, CONFIG)

    assert (len(both.outputs), both.past) == (MAX_OUTPUTS, 1000 - MAX_OUTPUTS)
    assert len(one.structure) == MAX_OUTPUTS


def test_only_the_outputs_of_interest_count() -> None:
    """Others may differ as they like."""
    config = CompareConfig(outputs=["x"])
    x = ("x", "FP32", np.zeros(1, "<f4"))

    found = match(answer(x, ("y", "FP32", np.zeros(1, "<f4"))), answer(x, ("z", "BOOL", np.ones(1, bool))), config)

    assert found.structure == ()
    assert [each.name for each in found.outputs] == ["x"]


@pytest.mark.parametrize(("datatype", "dtype"), [("FP16", "<f2"), ("BF16", "<u2")])
def test_a_step_of_a_coarse_datatype_is_inside_tolerance(datatype: str, dtype: str) -> None:
    """FP16 and BF16 can't come closer than a step; four steps are outside. BF16 is read as the number that it is."""
    bits = np.array([0x3F80 if datatype == "BF16" else 0x3C00], "<u2")  # 1.0

    near, far = (matched(bits.view(dtype), (bits + steps).view(dtype), datatype=datatype) for steps in (1, 4))

    assert happened(near) == set()
    assert happened(far) == {Event("outside", "x")}
    assert far.outputs[0].shown()[1:] == ("1", f"{1 + 4 * (2**-7 if datatype == 'BF16' else 2**-10):.7g}")


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0)])
def test_an_empty_output_is_nothing_to_compare(shape: tuple[int, ...]) -> None:
    """No elements: no difference, and no call of it is counted."""
    assert matched(np.zeros(shape, "<f4"), np.zeros(shape, "<f4")) == Match((), ())


def test_a_name_that_is_too_long_is_not_counted_by() -> None:
    """It would be a key of counts and a label of metrics."""
    long = answer(("x" * 300, "FP32", np.zeros((1, 1), "<f4")), ("y", "FP32", np.zeros((1, 1), "<f4")))

    found = match(long, long, CompareConfig())

    assert [each.name for each in found.outputs] == ["y"]
    assert found.structure == ("an output's name is too long to be compared",)

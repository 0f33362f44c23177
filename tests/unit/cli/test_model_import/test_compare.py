"""When two answers are the same."""

from __future__ import annotations

import numpy as np
import pytest

from infermesh.cli.model_import.compare import Tolerance, compare

TOLERANCE = Tolerance(1e-3, 1e-6)


def one(original, onnx, name="prediction"):
    return compare({name: np.asarray(original)}, {name: np.asarray(onnx)}, TOLERANCE)[0]


def test_bound():
    """A number may be off by the absolute tolerance and the relative one together, and not by more."""
    assert one([1000.0], np.array([[1000.9]], np.float32)).same
    found = one([1000.0, 1.0], np.array([[1000.9], [1.0011]], np.float32))
    assert (found.same, found.outside, found.worst) == (False, 1, 1)
    assert found.max_absolute == pytest.approx(0.9, rel=1e-3)
    assert found.max_relative == pytest.approx(1.1e-3, rel=1e-3)


def test_exact_tolerance():
    """A tolerance of nothing lets equal numbers pass."""
    assert compare({"p": np.zeros(2)}, {"p": np.zeros((2, 1))}, Tolerance(0, 0))[0].same


@pytest.mark.parametrize(("ours", "differ"), [(np.nan, 0), (1.0, 1), (np.inf, 1)])
def test_missing(ours, differ):
    """NaN agrees with NaN alone."""
    found = one([np.nan, 1.0], [[ours], [1.0]])

    assert found.missing_differ == differ
    assert found.same == (differ == 0)
    assert found.worst == 0


def test_infinity():
    """Infinities agree by sign."""
    assert one([np.inf], [[np.inf]]).same
    assert not one([np.inf], [[-np.inf]]).same


def test_labels():
    """Labels are equal or not, as numbers or as texts, in whatever type; the first that differs is the worst row."""
    assert one([False, True], np.array([0, 1]), "label").same
    assert one(np.array(["a", "b"]), np.array(["a", "b"], object), "label").same
    found = one([1, 2, 3], np.array([1, 3, 3]), "label")
    assert (found.labels_differ, found.worst, found.max_absolute) == (1, 1, None)


@pytest.mark.parametrize(
    ("original", "onnx"), [(np.zeros((3, 2)), np.zeros((3, 3))), (np.zeros((4, 1)), np.zeros((2, 2)))]
)
def test_shapes(original, onnx):
    """Answers that can't be laid side by side are no comparison."""
    with pytest.raises(ValueError, match="output prediction: the original answers"):
        one(original, onnx)

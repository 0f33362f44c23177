"""Data made up for a model's inputs: for warm-ups, and to check what a model does to its rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from infermesh.tensors import DATATYPES, Array
from services.predictor.execution.signature import Signature, TensorSpec

__all__ = ["made_up", "made_up_input", "shape_of"]

_WORDS = ("a", "be", "sea", "data", "mesh", "model", "tensor", "feature")


def made_up(signature: Signature, rows: int, seed: int = 0) -> dict[str, Array]:
    """Random arrays for every input that has to be given, as `Session.run` takes them; the same ones for the same seed.

    A free first dimension is `rows`, other free ones are 1. Floats are from 0 to 1, integers and booleans 0 or 1 (a valid
    index or class of nearly every model), strings short words (`str`); BF16 is the bits in a uint16 array.
    """
    draw = np.random.default_rng(seed)
    return {
        spec.name: made_up_input(spec, shape_of(spec, rows), draw)
        for spec in signature.inputs
        if spec.name not in signature.optional
    }


def made_up_input(spec: TensorSpec, shape: tuple[int, ...], draw: np.random.Generator | None) -> Array:
    """One array of the input's datatype; zeros, false or empty strings when there is no generator."""
    dtype = DATATYPES[spec.datatype].dtype
    if spec.datatype == "BYTES":
        if draw is None:
            return np.full(shape, "", np.object_)
        return np.asarray(np.array(_WORDS, np.object_)[draw.integers(0, len(_WORDS), shape)], np.object_)
    if draw is None:
        return np.zeros(shape, dtype)
    if spec.datatype == "BF16":  # the upper half of an FP32 is a BF16, rounded towards zero
        return np.asarray(np.asarray(draw.random(shape, np.float32)).view(np.uint32) >> 16, np.uint16)
    if dtype.kind == "f":
        return np.asarray(draw.random(shape, np.float32), dtype)
    return np.asarray(draw.integers(0, 2, shape), dtype)


def shape_of(spec: TensorSpec, rows: int, inner: Sequence[int] | None = None) -> tuple[int, ...]:
    """A shape that the input allows: `rows` in a free first dimension, then `inner`, or what is fixed and 1 where it is free."""
    if not spec.shape:
        return ()
    first, *others = spec.shape
    if inner is None:
        inner = [1 if size < 0 else size for size in others]
    return (rows if first < 0 else first, *inner)

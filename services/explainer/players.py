"""Which features there are: each column of each input of the model is a player."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from infermesh.errors import FailedPrecondition, quoted
from services.explainer.signature import COLUMNS, Signature, TensorSpec

__all__ = ["Players"]


@dataclass(frozen=True)
class Players:
    """The features of one request, in the order of the model's inputs.

    `of_column[input][c]` is the player that column `c` of that input belongs to, columns being the elements of a row in
    row-major order. Several columns may belong to one player.
    """

    names: tuple[str, ...]
    of_column: Mapping[str, NDArray[np.intp]]

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, signature: Signature, row_shapes: Mapping[str, tuple[int, ...]], most: int) -> Players:
        """One player per column. A single column is named by its input, others by the model's property
        `infermesh.columns.<input>`, or `<input>[i]` without one; a name that comes twice is written `<input>.<name>`.

        Raises FailedPrecondition for none and for more than `most`, before any of them costs anything.
        """
        count = sum(prod(row_shapes[spec.name]) for spec in signature.inputs)
        if not 1 <= count <= most:
            raise FailedPrecondition(
                f"model {quoted(signature.model)}: expected 1 to {most} features to tell apart, its inputs have {count} columns",
                reason="NOT_EXPLAINABLE",
            )
        named: list[tuple[str, str]] = []
        of_column: dict[str, NDArray[np.intp]] = {}
        for spec in signature.inputs:
            names = _columns(signature, spec, row_shapes[spec.name])
            of_column[spec.name] = np.arange(len(named), len(named) + len(names))
            named += [(spec.name, name) for name in names]
        seen = Counter(name for _, name in named)
        return cls(tuple(name if seen[name] == 1 else f"{owner}.{name}" for owner, name in named), of_column)


def _columns(signature: Signature, spec: TensorSpec, row_shape: tuple[int, ...]) -> list[str]:
    count = prod(row_shape)
    named = signature.names(COLUMNS + spec.name, count)
    if named is not None:
        return named
    if count == 1:
        return [spec.name]
    return [f"{spec.name}[{','.join(map(str, index))}]" for index in np.ndindex(row_shape)]

"""Which columns of the explained output are explained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infermesh.errors import InvalidRequest
from services.explainer.signature import CLASSES, Signature, TensorSpec

__all__ = ["ALL", "Classes", "class_names"]

TOP = "top:"
MAX_NAMED = 1000

Wrong = Callable[[str], InvalidRequest]  # what would be right


@dataclass(frozen=True, slots=True)
class Classes:
    """All columns (neither is set), the `top` ones by mean prediction, highest first, or those `named` by index or name.

    Written as an integer (one index), `"0,2"`, `"genuine,fraud"` or `"top:2"`. Named twice is explained once.
    """

    named: tuple[str, ...] = ()
    top: int = 0

    @classmethod
    def of(cls, value: bool | int | float | str | None, wrong: Wrong) -> Classes:
        """From the parameter's value; raises what `wrong` makes."""
        if value is None:
            return ALL
        if type(value) is int and value >= 0:
            return cls((str(value),))
        if isinstance(value, str):
            if value.startswith(TOP):
                count = value.removeprefix(TOP).strip()
                if count.isdecimal() and len(count) < 10 and int(count) > 0:
                    return cls(top=int(count))
            else:
                named = tuple(dict.fromkeys(part.strip() for part in value.split(",")))
                if all(named) and len(named) <= MAX_NAMED:
                    return cls(named)
        raise wrong('an index, a list of indices or names such as "0,2", or "top:2"')

    def pick(self, names: Sequence[str], predictions: NDArray[np.float64], wrong: Wrong) -> NDArray[np.intp] | None:
        """The columns of predictions [rows, classes]; None: all. A name wins over an index that is written alike."""
        if self.top:
            means = predictions.mean(axis=0) if len(predictions) else np.zeros(len(names))
            return np.argsort(-means, kind="stable")[: self.top]
        if not self.named:
            return None
        position = {str(index): index for index in range(len(names))} | {name: i for i, name in enumerate(names)}
        unknown = [name for name in self.named if name not in position]
        if unknown:
            raise wrong(f"indices from 0 to {len(names) - 1}, or names out of {', '.join(names)[:200]}")
        return np.array(list(dict.fromkeys(position[name] for name in self.named)), np.intp)


ALL = Classes()


def class_names(signature: Signature, output: TensorSpec, width: int) -> list[str]:
    """The names of an output's columns: those that the model declares, if there are as many, or its own name and numbers."""
    named = signature.names(CLASSES, width)
    if named is not None:
        return named
    return [output.name] if width == 1 else [f"{output.name}[{index}]" for index in range(width)]

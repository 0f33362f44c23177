"""How an explanation is shown: what moved the prediction away from the base value, and by how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from infermesh.cli.bars import FALLS, RISES, signed_bar
from infermesh.cli.failure import Failure
from infermesh.protocol.open_inference_pb2 import ModelInferResponse
from infermesh.tensors import Array, read_outputs

__all__ = ["EXPLAINED", "Explanation", "chart"]

EXPLAINED = (
    "attributions",
    "base_values",
    "predictions",
    "std_error",
    "additivity_error",
    "feature_names",
    "output_names",
)
"""The outputs that an explanation is read from."""
MAX_FEATURES = 12


@dataclass(frozen=True)
class Explanation:
    """The answer of an explainer: rows, features (M) and outputs of the model (K)."""

    attributions: Array  # [rows, M, K]
    base_values: Array  # [rows, K]
    predictions: Array  # [rows, K]
    std_error: Array | None  # [rows, M, K]; None: the explainer did not say
    features: tuple[str, ...]
    outputs: tuple[str, ...]
    values: tuple[tuple[str, ...], ...] = ()  # by row: the features as texts; empty: not asked for
    reasons: tuple[tuple[str, ...], ...] = ()  # by row, the weightiest first
    additivity_error: Array | None = None  # [rows, K]

    @classmethod
    def read(cls, response: ModelInferResponse) -> Explanation:
        """From the response's outputs. Raises Failure when it is no explanation."""
        found = read_outputs(response)
        try:
            return cls(
                found["attributions"],
                found["base_values"],
                found["predictions"],
                found.get("std_error"),
                _texts(found["feature_names"]),
                _texts(found["output_names"]),
                _rows(found.get("feature_values")),
                tuple(tuple(filter(None, row)) for row in _rows(found.get("reasons"))),
                found.get("additivity_error"),
            )
        except KeyError as missing:
            raise Failure(
                f"{response.model_name}: its answer is no explanation: output {missing} is not there"
            ) from None

    @property
    def rows(self) -> int:
        return int(self.attributions.shape[0])

    def output(self, name: str = "", row: int = 0) -> int:
        """The position of an output by its name; without one, of the output whose prediction is largest."""
        if not name:
            return int(np.argmax(np.asarray(self.predictions, np.float64)[row]))
        if name in self.outputs:
            return self.outputs.index(name)
        raise Failure(f"output {name!r}: expected one of {', '.join(self.outputs)}", status=2)


def chart(
    explanation: Explanation,
    output: int,
    row: int = 0,
    values: Mapping[str, str] | None = None,
    most: int = MAX_FEATURES,
) -> RenderableType:
    """A signed bar for each feature, the largest first; from the base value, they add up to the prediction.

    `values` are what the features were, as far as the caller knows. Past `most`, the rest is shown as one sum.
    """
    amounts = np.asarray(explanation.attributions, np.float64)[row, :, output]
    order = np.argsort(-np.abs(amounts), kind="stable")
    shown = order if len(order) <= most + 1 else order[:most]
    rest = [i for i in order.tolist() if i not in set(shown.tolist())]
    largest = float(np.abs(amounts).max(initial=0.0))

    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1))
    table.add_column(justify="left")
    if values:
        table.add_column(justify="right", style="bright_black")
    table.add_column()
    table.add_column(justify="right")
    if explanation.std_error is not None:
        table.add_column(style="bright_black")
    for i in shown.tolist():
        name = explanation.features[i]
        cells: list[RenderableType] = [Text(name)]
        if values:
            cells.append(Text(values.get(name, "")))
        cells += [signed_bar(amounts[i], largest), _signed(amounts[i])]
        if explanation.std_error is not None:
            error = float(np.asarray(explanation.std_error, np.float64)[row, i, output])
            cells.append(f"± {error:.2g}" if error > 0 else "")
        table.add_row(*cells)
    if rest:
        together = float(amounts[rest].sum())
        cells = [Text(f"{len(rest)} others together", "italic")]
        if values:
            cells.append("")
        table.add_row(*cells, signed_bar(together, max(largest, abs(together))), _signed(together))
    base = float(np.asarray(explanation.base_values, np.float64)[row, output])
    prediction = float(np.asarray(explanation.predictions, np.float64)[row, output])
    ends = Text.assemble(
        (explanation.outputs[output], "bold"), f": base value {base:.4f} ", _signed(prediction - base),
        " → prediction ", (f"{prediction:.4f}", "bold"),
    )  # fmt: skip
    return Group(ends, Text(), table)


def _signed(amount: float) -> Text:
    return Text(f"{amount:+.4f}", RISES if amount >= 0 else FALLS)


def _rows(array: Array | None) -> tuple[tuple[str, ...], ...]:
    return () if array is None else tuple(_texts(row) for row in array)


def _texts(array: Array) -> tuple[str, ...]:
    return tuple(
        e.decode("utf-8", "backslashreplace") if isinstance(e, bytes) else str(e) for e in array.ravel().tolist()
    )

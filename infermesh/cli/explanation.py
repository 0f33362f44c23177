"""How an explanation is shown: what moved the prediction away from the base value, and by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
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
HALF, NARROWEST_HALF = 18, 5  # characters of a bar on either side
NARROWEST_NAME = 10


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

    `values` are what the features were, as far as the caller knows. Past `most`, the rest is shown as one sum. Bars are as wide
    as the terminal has room for; where there is little, errors go first, then values.
    """
    amounts = np.asarray(explanation.attributions, np.float64)[row, :, output]
    order = np.argsort(-np.abs(amounts), kind="stable")
    shown = (order if len(order) <= most + 1 else order[:most]).tolist()
    rest = order[len(shown) :].tolist()
    errors = np.zeros(len(amounts))
    if explanation.std_error is not None:
        errors = np.asarray(explanation.std_error, np.float64)[row, :, output]
    lines = [
        _Line(
            explanation.features[i],
            (values or {}).get(explanation.features[i], ""),
            float(amounts[i]),
            f"± {errors[i]:.2g}" if errors[i] > 0 else "",
        )
        for i in shown
    ]
    if rest:
        lines.append(_Line(f"{len(rest)} others together", "", float(amounts[rest].sum()), "", "italic"))
    base = float(np.asarray(explanation.base_values, np.float64)[row, output])
    prediction = float(np.asarray(explanation.predictions, np.float64)[row, output])
    ends = Text.assemble(
        (explanation.outputs[output], "bold"), f": base value {base:.4f} ", _signed(prediction - base),
        " → prediction ", (f"{prediction:.4f}", "bold"),
    )  # fmt: skip
    return Group(ends, Text(), _Bars(lines))


class _Line(NamedTuple):
    name: str
    value: str
    amount: float
    error: str
    style: str = ""


@dataclass(frozen=True)
class _Bars:
    """The lines as a table of the terminal's width."""

    lines: Sequence[_Line]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        names = max((cell_len(line.name) for line in self.lines), default=0)
        amounts = max((len(_signed(line.amount)) for line in self.lines), default=0)
        most, most_value = max(NARROWEST_NAME, options.max_width // 3), max(NARROWEST_NAME, options.max_width // 5)
        more = {
            "value": min(most_value, max((cell_len(line.value) for line in self.lines), default=0)),
            "error": max((len(line.error) for line in self.lines), default=0),
        }
        more = {key: width for key, width in more.items() if width}
        half = 0
        for drop in ("", "error", "value"):  # what is dropped until a bar can be read
            more.pop(drop, None)
            used = [min(names, most), amounts, *more.values()]
            half = min(HALF, (options.max_width - sum(used) - 2 * len(used) - 3) // 2)
            if half >= NARROWEST_HALF:
                break
        half = max(1, half)
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1))
        table.add_column(max_width=most, no_wrap=True, overflow="ellipsis")
        if "value" in more:
            table.add_column(
                justify="right", style="bright_black", max_width=most_value, no_wrap=True, overflow="ellipsis"
            )
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        if "error" in more:
            table.add_column(style="bright_black", no_wrap=True)
        largest = max((abs(line.amount) for line in self.lines), default=0.0)
        for line in self.lines:
            cells: list[RenderableType] = [Text(line.name, line.style)]
            if "value" in more:
                cells.append(Text(line.value))
            cells += [signed_bar(line.amount, largest, half), _signed(line.amount)]
            table.add_row(*cells, *([line.error] if "error" in more else []))
        yield table


def _signed(amount: float) -> Text:
    return Text(f"{amount:+.4f}", RISES if amount >= 0 else FALLS)


def _rows(array: Array | None) -> tuple[tuple[str, ...], ...]:
    return () if array is None else tuple(_texts(row) for row in array)


def _texts(array: Array) -> tuple[str, ...]:
    return tuple(
        _printable(e.decode("utf-8", "backslashreplace") if isinstance(e, bytes) else str(e))
        for e in array.ravel().tolist()
    )


def _printable(text: str) -> str:
    """Without what a terminal would take for an order: names come from whoever made the model."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)

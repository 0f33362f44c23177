"""Reason codes: the features that moved a score most in one direction, as texts from the model's own templates.

In the manner of adverse-action notices (Regulation B, 12 CFR 1002.9): what counted against somebody, the weightiest first, and
nothing that counted for them. How many is the caller's choice; the official commentary holds that more than four are not likely
to be helpful.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from infermesh.tensors import Array
from services.explainer.estimate import Estimate, Floats
from services.explainer.players import Players
from services.explainer.signature import Signature

__all__ = ["DIRECTIONS", "MOST_REASONS", "REASONS", "Reasons", "templates_of"]

REASONS = (
    "infermesh.reasons"  # property of a model: {feature: {"up": text, "down": text}}, in which {value} is the row's own
)
DIRECTIONS = ("up", "down")
MOST_REASONS = 10
MAX_VALUE = 64  # characters of a value within a text
MAX_TEXT = 256
MAX_PROPERTY = 2**18

Templates = Mapping[str, Mapping[str, str]]


def templates_of(signature: Signature) -> Templates:
    """The texts that a model declares; what is none is left out, and the texts of its features are made of their names."""
    declared = signature.properties.get(REASONS, "")
    try:
        read = json.loads(declared) if 0 < len(declared) <= MAX_PROPERTY else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(read, dict):
        return {}
    return {
        feature: {way: texts[way] for way in DIRECTIONS if isinstance(texts.get(way), str) and texts[way]}
        for feature, texts in read.items()
        if isinstance(texts, dict)
    }


@dataclass(frozen=True)
class Reasons:
    """What reasons of one request are made of: `count` for each row, towards `adverse`, of the last column that is explained."""

    arrays: Mapping[str, Array]
    players: Players
    templates: Templates
    count: int
    adverse: str

    @cached_property
    def values(self) -> Array:
        """The features of each row as texts, [rows, features]; empty for a group of several columns."""
        rows = len(next(iter(self.arrays.values())))
        texts = np.full((rows, len(self.players)), b"", np.object_)
        for column, name, at in self._single():
            texts[:, column] = [_text(value).encode() for value in self._column(name, at).tolist()]
        return texts

    def of(self, estimate: Estimate) -> tuple[Array, Array]:
        """Texts and names of features, both [rows, count], the weightiest first; empty where there are fewer.

        A feature counts when it moved the score towards `adverse` by more than its standard error; equal ones in their order.
        """
        sign = 1.0 if self.adverse == "up" else -1.0
        amounts: Floats = sign * estimate.attributions[:, :, -1]
        errors: Floats = estimate.std_error[:, :, -1]
        order = np.argsort(-amounts, axis=1, kind="stable")[:, : self.count]
        rows = len(amounts)
        texts, names = (np.full((rows, self.count), b"", np.object_) for _ in range(2))
        places = {column: (name, at) for column, name, at in self._single()}
        for row in range(rows):
            for rank, player in enumerate(order[row].tolist()):
                if not amounts[row, player] > max(0.0, errors[row, player]):
                    continue
                value = ""
                if player in places:
                    name, at = places[player]
                    value = _text(self._column(name, at)[row])
                feature = self.players.names[player]
                texts[row, rank] = self._said(feature, value).encode()
                names[row, rank] = feature.encode()
        return texts, names

    def _said(self, feature: str, value: str) -> str:
        template = self.templates.get(feature, {}).get(self.adverse)
        if template is None:
            moved = "raised" if self.adverse == "up" else "lowered"
            template = f"{feature} {moved} the score" + (" ({value})" if value else "")
        return _printable(template.replace("{value}", value))[:MAX_TEXT]

    def _single(self) -> Sequence[tuple[int, str, int]]:
        """Player, input and place of each column that is a feature by itself."""
        columns: dict[int, list[tuple[str, int]]] = {}
        for name, of_column in self.players.of_column.items():
            for at, player in enumerate(of_column.tolist()):
                columns.setdefault(player, []).append((name, at))
        return [(player, *places[0]) for player, places in columns.items() if len(places) == 1]

    def _column(self, name: str, at: int) -> Array:
        array = self.arrays[name]
        column: Array = array.reshape(len(array), prod(array.shape[1:]))[:, at]  # -1 would be refused for no rows
        return column


def _text(value: object) -> str:
    """A value for people: six digits of a number, and of a text what can be printed."""
    if isinstance(value, bytes):
        return _printable(value.decode("utf-8", "backslashreplace"))[:MAX_VALUE]
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    return f"{float(value):.6g}" if isinstance(value, (float, np.floating)) else str(value)


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)

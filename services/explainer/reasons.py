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
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from infermesh.tensors import Array
from services.explainer.estimate import Estimate, Floats
from services.explainer.players import Players
from services.explainer.signature import CLASSES, Signature

__all__ = [
    "DIRECTIONS",
    "MOST_REASONS",
    "REASONS",
    "REASONS_CLASS",
    "Reasons",
    "Subject",
    "subject_of",
    "templates_of",
]

REASONS = (
    "infermesh.reasons"  # property of a model: {feature: {"up": text, "down": text}}, in which {value} is the row's own
)
REASONS_CLASS = "infermesh.reasons.class"  # another one: the class, by name or index, that these texts are about
DIRECTIONS = ("up", "down")
OPPOSITE = {"up": "down", "down": "up"}
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


@dataclass(frozen=True, slots=True)
class Subject:
    """Which column reasons are about: its `position` among those that are explained, its `name` (empty: there is one), and
    whether the model's `texts` are written for its class, for the other one of two, or for neither."""

    position: int = -1
    name: str = ""
    texts: Literal["own", "other", "none"] = "own"


def subject_of(signature: Signature, explained: Sequence[str], columns: NDArray[np.intp] | None, width: int) -> Subject:
    """The class that the templates are written for, which is the model's last one or that of the property, if it is among the
    columns that are explained; else the last one of these. `explained` are their names, `columns` their places among the `width`
    columns of the output; None: all."""
    places = list(range(width)) if columns is None else columns.tolist()
    if not places:
        return Subject()
    written_for: int | None = width - 1
    if REASONS_CLASS in signature.properties:
        names = signature.names(CLASSES, width) or []
        known = {str(place): place for place in range(width)} | {name: place for place, name in enumerate(names)}
        written_for = known.get(signature.properties[REASONS_CLASS])
    if written_for in places:
        at = places.index(written_for)
        return Subject(at, explained[at] if width > 1 else "", "own")
    return Subject(len(places) - 1, explained[-1], "other" if width == 2 and written_for is not None else "none")


@dataclass(frozen=True)
class Reasons:
    """What reasons of one request are made of: `count` for each row, towards `adverse`, of the column of the `subject`."""

    arrays: Mapping[str, Array]
    players: Players
    templates: Templates
    count: int
    adverse: str
    subject: Subject = Subject()

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
        None does whose error is not known: that a row has no reasons says nothing then.
        """
        sign = 1.0 if self.adverse == "up" else -1.0
        amounts: Floats = sign * estimate.attributions[:, :, self.subject.position]
        errors: Floats = estimate.std_error[:, :, self.subject.position]
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
        template = None
        if self.subject.texts != "none":
            way = self.adverse if self.subject.texts == "own" else OPPOSITE[self.adverse]
            template = self.templates.get(feature, {}).get(way)
        if template is None:
            moved = "raised" if self.adverse == "up" else "lowered"
            score = f"the score of {self.subject.name}" if self.subject.name else "the score"
            return _printable(f"{feature} {moved} {score}" + (f" ({value})" if value else ""))[:MAX_TEXT]
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

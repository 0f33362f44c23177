"""Features that are one player: the columns of a one-hot encoding, or everything of one feature view."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infermesh.errors import InvalidRequest
from services.explainer.players import Players
from services.explainer.signature import Signature

__all__ = ["BY_INPUT", "EACH", "GROUPS", "grouped"]

GROUPS = "infermesh.groups"  # property of a model: groups in the form of the parameter
BY_INPUT = "inputs"
EACH = "none"
MAX_TEXT = 2**16

Wrong = Callable[[str], InvalidRequest]  # what would be right


def grouped(features: Players, text: str, signature: Signature, wrong: Wrong) -> Players:
    """The features with some of them as one player each, at the place of the first of them. Others stay alone.

    `text` is a JSON object of names to lists of features, a JSON list of such lists, `inputs` for each input as one player,
    `none`, or empty for what the model declares as `infermesh.groups`. A feature is written as its name or its number.
    Raises what `wrong` makes for a text of a request that does not fit; what a model declares and does not fit is not used.
    """
    if text:
        return _merged(features, _groups(text, features, wrong), wrong)
    declared = signature.properties.get(GROUPS, "")
    if not declared:
        return features
    try:
        return _merged(features, _groups(declared, features, wrong), wrong)
    except InvalidRequest:
        return features


def _groups(text: str, features: Players, wrong: Wrong) -> dict[str, list[int]]:
    if text == EACH:
        return {}
    if text == BY_INPUT:
        return {name: np.unique(of_column).tolist() for name, of_column in features.of_column.items() if len(of_column)}
    form = f'"{BY_INPUT}", "{EACH}", or JSON such as {{"card": ["card_age_days", "credit_limit"]}} or [[0, 1], [4, 5]]'
    try:
        read = json.loads(text) if len(text) <= MAX_TEXT else None
        "".join(read if isinstance(read, dict) else ()).encode()  # half a surrogate pair can't be answered
    except (ValueError, RecursionError):
        read = None
    if isinstance(read, list) and all(isinstance(members, list) for members in read):
        members = [_members(each, features, wrong) for each in read]
        read = {"+".join(features.names[i] for i in each): each for each in members}
        if len(read) < len(members):
            raise wrong("every feature in at most one group")
        return read
    if isinstance(read, dict) and all(isinstance(members, list) for members in read.values()) and all(read):
        return {name: _members(each, features, wrong) for name, each in read.items()}
    raise wrong(form)


def _members(given: list[Any], features: Players, wrong: Wrong) -> list[int]:
    position = {name: i for i, name in enumerate(features.names)}
    members: list[int] = []
    for one in given:
        if type(one) is int and 0 <= one < len(features):
            members.append(one)
        elif isinstance(one, str) and one in position:
            members.append(position[one])
        else:
            raise wrong(f"features out of {', '.join(features.names)[:300]}")
    if not members:
        raise wrong("groups of one feature or more")
    return members


def _merged(features: Players, groups: Mapping[str, list[int]], wrong: Wrong) -> Players:
    taken = Counter(member for members in groups.values() for member in members)
    if any(count > 1 for count in taken.values()):
        twice = next(features.names[member] for member, count in taken.items() if count > 1)
        raise wrong(f"every feature in at most one group, {twice} once")
    group_of = {member: name for name, members in groups.items() for member in members}
    names: dict[tuple[bool, str], int] = {}  # a group and a lone feature may not be called the same: told below
    of_feature: NDArray[np.intp] = np.empty(len(features), np.intp)
    for i, name in enumerate(features.names):
        key = (i in group_of, group_of.get(i, name))
        of_feature[i] = names.setdefault(key, len(names))
    if len({name for _, name in names}) < len(names):
        raise wrong("names of groups that no feature outside of them has")
    of_column = {name: of_feature[columns] for name, columns in features.of_column.items()}
    return Players(tuple(name for _, name in names), of_column)

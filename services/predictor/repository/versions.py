"""Which version folders of a model are loaded, and what its labels stand for."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from services.predictor.model_config import FILE, VersionPolicy

__all__ = ["Plan", "plan", "point"]

MAX_DIGITS = 18

_NUMBER = re.compile(rf"0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}}")  # one spelling for one version: 01 and 1 would be the same


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be loaded, oldest first, and what is wrong, by the folder's name or the version's number."""

    wanted: tuple[int, ...]
    left_out: frozenset[int]
    reasons: Mapping[str, str]


def plan(model: str, folders: Iterable[str], policy: VersionPolicy) -> Plan:
    """What the policy chooses among the version folders that are there."""
    names = list(folders)
    reasons = {name: _not_a_version(name) for name in names if not _NUMBER.fullmatch(name)}
    there = sorted(int(name) for name in names if name not in reasons)
    wanted = there
    if policy.latest is not None:
        wanted = there[-policy.latest :]
    elif policy.specific is not None:
        wanted = [number for number in there if number in policy.specific]
        for number in sorted(set(policy.specific) - set(there)):
            reasons[str(number)] = f"versions.specific of {FILE} names it, and there is no folder {model}/{number}/"
    if not names:
        reasons.setdefault("", f"no version folder in {model}/")
    return Plan(tuple(wanted), frozenset(there) - frozenset(wanted), reasons)


def point(
    declared: Mapping[str, int],
    loaded: Collection[int],
    before: Mapping[str, int],
    *,
    left_out: Collection[int] = (),
) -> tuple[dict[str, int], dict[int, str]]:
    """The version that each label stands for, and for versions that a label names in vain: why.

    A label only points to a version that is loaded. One that is to move to another stays where it was, while that is loaded;
    else it stands for nothing.
    """
    labels: dict[str, int] = {}
    reasons: dict[int, str] = {}
    for label, number in declared.items():
        if number in loaded:
            labels[label] = number
            continue
        why = "which the version policy leaves out" if number in left_out else "which is not loaded"
        stays = before.get(label)
        if stays is not None and stays in loaded:
            labels[label] = stays
            why += f"; it stays at version {stays}"
        more = f"{reasons[number]}; " if number in reasons else ""
        reasons[number] = f"{more}label {label} is to point to this version, {why}"
    return labels, reasons


def _not_a_version(name: str) -> str:
    bare = name.lstrip("0") or "0"
    if name.isascii() and name.isdecimal():
        if len(bare) > MAX_DIGITS:
            return f"the name of a version folder is a number of at most {MAX_DIGITS} digits"
        return f"the name of a version folder is a number without zeros before it: {bare}"
    return "the name of a version folder is a number"

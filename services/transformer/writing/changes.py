"""What applying a file would change, and what that does to rows that are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from services.transformer.row import RowFormat
from services.transformer.schema import Column
from services.transformer.views import FeatureFile, FeatureView
from services.transformer.writing.registry import Applied

__all__ = ["Change", "changes", "entries", "lines_of"]

Kind = Literal["new", "same", "changed", "migration", "breaking", "removed"]


@dataclass(frozen=True)
class Change:
    """Of one view or service. `breaking`: rows that are stored would be foreign, or lie under other keys."""

    name: str
    kind: Kind
    lines: list[str] = field(default_factory=list)
    """For people, one for each difference, such as `feature "limit": FP32 → FP64`."""


def lines_of(columns: list[Column]) -> tuple[str, ...]:
    """A schema as its fingerprint reads it."""
    return tuple(
        f"{name} {datatype}{'[' + ','.join(map(str, shape)) + ']' if shape else ''}{' @' + group if group else ''}"
        for name, datatype, shape, group in columns
    )


def changes(file: FeatureFile, applied: Mapping[str, Applied], *, remove: bool = False) -> list[Change]:
    """Every view and service of the file, and those that were applied and are not in it: `removed`, if that is wanted."""
    found = []
    for name, view in file.views.items():
        found.append(_of_view(f"view:{name}", view, applied.get(f"view:{name}")))
    for model, service in file.services.items():
        name, declared = f"service:{model}", service.model_dump(mode="json", exclude_defaults=True)
        before = applied.get(name)
        lines = [] if before is None else list(_differences(before.declared, declared))
        found.append(Change(name, "new" if before is None else "changed" if lines else "same", lines))
    if remove:
        found += [Change(name, "removed") for name in applied if name not in {change.name for change in found}]
    return found


def entries(
    file: FeatureFile, applied: Mapping[str, Applied], wanted: list[Change], at_s: float, by: str
) -> dict[str, Applied | None]:
    """What the registry is to hold for these changes; None for what is removed."""
    after: dict[str, Applied | None] = {}
    for change in wanted:
        if change.kind == "same":
            continue
        if change.kind == "removed":
            after[change.name] = None
            continue
        kind, _, name = change.name.partition(":")
        declared: FeatureView | Any = file.views[name] if kind == "view" else file.services[name]
        dumped = declared.model_dump(mode="json", exclude_defaults=True)
        columns = declared.columns if kind == "view" else []
        fingerprint = f"{RowFormat(columns).fingerprint:08x}" if kind == "view" else ""
        before = applied.get(change.name)
        if before is None:
            after[change.name] = Applied(dumped, 1, fingerprint, lines_of(columns), at_s, by)
        else:
            after[change.name] = before.followed_by(dumped, fingerprint, lines_of(columns), at_s, by)
    return after


def _of_view(name: str, view: FeatureView, before: Applied | None) -> Change:
    declared = view.model_dump(mode="json", exclude_defaults=True)
    if before is None:
        return Change(name, "new", [f"{len(view.features)} features, schema {RowFormat(view.columns).fingerprint:08x}"])
    lines = list(_differences(before.declared, declared))
    was, now = _entity(before.declared), _entity(declared)
    if was != now:
        return Change(name, "breaking", [*lines, "rows lie under keys of another entity, and will not be found"])
    if before.declared.get("layout") != declared.get("layout"):
        return Change(name, "breaking", [*lines, "rows of one layout can't be read as another"])
    if before.fingerprint != f"{RowFormat(view.columns).fingerprint:08x}":
        read = {lines_of(past) for past in view.past}
        if before.columns in read:
            return Change(name, "migration", [*lines, f"rows of schema {before.fingerprint} are read too (previous)"])
        why = f"rows of schema {before.fingerprint} will be foreign; name it under `previous` to have them read"
        return Change(name, "breaking", [*lines, why])
    return Change(name, "changed" if lines else "same", lines)


def _entity(declared: Mapping[str, Any]) -> Any:
    """What keys are made of: the kinds of ids in their order. Names may change."""
    entity = declared.get("entity", {})
    return [part.get("type", "string") for part in entity.get("keys") or [entity]]


def _differences(was: Any, now: Any, path: str = "") -> Iterator[str]:
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*was, *now]):
            yield from _differences(was.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif _is_named(was) and _is_named(now):
        ours, theirs = {each["name"]: each for each in now}, {each["name"]: each for each in was}
        yield from _differences(theirs, ours, path)
        if [name for name in theirs if name in ours] != [name for name in ours if name in theirs]:
            yield f"{path}: order changed"
    elif was != now:
        if isinstance(was, Mapping) or isinstance(now, Mapping):
            yield f"{path}: {'added' if was is None else 'removed' if now is None else 'changed'}"
        else:
            yield f"{path}: {_shown(was)} → {_shown(now)}"


def _is_named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, Mapping) and "name" in each for each in value)


def _shown(value: Any) -> str:
    if value is None:
        return "(none)"
    text = str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"

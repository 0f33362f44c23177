"""What a fault may show of a value: secrets never, addresses without who logs in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, SecretBytes, SecretStr

__all__ = ["masked", "shown"]

HIDDEN = "…"
MAX_VALUE_CHARACTERS = 80

_SECRET_NAME = re.compile(
    r"(^|[^a-z])(password|passwd|passphrase|token|key|secret|credentials?)($|[^a-z])", re.IGNORECASE
)
_USER_INFO = re.compile(
    r"(?<=://).*@", re.DOTALL
)  # up to the last @: a password that nobody encoded may have more of them
_API_KEY = re.compile(r"imk_[\w-]+")  # by which the gateway's keys begin
_QUERY = re.compile(r"(?<=[?&])((?:password|passwd|token|key|secret)=)[^&]*", re.IGNORECASE)


def shown(value: Any, kind: Any, path: Sequence[str | int]) -> str:
    """The value that was given at `path` in a configuration of this kind, as a fault may tell it."""
    kinds = [kind]
    for part in path:
        if _is_secret(part, kinds := _below(kinds, part)):
            return HIDDEN
    text = masked(repr(_redacted(value, kinds)))  # before it is shortened, which would leave the beginning of one
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[:MAX_VALUE_CHARACTERS] + "…"


def masked(text: str) -> str:
    """The text without the API keys in it."""
    return _API_KEY.sub(f"imk_{HIDDEN}", text) if "imk_" in text else text


def _redacted(value: Any, kinds: Iterable[Any]) -> Any:
    if isinstance(value, str):
        return _QUERY.sub(r"\1" + HIDDEN, _USER_INFO.sub(f"{HIDDEN}@", value))
    if isinstance(value, Mapping):
        members = {key: _below(kinds, key) for key in value}
        return {key: HIDDEN if _is_secret(key, members[key]) else _redacted(value[key], members[key]) for key in value}
    if isinstance(value, list | tuple):
        # A list where one group of settings belongs is still to be seen through.
        kinds = list(kinds)
        kinds += [
            kind for kind in _below(kinds, 0) if kind not in kinds
        ]  # else a nest of lists would double them each time
        return [_redacted(each, kinds) for each in value]
    if isinstance(value, BaseModel):
        return _redacted(dict(value), [type(value)])
    return value


def _is_secret(part: object, kinds: Iterable[Any]) -> bool:
    return (isinstance(part, str) and _SECRET_NAME.search(part) is not None) or any(
        kind in (SecretStr, SecretBytes) for kind in _flat(kinds)
    )


def _below(kinds: Iterable[Any], part: object) -> list[Any]:
    """What may stand at a key or position of something of these kinds; the kinds themselves where the part is pydantic's own
    word for a choice between them."""
    found: list[Any] = []
    stays = []
    for kind in _flat(kinds):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if isinstance(part, str) and part in kind.model_fields:
                found.append(kind.model_fields[part].annotation)
            else:
                stays.append(kind)
        elif (arguments := get_args(kind)) and isinstance(get_origin(kind), type):
            found.append(arguments[-1] if issubclass(get_origin(kind), Mapping) else arguments[0])
    return found or stays


def _flat(kinds: Iterable[Any]) -> Iterable[Any]:
    """The members of unions and of annotated types."""
    for kind in kinds:
        origin = get_origin(kind)
        if origin is None or (isinstance(origin, type) and issubclass(origin, Mapping | Sequence | set | frozenset)):
            yield kind
        elif hasattr(kind, "__metadata__"):
            yield from _flat(get_args(kind)[:1])
        else:
            yield from _flat(get_args(kind))

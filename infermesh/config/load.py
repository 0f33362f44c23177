"""Reading a configuration: defaults < YAML file < environment; every fault is reported, not only the first."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import EnvSettingsSource
from pydantic_settings.exceptions import SettingsError

from infermesh.config.models import ServiceConfig
from infermesh.config.redact import masked, shown

__all__ = ["ConfigError", "load", "parse"]

MERGE_TAG = "tag:yaml.org,2002:merge"
MAX_NESTING = 32  # levels of a file: settings have ten
MAX_STACK = 1000  # of what libyaml is given
MAX_VALUES = 10_000_000  # of a file, as its anchors expand: a table of 100,000 routes has a tenth of that

_BRACKETS = re.compile(r"[][{}]")
_YAML_VALUE = re.compile(r"\b(alias|anchor|tag|tag handle)\s+('.*?'|\".*?\")")

# Eight times as fast, where PyYAML was built with libyaml, as its wheels are.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

C = TypeVar("C", bound=ServiceConfig)
M = TypeVar("M", bound=BaseModel)


class ConfigError(Exception):
    """A configuration that can't be used; the text has one line for each fault: path, what came, what would be right."""

    def __init__(self, source: str, faults: list[str]) -> None:
        faults = [masked(each) for each in faults]  # a key may stand anywhere, in the place of a name too
        super().__init__(
            "\n".join([f"{source}: {len(faults)} fault{'s' * (len(faults) != 1)}", *(f"  {f}" for f in faults)])
        )
        self.faults = faults


def load(kind: type[C], file: Path | None = None, environ: Mapping[str, str] = os.environ) -> C:
    """The configuration of a service from a file and from variables such as `INFERMESH_PREDICTOR__SERVER__GRPC_PORT`."""
    prefix = str(kind.model_config["env_prefix"])
    values = _read_yaml(file) if file else {}
    faults: list[str] = []
    overrides: Mapping[str, Any] = {}
    try:
        overrides = _Environment(kind, environ)()
    except (SettingsError, ValueError) as error:  # a list or mapping that is no JSON
        faults.append(_not_json(prefix, environ, error))
    unknown = sorted(
        name
        for name in environ
        if name.upper().startswith(prefix)
        and name.upper()[len(prefix) :].split("__")[0].lower() not in kind.model_fields
    )
    source = f"{file}" if file else "configuration"
    faults += [f"{name}: no such setting" for name in unknown]
    try:
        config = kind.model_validate(_merged(values, overrides), context={"base": file.parent} if file else None)
    except ValidationError as error:
        faults += _faults(error, kind)
    if faults:
        raise ConfigError(source, faults)
    return config


def parse(kind: type[M], file: Path) -> M:
    """A part of a configuration that is a file of its own, such as a route table.

    A model may have a class method `fault_of_text`, for what is told by the text of its file alone.
    """
    source = str(file)
    text = _read_text(file)
    values = _parse_yaml(text, source)
    check: Callable[[str], str] | None = getattr(kind, "fault_of_text", None)
    fault = check(text) if check is not None else ""
    faults = [fault] if fault else []
    try:
        read = kind.model_validate(values, context={"base": file.parent})
    except ValidationError as error:
        faults += _faults(error, kind)
    if faults:
        raise ConfigError(source, faults)
    return read


class _Environment(EnvSettingsSource):
    """pydantic-settings' reading of nested variables, from a given mapping."""

    def __init__(self, kind: Any, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(kind)  # it needs no more of a settings class than fields and model_config

    def _load_env_vars(self) -> Mapping[str, str]:
        return {name.lower(): value for name, value in self._environ.items()}


def _read_yaml(file: Path) -> dict[str, Any]:
    return _parse_yaml(_read_text(file), str(file))


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(file), [f"can't be read: {error}"]) from None


def _parse_yaml(text: str, source: str) -> dict[str, Any]:
    if _overflows(text):
        raise ConfigError(source, [f"no settings: nested deeper than {MAX_NESTING} levels"])
    try:
        values = yaml.load(text, _UniqueKeys)  # a safe loader with one more check
    except yaml.YAMLError as error:
        raise ConfigError(source, [f"no valid YAML: {_yaml_fault(error)}"]) from None
    if values is None:
        return {}
    try:
        _measured(values, 0, {})
    except ValueError as error:
        raise ConfigError(source, [f"no settings: {error}"]) from None
    if not isinstance(values, dict):
        raise ConfigError(source, [f"expected a mapping of settings, got {type(values).__name__}"])
    return values


def _overflows(text: str) -> bool:
    """Whether libyaml would come to the end of the stack, which ends the process; brackets in quotes count, and there are few."""
    depth = 0
    for bracket in _BRACKETS.findall(text):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_STACK:
            return True
    return "- " * MAX_STACK in text


def _measured(value: Any, depth: int, known: dict[int, int]) -> int:
    """How many values it comes to, with those that stand under an anchor counted each time; ValueError past the bounds."""
    if not isinstance(value, dict | list):
        return 1
    if depth >= MAX_NESTING:
        raise ValueError(f"nested deeper than {MAX_NESTING} levels")
    count = known.get(id(value))
    if count is None:
        below = value.values() if isinstance(value, dict) else value
        count = known[id(value)] = 1 + sum(_measured(each, depth + 1, known) for each in below)
        if count > MAX_VALUES:
            raise ValueError(f"anchors make more than {MAX_VALUES} values of it")
    return count


def _yaml_fault(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the line itself, which may hold a password; nor the value that looked like YAML's own."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark or error.context_mark
    what = _YAML_VALUE.sub(r"\1", ", ".join(filter(None, (error.context, error.problem))))
    return " ".join(what.split()) + (f" (line {mark.line + 1}, column {mark.column + 1})" if mark else "")


class _UniqueKeys(_Loader):  # type: ignore[misc]  # one of two classes, which are alike
    """A key that stands twice in one mapping is an error: YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == MERGE_TAG:  # `<<: *anchor`; its keys may be overridden
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key is a list or mapping", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        values: dict[Any, Any] = super().construct_mapping(node, deep)
        return values


def _not_json(prefix: str, environ: Mapping[str, str], error: Exception) -> str:
    """pydantic-settings names the field, not the variable: name those whose value could be meant."""
    names = [n for n, v in sorted(environ.items()) if n.upper().startswith(prefix) and not _is_json(v)]
    return f"{', '.join(names) or prefix}: expected JSON for a list or a group of settings ({error})"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _faults(error: ValidationError, kind: type[BaseModel]) -> list[str]:
    lines = []
    for fault in error.errors(include_url=False):
        path = ".".join(str(part) for part in fault["loc"]) or "(whole)"
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            lines.append(f"{path}: no such setting")
        elif fault["type"] == "missing":
            lines.append(f"{path}: required, and not given")
        elif not fault["loc"]:
            lines.append(message)
        else:
            lines.append(f"{path}: {message}, got {shown(fault['input'], kind, fault['loc'])}")
    return lines

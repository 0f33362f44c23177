"""Every setting of a configuration model, in order: what documentation and `infermesh config show` are made from."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from infermesh.cli.failure import Failure
from infermesh.config import ServiceConfig

__all__ = ["FILES", "NAMES", "REQUIRED", "SERVICES", "Setting", "config_of", "model_of", "name_of", "settings"]

# What is configured by a file of its own, and the model that reads it. Imported by name when asked for: the extra of a
# service may not be installed.
SERVICES = {
    "gateway": "services.gateway.config:GatewayConfig",
    "transformer": "services.transformer.config:TransformerConfig",
    "predictor": "services.predictor.config:PredictorConfig",
    "explainer": "services.explainer.config:ExplainerConfig",
}
FILES = {
    "routes": "services.gateway.routes:RoutesFile",
    "keys": "services.gateway.keys:KeysFile",
    "features": "services.transformer.views:FeatureFile",
    "model": "services.predictor.model_config:ModelSettings",
}
NAMES = {"model": "`<model>/config.yaml`"}  # of files that are not called as what they configure; else `<that>.yaml`

REQUIRED = object()  # the default of a setting that has none

_FORMATS = {
    "duration": "duration",
    "size": "size",
    "path": "path",
    "date": "date",
    "date-time": "time",
    "file-path": "path",
}
_TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "nothing",
}
_BOUNDS = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))


@dataclass(frozen=True)
class Setting:
    """One value that can be set. `<name>` in the path stands for a key that the user chooses, `[]` for each item of a list.

    `default` is in its written form (`"250ms"`, not seconds), REQUIRED when there is none. `nested` marks a mapping or list
    whose items have settings of their own, which follow.
    """

    path: tuple[str, ...]
    type: str
    default: Any
    text: str
    nested: bool = False

    @property
    def key(self) -> str:
        return ".".join(self.path).replace(".[]", "[]")

    @property
    def variable_path(self) -> tuple[str, ...] | None:
        """The path as parts of an environment variable; None inside a list, where no variable reaches."""
        return None if "[]" in self.path else self.path


def model_of(place: str) -> type[BaseModel]:
    """The class behind `module:Class`. Raises Failure when what its service needs is not installed."""
    module, _, name = place.partition(":")
    service = module.split(".")[1]
    try:
        kind: type[BaseModel] = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise Failure(
            f"{service}: its configuration can't be read: {error}", hint=f"install infermesh[{service}]"
        ) from None
    return kind


def config_of(service: str) -> type[ServiceConfig]:
    """The configuration of a service. Raises Failure when what the service needs is not installed."""
    kind = model_of(SERVICES[service])
    assert issubclass(kind, ServiceConfig)
    return kind


def name_of(file: Path) -> str:
    """What a file configures, as its name tells: a key of SERVICES or FILES; empty when it does not tell."""
    if file.name == "config.yaml":  # beside the versions of a model
        return "model"
    return next((name for name in (*SERVICES, *FILES) if name in file.stem), "")


def settings(kind: type[BaseModel]) -> list[Setting]:
    """All settings of a model, in the order of its fields, nested ones after what holds them."""
    schema = kind.model_json_schema(by_alias=True, mode="validation")
    # A schema does not say what a default factory makes; those of nested models are in their holder's default.
    made = {
        name: to_jsonable_python(field.get_default(call_default_factory=True, validated_data={}))
        for name, field in kind.model_fields.items()
        if field.default_factory is not None
    }
    return list(_walk(schema, schema.get("$defs", {}), (), made))


def _walk(
    schema: Mapping[str, Any], definitions: Mapping[str, Any], path: tuple[str, ...], given: Mapping[str, Any]
) -> Iterator[Setting]:
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        default = given[name] if name in given else field.get("default", REQUIRED if name in required else None)
        yield from _setting(field, definitions, (*path, name), default)


def _setting(
    field: Mapping[str, Any], definitions: Mapping[str, Any], path: tuple[str, ...], default: Any
) -> Iterator[Setting]:
    schema = _resolved(field, definitions)
    text = " ".join((field.get("description") or "").split())
    models = [m for m in _alternatives(schema, definitions) if "properties" in m]
    below = [(path, model) for model in models]
    for each in _alternatives(schema, definitions):
        items, more = each.get("items"), each.get("additionalProperties")
        if isinstance(items, dict):
            below += [((*path, "[]"), m) for m in _alternatives(items, definitions) if "properties" in m]
        if isinstance(more, dict):
            below += [((*path, "<name>"), m) for m in _alternatives(more, definitions) if "properties" in m]
    plain_section = len(models) == 1 and len(_alternatives(schema, definitions)) == 1
    if not plain_section:
        yield Setting(path, _type(schema, definitions), default, text, nested=bool(below))
    for where, model in below:
        inherited = default if where == path and isinstance(default, dict) else {}
        yield from _walk(model, definitions, where, inherited)


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" in schema:
        return definitions[schema["$ref"].rsplit("/", 1)[1]]  # type: ignore[no-any-return]
    if len(schema.get("allOf", ())) == 1:
        return _resolved(schema["allOf"][0], definitions)
    return schema


def _alternatives(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    schema = _resolved(schema, definitions)
    found = schema.get("anyOf") or schema.get("oneOf")
    return [a for each in found for a in _alternatives(each, definitions)] if found else [schema]


def _type(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    schema = _resolved(schema, definitions)
    if found := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(each, definitions) for each in found))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{_written(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if "properties" in schema:
        return "mapping"
    kind = schema.get("type", "")
    if kind == "array":
        items = _type(schema.get("items", {}), definitions)
        return "list" if items == "mapping" else f"list of {items}"
    if kind == "object":
        more = schema.get("additionalProperties")
        value = _type(more, definitions) if isinstance(more, dict) else "mapping"
        return "mapping" if value == "mapping" else f"mapping of names to {value}"
    name = _FORMATS.get(schema.get("format", ""), _TYPES.get(kind, "any value"))
    bounds = [f"{sign} {schema[key]:g}" for key, sign in _BOUNDS if key in schema]
    return f"{name} {', '.join(bounds)}" if bounds else name


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

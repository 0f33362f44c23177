"""The route file: all routes of the gateway, and what they may not say together."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ConfigDict, Field, ValidationError, model_validator

from infermesh.config import ConfigError, Model, parse
from services.gateway.route_config import ReadinessConfig, RouteConfig
from services.gateway.rules import ParameterTest, RuleConfig, TextTest, WhenConfig
from services.gateway.targets import ExplanationsConfig, ShadowConfig, StickyConfig, TargetConfig, VariantConfig

__all__ = [
    "ExplanationsConfig",
    "ParameterTest",
    "ReadinessConfig",
    "RouteConfig",
    "RoutesFile",
    "RuleConfig",
    "ShadowConfig",
    "StickyConfig",
    "TargetConfig",
    "TextTest",
    "VariantConfig",
    "WhenConfig",
    "read_routes",
]


_VERSION = re.compile(r"\bversion:\s+([0-9][0-9A-Za-z_:.]*)\s*(?:[,}#]|$)")  # a number that is not quoted
_PLAIN = re.compile(r"0|[1-9][0-9]*")


class RoutesFile(Model):
    """Every route of the gateway; a model without one is NOT_FOUND."""

    routes: list[RouteConfig] = Field(min_length=1)
    """One for each model, or for all whose names begin alike; their order does not matter."""
    readiness: ReadinessConfig = ReadinessConfig()

    @classmethod
    def fault_of_text(cls, text: str) -> str:
        """A version that YAML would read as another number: 010 is 8 to it, 0x10 is 16, 1_0 is 10, and 1:30 is 90."""
        for at, line in enumerate(text.splitlines(), start=1):
            for written in _VERSION.findall(line):
                if not _PLAIN.fullmatch(written):
                    return (
                        f"line {at}: version {written}: YAML reads another number; expected one without leading zeros"
                    )
        return ""

    @model_validator(mode="after")
    def _distinct(self) -> RoutesFile:
        if faults := _collisions(map(_outline, self.routes)):
            raise ValueError("\n  ".join(faults))  # a line for each, as faults have everywhere
        return self


def read_routes(file: Path, backends: Collection[str] | None) -> RoutesFile:
    """The routes of a file, all of whose backends exist. Raises ConfigError with every fault, also those between routes of which
    others are wrong in themselves. `backends` None: nothing is known of them."""
    try:
        routes = parse(RoutesFile, file)
    except ConfigError as error:
        outlines = _outlines(file)
        faults = [each for fault in error.faults for each in fault.split("\n  ")]
        faults += [each for each in _collisions(outlines) if each not in faults]
        raise ConfigError(str(file), faults + _unknown(outlines, backends)) from None
    if faults := _unknown(map(_outline, routes.routes), backends):
        raise ConfigError(str(file), faults)
    return routes


class _Outline(NamedTuple):
    """What other routes, and the gateway's configuration, can be at odds with."""

    label: str
    aliases: Sequence[str]
    backends: Collection[str]


def _outline(route: RouteConfig) -> _Outline:
    return _Outline(route.label, route.aliases, route.backends)


class _Loose(Model):
    """A file of routes of which some may be wrong."""

    model_config = ConfigDict(extra="ignore")

    routes: list[Any]


def _outlines(file: Path) -> list[_Outline]:
    """Of all routes of a file; of those that are wrong in themselves as much as can be told."""
    try:
        routes = parse(_Loose, file).routes
    except ConfigError:  # it is no YAML, or has no routes
        return []
    return [_outline_of(route, file) for route in routes]


def _outline_of(route: Any, file: Path) -> _Outline:
    try:
        return _outline(RouteConfig.model_validate(route, context={"base": file.parent}))
    except ValidationError:
        said = route if isinstance(route, dict) else {}
        prefix = said.get("prefix")
        targets = [each for each in (*_list(said, "variants"), *_list(said, "shadows")) if isinstance(each, dict)]
        explanations = said.get("explanations")
        targets += [said, explanations if isinstance(explanations, dict) else {}]
        backends = {each.get("backend") for each in targets}
        return _Outline(
            f"{prefix}*" if isinstance(prefix, str) else str(said.get("model", "")),
            [alias for alias in _list(said, "aliases") if isinstance(alias, str)],
            {each for each in backends if isinstance(each, str) and each},
        )


def _list(of: dict[Any, Any], key: str) -> list[Any]:
    found = of.get(key)
    return found if isinstance(found, list) else []


def _collisions(routes: Iterable[_Outline]) -> list[str]:
    """Names that stand for two routes, with both places."""
    faults: list[str] = []
    taken: dict[str, str] = {}
    for at, route in enumerate(routes):
        names = [(f"routes.{at}", route.label)]
        names += [(f"routes.{at}.aliases.{place}", alias) for place, alias in enumerate(route.aliases)]
        for place, name in names:
            if name and name in taken:
                faults.append(f"{place}: a route for {name} stands twice, at {taken[name]} too")
            else:
                taken[name] = place
    return faults


def _unknown(routes: Iterable[_Outline], backends: Collection[str] | None) -> list[str]:
    """Routes to nowhere."""
    if backends is None:
        return []
    known = ", ".join(sorted(backends)) or "none"
    return [
        f'routes.{at} ({route.label}): no backend "{name}"; the gateway has {known}'
        for at, route in enumerate(routes)
        for name in sorted(set(route.backends) - set(backends))
    ]

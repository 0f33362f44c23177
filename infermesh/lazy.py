"""Names of a package that are imported when they are first asked for.

A supervisor of Envoy processes takes no call: gRPC and its generated code would cost it, and so each start of a service, a
quarter of a second.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lazily"]


def lazily(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__` (PEP 562); `places` has the module of each name."""

    def found(name: str) -> Any:
        try:
            place = places[name]
        except KeyError:
            raise AttributeError(f"module {package!r} has no attribute {name!r}") from None
        value = getattr(importlib.import_module(place), name)
        setattr(sys.modules[package], name, value)  # the next one finds it without asking
        return value

    return found

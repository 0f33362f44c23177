"""How configuration that is written for named hosts is made to fit one machine: by environment variables, never by other files.

The samples' files say `predictor:8001` and `redis://redis:6379`, as under docker-compose and on Kubernetes. Here every such value
becomes a variable such as `INFERMESH_GATEWAY__BACKENDS__PREDICTOR__TARGET=127.0.0.1:23456`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from infermesh.cli.settings import config_of
from infermesh.config import load

__all__ = ["overrides", "setting"]

STORE_HOST = "redis"


def setting(service: str, *path: str) -> str:
    """The variable that sets a value: `setting("gateway", "server", "grpc_port")`."""
    return "__".join([f"INFERMESH_{service.upper()}", *(part.upper() for part in path)])


def overrides(
    service: str,
    file: Path,
    addresses: Mapping[str, Sequence[str]],
    redis_url: str = "",
    environ: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """The variables for the values of a configuration, defaults included, that name one of the hosts.

    `addresses` has the addresses of each host; a value that names another host is left as it is. Values inside lists of
    mappings can't be reached by a variable. Raises ConfigError, with every fault, for a configuration that can't be used.
    """
    config = load(config_of(service), file, environ)
    found: dict[str, str] = {}
    for path, value in _leaves(config.model_dump(mode="json")):
        if redis_url and isinstance(value, str) and _is_store(value):
            found[setting(service, *path)] = redis_url
        elif places := _places(value, addresses):
            found[setting(service, *path)] = places[0] if len(places) == 1 else json.dumps(places)
    return found


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _leaves(below, (*path, str(key)))
    else:
        yield path, value


def _places(value: Any, addresses: Mapping[str, Sequence[str]]) -> list[str]:
    places: list[str] = []
    for each in value if isinstance(value, list) else [value]:
        if not isinstance(each, str):
            return []
        host, _, port = each.rpartition(":")
        if host not in addresses or not port.isdecimal():
            return []
        places += [place for place in addresses[host] if place not in places]
    return places


def _is_store(value: str) -> bool:
    return value.startswith(("redis://", "rediss://")) and urlsplit(value).hostname == STORE_HOST

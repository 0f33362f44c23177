"""docs/configuration.md, made from the configuration models themselves."""

from __future__ import annotations

import json
from typing import Any

from infermesh.cli.settings import FILES, NAMES, REQUIRED, SERVICES, Setting, config_of, model_of, settings
from infermesh.cli.wiring import setting
from infermesh.config import ServiceConfig

__all__ = ["page"]

_HEAD = """\
# Configuration

<!-- Made by `infermesh config docs` from the models in the code (`make docs`); a test holds it to be current. -->

A service reads one YAML file, `python -m services.<service> --config FILE`. Defaults come first, the file over them, environment
variables over both. `infermesh config check FILE` says what is wrong with a file without starting anything, and
`infermesh config show FILE` what comes of file and environment together.

- An unknown key, a value that can't be, a weight that can't be met: the service does not start, and names **all** faults at once,
  each with its path, what came and what would be right.
- Durations and sizes carry their unit: `250ms`, `5s`, `2m`; `64MiB`, `512KiB`. A bare number is refused, since nobody can tell
  which unit was meant.
- A relative path starts at the folder of the configuration file, also where a variable gives it; the path of a default, and
  every path of a service that was started without a file, at the working folder.
- Every value that is not inside a list has a variable: the path in capitals, its parts joined by two underscores. Lists and
  mappings are written as JSON there: `INFERMESH_PREDICTOR__REPOSITORY__MODELS='["iris"]'`.
- `<name>` in a key is a name that you choose; `[]` stands for each item of a list.
- A policy's `mode` is `off`, `observe` (count what would be refused, and refuse nothing) or `enforce`.
"""

_EVERY = """\
## Every service

In the variables, put the name of the service for `<SERVICE>`.
"""

_FILES = """\
## Files of their own

Each is parsed whole, checked whole, and takes effect whole. The gateway reads `routes.yaml` and `keys.yaml` again when they
change; one with a fault keeps the last good one in effect and raises a metric. `features.yaml` is read when the transformer
starts, and a model's `config.yaml` when the model is loaded. No environment variable reaches into them.
"""

_ROW = "| `{key}` | {type} | {default} | {variable} | {text} |\n"
_TITLES = "| key | value | default | variable | meaning |\n|---|---|---|---|---|\n"
_FILE_ROW = "| `{key}` | {type} | {default} | {text} |\n"
_FILE_TITLES = "| key | value | default | meaning |\n|---|---|---|---|\n"


def page() -> str:
    """The whole page; the same for the same code."""
    common = {each.path: each for each in settings(ServiceConfig)}
    parts = [_HEAD, _EVERY, _TITLES + "".join(_row(each, "<SERVICE>") for each in common.values())]
    for service in SERVICES:
        kind = config_of(service)
        own = [each for each in settings(kind) if common.get(each.path) != each]
        parts.append(f"## {service.capitalize()}\n\n{_prose(kind)}\n")
        parts.append(_TITLES + "".join(_row(each, service) for each in own))
    parts.append(_FILES)
    for name, place in FILES.items():
        model = model_of(place)
        parts.append(f"### {NAMES.get(name, f'{name}.yaml')}\n\n{_prose(model)}\n")
        parts.append(_FILE_TITLES + "".join(_file_row(each) for each in settings(model)))
    return "\n".join(parts)


def _row(each: Setting, service: str) -> str:
    path = each.variable_path
    variable = "" if path is None or "<name>" in path[-1:] else f"`{setting(service, *path)}`"
    return _ROW.format(
        key=each.key, type=_cell(each.type), default=_default(each), variable=variable, text=_cell(each.text)
    )


def _file_row(each: Setting) -> str:
    return _FILE_ROW.format(key=each.key, type=_cell(each.type), default=_default(each), text=_cell(each.text))


def _default(each: Setting) -> str:
    if each.default is REQUIRED:
        return "*required*"
    if each.default is None:
        return "–"
    if each.default == "":
        return "empty"
    return f"`{_cell(_written(each.default))}`"


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _prose(kind: Any) -> str:
    """The docstring of a model, one paragraph a line."""
    paragraphs = (kind.__doc__ or "").strip().split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)

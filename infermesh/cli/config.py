"""`infermesh config`: check configuration files, show what comes of them, and make their documentation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import BaseModel

from infermesh.cli.config_docs import page
from infermesh.cli.console import err, out
from infermesh.cli.failure import Failure
from infermesh.cli.settings import FILES, REQUIRED, SERVICES, config_of, model_of, name_of, settings
from infermesh.config import ConfigError, ServiceConfig, load, parse

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Check and show configuration.")

Service = Annotated[
    str, typer.Option("--service", metavar="NAME", help="What the file configures; left out, its name tells.")
]


@app.command("check")
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files to check.")], service: Service = ""
) -> None:
    """Check configuration files as the services would, with the environment of this shell; for CI.

    [bold]Examples[/]

      infermesh config check gateway.yaml routes.yaml keys.yaml

      infermesh config check edge.yaml --service gateway

      infermesh config check models/fraud-detector/config.yaml

    The exit status is 0 when all are good, and 2 otherwise; each fault is one line with its path, what came and what would be
    right.
    """
    bad = 0
    for file in files:
        try:
            _read(file, service)
        except ConfigError as error:
            bad += 1
            err.print(str(error), soft_wrap=True, markup=False)
        else:
            out.print(f"{file}: good", soft_wrap=True, markup=False)
    if bad:
        raise typer.Exit(2)


@app.command("show")
def show(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A configuration file.")] = None,
    service: Service = "",
) -> None:
    """Show every setting as YAML: with FILE what comes of it and of the environment, else the defaults with their meaning."""
    if file is not None:
        print(yaml.safe_dump(_read(file, service).model_dump(mode="json"), sort_keys=False, allow_unicode=True), end="")
    elif service:
        print(_commented(_kind(service)), end="")
    else:
        raise Failure("expected FILE, or --service NAME for the defaults", status=2)


@app.command("docs")
def docs() -> None:
    """Print docs/configuration.md, made from the configuration models."""
    print(page(), end="")


def _read(file: Path, service: str) -> BaseModel:
    kind = _kind(service or _told_by(file))
    return load(kind, file, os.environ) if issubclass(kind, ServiceConfig) else parse(kind, file)


def _kind(name: str) -> type[BaseModel]:
    if name in SERVICES:
        return config_of(name)
    if name in FILES:
        return model_of(FILES[name])
    raise Failure(f"--service {name!r}: expected one of {', '.join((*SERVICES, *FILES))}", status=2)


def _told_by(file: Path) -> str:
    if name := name_of(file):
        return name
    known = ", ".join((*SERVICES, *FILES))
    raise Failure(f"{file}: its name does not tell what it configures", hint=f"--service says it: {known}", status=2)


def _commented(kind: type[BaseModel]) -> str:
    """Every default in YAML, its meaning above it. What has no default, or a name to choose, is a comment, and so is what is in
    a group that is left out by default."""
    lines: list[str] = []
    open_path: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    for each in settings(kind):
        if "[]" in each.path or "<name>" in each.path:
            continue  # the mapping or list that holds it is shown whole
        if left_out and each.path[: len(left_out)] == left_out:
            (written,) = _written(".".join(each.path[len(left_out) :]), each.default, flow=True)
            lines.append(f"{'  ' * (len(left_out) - 1)}#   {written.removeprefix('# ')}  # {each.text}")
            continue
        left_out = each.path if each.nested and each.default is None else ()
        shared = 0
        while shared < min(len(open_path), len(each.path) - 1) and open_path[shared] == each.path[shared]:
            shared += 1
        lines += [f"{'  ' * depth}{each.path[depth]}:" for depth in range(shared, len(each.path) - 1)]
        open_path = each.path[:-1]
        indent = "  " * (len(each.path) - 1)
        if each.text:
            lines.append(f"{indent}# {each.text}")
        lines += [indent + line for line in _written(each.path[-1], each.default)]
    return "\n".join(lines) + "\n"


def _written(key: str, default: Any, *, flow: bool = False) -> list[str]:
    if default is REQUIRED:
        return [f"# {key}:  (required)"]
    text = yaml.safe_dump({key: default}, sort_keys=False, allow_unicode=True, width=1000, default_flow_style=flow)
    return [text.strip()[1:-1]] if flow else text.splitlines()  # in flow style, all in braces

"""`infermesh models`: which models a server has; load and unload them."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from infermesh.cli.asking import DEFAULT_TARGET, Key, Target, Timeout, asked
from infermesh.cli.console import out

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="List, load and unload the models of a server.")

_STYLES = {"READY": "green", "LOADING": "yellow", "UNLOADING": "yellow", "UNAVAILABLE": "red"}

Name = Annotated[str, typer.Argument(metavar="MODEL")]


@app.command("ls")
def list_models(
    target: Target = DEFAULT_TARGET,
    key: Key = "",
    ready: Annotated[bool, typer.Option("--ready", help="Only those that can answer.")] = False,
    timeout: Timeout = 30.0,
) -> None:
    """List the models with their versions and states, and the reason of each that can't be used."""
    with asked(target, key, timeout) as caller:
        index = caller.index(only_ready=ready)
    table = Table("model", "version", "state", "reason", box=box.SIMPLE_HEAD, pad_edge=False)
    for model in sorted(index.models, key=lambda m: (m.name, int(m.version) if m.version.isdecimal() else 0)):
        state = Text(model.state, _STYLES.get(model.state, ""))
        table.add_row(Text(model.name), model.version, state, Text(model.reason))
    out.print(table if index.models else Text("no models"))


@app.command("load")
def load_model(model: Name, target: Target = DEFAULT_TARGET, key: Key = "", timeout: Timeout = 300.0) -> None:
    """Load a model, or load it again from the repository; what it answers in the meantime is not interrupted."""
    with asked(target, key, timeout) as caller:
        caller.load(model)
    out.print(f"{model} is loaded")


@app.command("unload")
def unload_model(model: Name, target: Target = DEFAULT_TARGET, key: Key = "", timeout: Timeout = 300.0) -> None:
    """Unload a model; calls that it has accepted are answered first."""
    with asked(target, key, timeout) as caller:
        caller.unload(model)
    out.print(f"{model} is unloaded")

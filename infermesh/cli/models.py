"""`infermesh models`: which models a server has; load, unload, show and profile them."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from infermesh.cli.asking import DEFAULT_TARGET, Key, Target, Timeout, asked
from infermesh.cli.console import out
from infermesh.cli.model_import import import_model
from infermesh.cli.model_show import show_model

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="The models of a server: list, show, load, unload, profile.")

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
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", overflow="fold")
    table.add_column("version", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("reason", overflow="fold", ratio=1)  # what is long is wrapped in its own column
    for model in sorted(index.models, key=lambda m: (m.name, not m.version.isdecimal(), len(m.version), m.version)):
        state = Text(model.state, _STYLES.get(model.state, ""))
        table.add_row(Text(model.name), Text(model.version), state, Text(model.reason))
    out.print(table if index.models else Text("no models"))


app.command("show", no_args_is_help=True)(show_model)


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


@app.command("profile")
def profile_model(
    model: Name,
    requests: Annotated[
        int, typer.Option("--requests", metavar="N", min=1, help="How many of the next requests.")
    ] = 100,
    version: Annotated[
        str, typer.Option("--version", metavar="VERSION", help="Number or label; left out: the newest.")
    ] = "",
    target: Target = DEFAULT_TARGET,
    key: Key = "",
    timeout: Timeout = 300.0,
) -> None:
    """Record where the time of the model's next requests goes, operator by operator."""
    with asked(target, key, timeout) as caller:
        caller.load(
            model, {"infermesh_profile_requests": requests, **({"infermesh_version": version} if version else {})}
        )
    out.print(
        f"the next {requests} requests of {model} are recorded; the predictor's log names the file, a Chrome trace on its machine"
    )


app.command("import", no_args_is_help=True)(import_model)

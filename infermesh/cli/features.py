"""`infermesh features`: fill the feature store, and look into it."""

from __future__ import annotations

import typer

from infermesh.cli.features_apply import apply, ls
from infermesh.cli.features_get import get
from infermesh.cli.features_load import load
from infermesh.cli.features_log import log
from infermesh.cli.features_survey import delete, stats

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Fill the feature store, and look into it.")
app.command("apply", no_args_is_help=True)(apply)
app.command("ls")(ls)
app.command("load", no_args_is_help=True)(load)
app.command("log", no_args_is_help=True)(log)
app.command("get", no_args_is_help=True)(get)
app.command("stats", no_args_is_help=True)(stats)
app.command("delete", no_args_is_help=True)(delete)

"""`infermesh routes`: check a route file, and show what the gateway makes of it, or of a call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ConfigDict

from infermesh.cli.console import out
from infermesh.cli.failure import Failure
from infermesh.cli.route_choice import Asked, choice
from infermesh.cli.route_tables import of_file, of_gateway
from infermesh.cli.scrape import scrape
from infermesh.cli.settings import config_of
from infermesh.config import parse

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Check and show the gateway's routes.")

GatewayConfigFile = Annotated[
    Path | None,
    typer.Option("--gateway-config", metavar="FILE", help="The gateway's configuration, which names the backends."),
]
Pairs = list[str] | None


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A route file.")],
    gateway_config: GatewayConfigFile = None,
) -> None:
    """Check a route file as the gateway would, and say all that is wrong with it; for CI.

    [bold]Examples[/]

      infermesh routes check routes.yaml --gateway-config gateway.yaml

    Without --gateway-config it is not known which backends there are. The exit status is 0 for a good file, and 2 otherwise.
    """
    read = _read(file, gateway_config)
    aliases = sum(len(route.aliases) for route in read.routes)
    out.print(
        f"{file}: good, {len(read.routes)} routes, {aliases} aliases"
        + ("" if gateway_config else "; backends were not checked, --gateway-config names them"),
        soft_wrap=True,
        markup=False,
    )


@app.command("show")
def show(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A route file.")] = None,
    gateway_config: GatewayConfigFile = None,
    target: Annotated[
        str,
        typer.Option("--target", metavar="HOST:PORT", help="Instead: a gateway that runs, by its HTTP port (8002)."),
    ] = "",
    model: Annotated[str, typer.Option("--model", metavar="M", help="The model of a call: who would answer it?")] = "",
    tenant: Annotated[str, typer.Option("--tenant", metavar="T", help="Its caller's tenant.")] = "",
    key: Annotated[str, typer.Option("--key", metavar="K", help="Its sticky key, wherever the route finds it.")] = "",
    metadata: Annotated[Pairs, typer.Option("--metadata", metavar="KEY=TEXT", help="Its metadata. Repeatable.")] = None,
    parameter: Annotated[
        Pairs,
        typer.Option("--parameter", metavar="NAME=VALUE", help="A request parameter; numbers, true, false, or a text."),
    ] = None,
    version: Annotated[str, typer.Option("--version", metavar="V", help="The version that it asks for.")] = "",
    variant: Annotated[str, typer.Option("--variant", metavar="NAME", help="The variant that it asks for.")] = "",
) -> None:
    """Show who answers for which model: variants with their shares, rules, shadows; or which variant a call would get.

    [bold]Examples[/]

      infermesh routes show routes.yaml

      infermesh routes show routes.yaml --model fraud-detector --tenant acme --key card-17

      infermesh routes show --target 127.0.0.1:8002
    """
    asked = Asked(model, tenant, key, tuple(metadata or ()), tuple(parameter or ()), version, variant)
    if bool(file) == bool(target):
        raise Failure("expected FILE, or --target HOST:PORT", status=2)
    if not model and asked != Asked():
        raise Failure("expected --model too: what else is given describes a call for it", status=2)
    if file is not None:
        read = _read(file, gateway_config)
        if model:
            choice(read, asked)
        else:
            of_file(read)
        return
    if model:
        raise Failure("expected FILE: a call can't be followed through metrics", status=2)
    samples = scrape(target)
    if samples is None:
        raise Failure(f"{target}: no metrics", hint="--target names the gateway's HTTP port, 8002 by default")
    of_gateway(samples, target)


class _Gateway(BaseModel):
    """As much of a gateway's configuration as routes are held against: it may name files that are not here."""

    model_config = ConfigDict(extra="ignore")

    backends: dict[str, Any] | None = None


def _read(file: Path, gateway_config: Path | None) -> Any:
    gateway = config_of("gateway")  # says what to install where the gateway's extra is not
    from services.gateway.routes import read_routes

    if gateway_config is None:
        return read_routes(file, None)
    names = parse(_Gateway, gateway_config).backends
    if names is None:
        names = gateway.model_fields["backends"].get_default(call_default_factory=True, validated_data={})
    return read_routes(file, names)

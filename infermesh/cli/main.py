"""The `infermesh` command."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import infermesh
from infermesh.cli import backgrounds, config, features, keys, models, routes, shadow
from infermesh.cli.asking import Connection, connect_by
from infermesh.cli.console import out, say_failure
from infermesh.cli.explain import explain
from infermesh.cli.failure import Failure
from infermesh.cli.infer import infer
from infermesh.cli.ready import ready
from infermesh.cli.up import demo, up
from infermesh.config import ConfigError
from infermesh.transport.probe import ClientTls

__all__ = ["app"]


class _Command(TyperGroup):
    """Turns what a user did wrong into a line and an exit status; a defect of ours keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Failure as failure:
            say_failure(failure)
            raise typer.Exit(failure.status) from None
        except ConfigError as error:
            say_failure(Failure(str(error)))
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=_Command,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "An inference mesh: gateway, transformer, predictor and explainer, each a gRPC service that speaks the Open "
        "Inference Protocol v2.\n\nStart with [bold]infermesh up[/], then paste one of the calls that it prints."
    ),
)


def _print_version(asked: bool) -> None:
    if asked:
        out.print(f"infermesh {infermesh.__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
    tls_ca: Annotated[
        str,
        typer.Option("--tls-ca", envvar="INFERMESH_TLS_CA", metavar="FILE", help="Use TLS: the server's roots, PEM."),
    ] = "",
    tls_cert: Annotated[
        str, typer.Option("--tls-cert", envvar="INFERMESH_TLS_CERT", metavar="FILE", help="Our certificate, PEM.")
    ] = "",
    tls_key: Annotated[
        str, typer.Option("--tls-key", envvar="INFERMESH_TLS_KEY", metavar="FILE", help="Its private key, PEM.")
    ] = "",
    tls_server_name: Annotated[
        str,
        typer.Option(
            "--tls-server-name", envvar="INFERMESH_TLS_SERVER_NAME", metavar="NAME", help="If not the target's host."
        ),
    ] = "",
    token: Annotated[
        str, typer.Option("--token", envvar="INFERMESH_TOKEN", metavar="JWT", help="Sent as authorization: Bearer.")
    ] = "",
) -> None:
    if bool(tls_cert) != bool(tls_key):
        raise Failure("expected both --tls-cert and --tls-key, or neither", status=2)
    tls = ClientTls(tls_ca, tls_cert, tls_key, tls_server_name)
    asks_its_own = context.invoked_subcommand in ("up", "demo")  # which start what they ask, in plain text
    connect_by(Connection() if asks_its_own else Connection(tls if tls != ClientTls() else None, token))


app.command("up")(up)
app.command("demo")(demo)
app.command("infer", no_args_is_help=True)(infer)
app.command("explain", no_args_is_help=True)(explain)
app.command("ready")(ready)
app.add_typer(models.app, name="models")
app.add_typer(features.app, name="features")
app.add_typer(backgrounds.app, name="backgrounds")
app.add_typer(keys.app, name="keys")
app.add_typer(routes.app, name="routes")
app.add_typer(shadow.app, name="shadow")
app.add_typer(config.app, name="config")


if __name__ == "__main__":
    app()

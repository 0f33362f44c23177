"""Options that every command has which asks a server, and what is said when the server refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from infermesh.cli.failure import Failure
from infermesh.errors import MeshError
from infermesh.transport.outside import OutsideCaller

__all__ = ["Key", "Target", "Timeout", "asked"]

DEFAULT_TARGET = "127.0.0.1:8001"

Target = Annotated[
    str, typer.Option("--target", envvar="INFERMESH_TARGET", metavar="HOST:PORT", help="The server to ask.")
]
Key = Annotated[
    str,
    typer.Option("--key", envvar="INFERMESH_KEY", metavar="KEY", help="API key, sent as x-api-key.", show_envvar=True),
]
Timeout = Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=0.001, help="The deadline of the call.")]

_HINTS = {
    "UNAUTHENTICATED": "give an API key by --key, or in INFERMESH_KEY",
    "PERMISSION_DENIED": "the key is known, and may not do this: scopes and models stand in the gateway's keys file",
    "NOT_FOUND": "`infermesh models ls` lists what the server has",
    "DEADLINE_EXCEEDED": "--timeout gives the call longer",
    "UNIMPLEMENTED": "another service of the mesh may offer it; --target names it",
}
_AWAY = "is a mesh running there? `infermesh up` starts one; --target names another address"


@contextmanager
def asked(target: str, key: str = "", timeout_s: float = 30.0) -> Iterator[OutsideCaller]:
    """A caller for one target; what the server refuses inside becomes a Failure: status, text, and a hint."""
    host, _, port = target.rpartition(":")
    if not host or not port.isdecimal():
        raise Failure(f"--target {target!r}: expected HOST:PORT, such as {DEFAULT_TARGET}", status=2)
    with OutsideCaller(target, key, timeout_s=timeout_s) as caller:
        try:
            yield caller
        except MeshError as error:
            raise refused(error) from None


def refused(error: MeshError) -> Failure:
    """What a person should read about a status: its code, its text, and what may help."""
    hint = _HINTS.get(error.code, "")
    if error.retry_after_s is not None:
        hint = f"the server asks to come back in {error.retry_after_s:g} s"
    elif error.code == "UNAVAILABLE" and error.rejected and error.reason != "STARTING":
        hint = _AWAY
    return Failure(f"{error.code}: {error.message}", hint=hint)

"""Options that every command has which asks a server, and what is said when the server refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer

from infermesh.cli.failure import Failure
from infermesh.errors import MeshError
from infermesh.transport.outside import OutsideCaller
from infermesh.transport.probe import ClientTls

__all__ = ["Connection", "Key", "Target", "Timeout", "asked", "connect_by", "connection"]

DEFAULT_TARGET = "127.0.0.1:8001"

Target = Annotated[
    str, typer.Option("--target", envvar="INFERMESH_TARGET", metavar="HOST:PORT", help="The server to ask.")
]
Key = Annotated[
    str,
    typer.Option("--key", envvar="INFERMESH_KEY", metavar="KEY", help="API key, sent as x-api-key.", show_envvar=True),
]
Timeout = Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=0.001, help="The deadline of the call.")]


@dataclass(frozen=True)
class Connection:
    """How every command of this program reaches servers: what is said before the command's name."""

    tls: ClientTls | None = None
    token: str = ""


_by = Connection()  # one command runs in a process, and every run begins with `connect_by`


def connect_by(given: Connection) -> None:
    """From now on commands reach servers so."""
    global _by
    _by = given


def connection() -> Connection:
    """How the command that runs reaches servers; in plain text and without a token unless something else was said."""
    return _by


_HINTS = {
    "UNAUTHENTICATED": "give an API key by --key or in INFERMESH_KEY, or a token in INFERMESH_TOKEN",
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
    by = connection()
    if key and by.token:
        raise Failure("an API key and a token are given", hint="one of them is enough", status=2)
    metadata = [("authorization", f"Bearer {by.token}")] if by.token else []
    try:
        made = OutsideCaller(target, key, timeout_s=timeout_s, metadata=metadata, tls=by.tls)
    except OSError as error:
        raise Failure(f"TLS: {error.filename}: {error.strerror}", status=2) from None
    with made as caller:
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

"""`infermesh keys`: API keys for the gateway. A keys file holds digests alone: what was not noted down is lost."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from infermesh.cli.console import err, out
from infermesh.cli.failure import Failure
from infermesh.cli.keys_file import LISTS, Entry, append, checked, entries, is_over, item, remove

__all__ = ["app", "entry_of"]

MIN_DIGEST = 8  # digits that a digest is told by
PREFIX = "imk_"  # lets scanners of repositories and logs know a key of ours
SCOPES = ("infer", "explain", "admin", "variant")
DEFAULT_SCOPES = ("infer", "explain")

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys of the gateway.")

File = Annotated[Path | None, typer.Option("--file", metavar="FILE", help="The gateway's keys file; made if need be.")]


@app.command("new")
def new_key(
    caller: Annotated[
        str, typer.Option("--caller", metavar="NAME", help="Who will use it; appears in logs and metrics.")
    ],
    tenant: Annotated[str, typer.Option("--tenant", metavar="T", help="On whose behalf; left out: the caller.")] = "",
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help=f"A right: {', '.join(SCOPES)}. Repeatable; infer and explain.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="A model that it may use, or a prefix that ends in *. Repeatable; left out: all."),
    ] = None,
    expires: Annotated[
        str, typer.Option("--expires", metavar="YYYY-MM-DD", help="The day, in UTC, from which it is refused.")
    ] = "",
    file: File = None,
) -> None:
    """Make a key: it is printed once, to standard output; its digest goes to --file, or is printed to be pasted there.

    [bold]Examples[/]

      infermesh keys new --caller checkout --tenant shop --file keys.yaml

      KEY=$(infermesh keys new --caller ci --scope infer --scope admin --file keys.yaml)

    A gateway that watches the file takes the new key without a restart.
    """
    scopes = scope or list(DEFAULT_SCOPES)
    for each in scopes:
        if each not in SCOPES:
            raise Failure(f"--scope {each!r}: expected one of {', '.join(SCOPES)}", status=2)
    key = PREFIX + secrets.token_urlsafe(32)
    entry = entry_of(key, caller, tenant or caller, scopes, model or [], _day(expires))
    if file is not None:
        append(file, entry)
        err.print(f"added to {file}; the key itself is printed here alone:")
    else:
        checked(entry)
        err.print(Text(f"for the keys file:\n\n{item(entry, '  ')}\nthe key itself, printed here alone:"))
    print(key)


@app.command("ls")
def list_keys(
    file: Annotated[Path, typer.Option("--file", metavar="FILE", help="The gateway's keys file.")],
) -> None:
    """List who has a key, or a certificate that is known, and what it is good for."""
    table = Table(
        "caller", "tenant", "scopes", "models", "expires", "key or certificate", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for entry in [each for name in LISTS for each in entries(file)[name]]:
        models = entry.get("models", ["*"])
        table.add_row(
            Text(str(entry.get("caller", ""))),
            Text(str(entry.get("tenant", ""))),
            ", ".join(entry.get("scopes", DEFAULT_SCOPES)),
            "all" if "*" in models else Text(", ".join(models) or "none"),
            Text(str(entry.get("expires", "never")), "red" if is_over(entry) else ""),
            _named(entry),
        )
    out.print(table)


@app.command("revoke", no_args_is_help=True)
def revoke_keys(
    file: Annotated[Path, typer.Option("--file", metavar="FILE", help="The gateway's keys file.")],
    digest: Annotated[
        str, typer.Argument(metavar="[SHA256]", help="How the digest begins, as `keys ls` shows it.")
    ] = "",
    caller: Annotated[
        str, typer.Option("--caller", metavar="NAME", help="All keys and certificates of this caller.")
    ] = "",
    expired: Annotated[bool, typer.Option("--expired", help="All that are past their day.")] = False,
) -> None:
    """Take keys out of the file: by how the digest begins; or keys and certificates of a caller, or those that have expired.

    [bold]Examples[/]

      infermesh keys revoke 3f2a9c0d1e4b --file keys.yaml

      infermesh keys revoke --caller checkout --file keys.yaml

    A gateway that watches the file refuses them without a restart; calls that it has admitted are answered.
    """
    if sum((bool(digest), bool(caller), expired)) != 1:
        raise Failure("expected one of: the beginning of a digest, --caller, --expired", status=2)
    begins = digest.lower().rstrip("….")
    if digest and not re.fullmatch(rf"[0-9a-f]{{{MIN_DIGEST},64}}", begins):
        # It is not repeated: who has lost a key may have pasted the key itself.
        raise Failure(f"expected {MIN_DIGEST} to 64 hexadecimal digits, as `infermesh keys ls` shows them", status=2)

    def goes(entry: Entry) -> bool:
        if digest:
            return str(entry.get("sha256", "")).lower().startswith(begins)
        return entry.get("caller") == caller if caller else is_over(entry)

    gone = remove(file, goes, most=1 if digest else None)
    if not gone and not expired:
        raise Failure(f"{file}: there is no such key", hint="`infermesh keys ls` lists them")
    for entry in gone:
        out.print(Text(f"revoked {_named(entry)} of {entry.get('caller', '')}"))
    if not gone:
        out.print("nothing has expired")


def entry_of(
    key: str, caller: str, tenant: str, scopes: Sequence[str], models: Sequence[str] = (), expires: date | None = None
) -> Entry:
    """What a keys file says about a key: its digest, never the key."""
    entry: Entry = {"sha256": hashlib.sha256(key.encode()).hexdigest(), "caller": caller, "tenant": tenant}
    entry["scopes"] = list(scopes)
    if models:
        entry["models"] = list(models)
    if expires is not None:
        entry["expires"] = expires
    return entry


def _named(entry: Entry) -> str:
    """By what the entry is told from others."""
    return str(entry["identity"]) if "identity" in entry else str(entry.get("sha256", ""))[:12] + "…"


def _day(text: str) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise Failure(f"--expires {text!r}: expected a day such as 2030-01-31", status=2) from None

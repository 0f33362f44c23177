"""`infermesh keys`: API keys for the gateway. A keys file holds digests alone: what was not noted down is lost."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich import box
from rich.table import Table
from rich.text import Text

from infermesh.cli.console import err, out
from infermesh.cli.failure import Failure

__all__ = ["app", "append", "entry_of", "remove"]

MIN_DIGEST = 8  # digits that a digest is told by
PREFIX = "imk_"  # lets scanners of repositories and logs know a key of ours
SCOPES = ("infer", "explain", "admin", "variant")

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys of the gateway.")

Entry = dict[str, Any]
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
    scopes = scope or ["infer", "explain"]
    for each in scopes:
        if each not in SCOPES:
            raise Failure(f"--scope {each!r}: expected one of {', '.join(SCOPES)}", status=2)
    key = PREFIX + secrets.token_urlsafe(32)
    entry = entry_of(key, caller, tenant or caller, scopes, model or [], _day(expires))
    if file is not None:
        append(file, entry)
        err.print(f"added to {file}; the key itself is printed here alone:")
    else:
        err.print(Text(f"for the keys file:\n\n{_block(entry, '  ')}\nthe key itself, printed here alone:"))
    print(key)


@app.command("ls")
def list_keys(
    file: Annotated[Path, typer.Option("--file", metavar="FILE", help="The gateway's keys file.")],
) -> None:
    """List who has a key, and what it is good for."""
    table = Table("caller", "tenant", "scopes", "models", "expires", "sha256", box=box.SIMPLE_HEAD, pad_edge=False)
    for entry in _entries(_read(file), file):
        expires = str(entry.get("expires") or "never")
        over = _is_over(entry)
        table.add_row(
            Text(str(entry.get("caller", ""))),
            Text(str(entry.get("tenant", ""))),
            ", ".join(entry.get("scopes") or []),
            "all" if entry.get("models") is None else Text(", ".join(entry["models"]) or "none"),
            Text(expires, "red" if over else ""),
            str(entry.get("sha256", ""))[:12] + "…",
        )
    out.print(table)


@app.command("revoke", no_args_is_help=True)
def revoke_keys(
    file: Annotated[Path, typer.Option("--file", metavar="FILE", help="The gateway's keys file.")],
    digest: Annotated[
        str, typer.Argument(metavar="[SHA256]", help="How the digest begins, as `keys ls` shows it.")
    ] = "",
    caller: Annotated[str, typer.Option("--caller", metavar="NAME", help="All keys of this caller.")] = "",
    expired: Annotated[bool, typer.Option("--expired", help="All keys that are past their day.")] = False,
) -> None:
    """Take keys out of the file: by how the digest begins, of a caller, or those that have expired.

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
        return entry.get("caller") == caller if caller else _is_over(entry)

    gone = [entry for entry in _entries(_read(file), file) if goes(entry)]
    if digest and len(gone) > 1:
        raise Failure(f"{file}: {len(gone)} keys begin so: give more digits", status=2)
    if not gone and not expired:
        raise Failure(f"{file}: there is no such key", hint="`infermesh keys ls` lists them")
    if gone:
        remove(file, goes)
    for entry in gone:
        out.print(Text(f"revoked {str(entry.get('sha256', ''))[:12]}… of {entry.get('caller', '')}"))
    if not gone:
        out.print("no key has expired")


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


def append(file: Path, entry: Entry) -> None:
    """Add an entry to a keys file, as text, so that comments stay; a reader sees the old file or the new one, never half.

    Raises Failure, and changes nothing, when the file is not a list under `keys:` that one more entry can follow.
    """
    text = _read(file) if file.exists() else "keys: []\n"
    before = _entries(text, file)
    if not before:
        text = re.sub(r"^keys:[ \t]*(\[[ \t]*\])?[ \t]*(?=#|$)", "keys: ", text, count=1, flags=re.MULTILINE)
        text = "\n".join(line.rstrip() for line in text.splitlines())
        if not re.search(r"^keys:", text, flags=re.MULTILINE):
            text += "\nkeys:"
    first = re.search(r"^([ \t]*)-[ \t]", text, flags=re.MULTILINE)
    grown = text.strip("\n") + "\n" + _block(entry, first[1] if before and first else "  ")
    try:
        after = _entries(grown, file)
    except Failure:
        after = []
    if after != [*before, entry]:
        raise Failure(
            f"{file}: an entry can't be added at its end",
            hint="let the list under `keys:` stand last, an entry a line, or paste what is printed without --file",
        )
    _replace(file, grown)


def remove(file: Path, goes: Callable[[Entry], bool]) -> None:
    """Take entries out of a keys file, as text, so that the other entries and their comments stay.

    Raises Failure, and changes nothing, when the entries do not have lines of their own.
    """
    text = _read(file)
    before = _entries(text, file)
    lines = text.splitlines(keepends=True)
    spans = _spans(text)
    kept = [entry for entry in before if not goes(entry)]
    for entry, (first, end) in reversed(list(zip(before, spans, strict=True))):
        if goes(entry):
            del lines[first:end]
    left = "".join(lines)
    if not kept:
        left = re.sub(r"^keys:[ \t]*(?=#|$)", "keys: []  ", left, count=1, flags=re.MULTILINE).replace("[]  \n", "[]\n")
    try:
        understood = _entries(left, file) == kept and _rest(left) == _rest(text)
    except (Failure, yaml.YAMLError):
        understood = False
    if not understood:
        raise Failure(f"{file}: an entry can't be taken out", hint="let each entry begin a line, or edit the file")
    _replace(file, left)


def _spans(text: str) -> list[tuple[int, int]]:
    """The lines of each entry under `keys:`, the first and the one after the last; comments before an entry stay."""
    root = yaml.compose(text, yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    entries: list[yaml.Node] = next((value.value for key, value in pairs if key.value == "keys"), [])
    lines = text.splitlines()
    spans = []
    for node in entries:
        first, end = node.start_mark.line, node.end_mark.line + (node.end_mark.column > 0)
        while end - 1 > first and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith(("#", "- "))):
            end -= 1  # a block ends where the next token begins
        while end - 1 > first and not lines[end - 1].startswith(" " * max(1, node.start_mark.column)):
            end -= 1  # that token may be another key of the file
        spans.append((first, end))
    return spans


def _rest(text: str) -> Any:
    value = yaml.safe_load(text)
    return {name: each for name, each in value.items() if name != "keys"} if isinstance(value, dict) else value


def _is_over(entry: Entry) -> bool:
    expires = entry.get("expires")
    if isinstance(expires, datetime):
        return expires <= datetime.now(UTC if expires.tzinfo else None)
    return isinstance(expires, date) and expires <= datetime.now(UTC).date()


def _block(entry: Entry, indent: str) -> str:
    """The entry as an item of a YAML list, one key a line."""
    lines = yaml.safe_dump(entry, sort_keys=False, default_flow_style=None, allow_unicode=True, width=1000).splitlines()
    return "".join(f"{indent}{'  ' if number else '- '}{line}\n" for number, line in enumerate(lines))


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{file}: can't be read: {getattr(error, 'strerror', None) or error}", status=2) from None


def _entries(text: str, file: Path) -> list[Entry]:
    try:
        value = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise Failure(f"{file}: no valid YAML: {' '.join(str(error).split())}", status=2) from None
    entries = value.get("keys") if isinstance(value, dict) else None
    if entries is None and isinstance(value, dict) and set(value) <= {"keys"}:
        return []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Failure(f"{file}: expected a list under `keys:`", status=2)
    return entries


def _replace(file: Path, text: str) -> None:
    mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=file.parent, prefix=f".{file.name}.", delete=False
        ) as new:
            new.write(text)
            new.flush()
            os.fsync(new.fileno())
        Path(new.name).chmod(mode)
        Path(new.name).replace(file)
    except OSError as error:
        raise Failure(f"{file}: can't be written: {error.strerror}") from None


def _day(text: str) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise Failure(f"--expires {text!r}: expected a day such as 2030-01-31", status=2) from None

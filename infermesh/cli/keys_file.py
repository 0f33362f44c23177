"""Changing a keys file as text: what stays in it stays as it was written, comments too."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from infermesh.cli.failure import Failure
from infermesh.config import ConfigError, parse

try:
    import fcntl
except ImportError:  # Windows; there changes at the same time are for the user to avoid
    fcntl = None  # type: ignore[assignment]

__all__ = ["LISTS", "Entry", "append", "checked", "entries", "is_over", "item", "remove"]

LISTS = ("keys", "certificates")
NEW = "keys: []\n"
END = "...\n"

Entry = dict[str, Any]


def entries(file: Path) -> dict[str, list[Entry]]:
    """What is in the lists of a keys file. Raises Failure for what is none."""
    return _entries(_read(file), file)


def append(file: Path, entry: Entry) -> None:
    """Add a key to a keys file; a reader sees the old file or the new one, never half, and nobody's change is lost.

    Raises Failure, and changes nothing, when one more entry can't follow those under `keys:`, or the gateway would refuse it.
    """
    with _locked(file) as target:
        text = _whole(file) if target.exists() else NEW
        before = _entries(text, file)
        lines = text.splitlines(keepends=True)
        if before["keys"]:
            first, end = _spans(text, "keys")[-1]
            indent = lines[first][: len(lines[first]) - len(lines[first].lstrip(" "))]
        else:
            end, indent = _emptied(lines), "  "
        if end and not lines[end - 1].endswith("\n"):
            lines[end - 1] += "\n"
        grown = "".join([*lines[:end], item(entry, indent), *lines[end:]])
        try:
            after = _entries(grown, file)
        except Failure:
            after = {}
        if after != {**before, "keys": [*before["keys"], entry]}:
            raise Failure(
                f"{file}: an entry can't be added",
                hint="let each entry under `keys:` begin a line, or paste what is printed without --file",
            )
        _replace(file, target, grown)


def remove(file: Path, goes: Callable[[Entry], bool], *, most: int | None = None) -> list[Entry]:
    """Take entries out of the lists of a keys file, and return them.

    Raises Failure, and changes nothing, when they do not have lines of their own, or there are more than `most`.
    """
    with _locked(file) as target:
        text = _whole(file)
        before = _entries(text, file)
        gone = [entry for name in LISTS for entry in before[name] if goes(entry)]
        if most is not None and len(gone) > most:
            raise Failure(f"{file}: {len(gone)} keys begin so: give more digits", status=2)
        if not gone:
            return []
        lines = text.splitlines(keepends=True)
        spans = [
            span for name in LISTS for entry, span in zip(before[name], _spans(text, name), strict=True) if goes(entry)
        ]
        for first, end in sorted(spans, reverse=True):
            del lines[first:end]
        left = "".join(lines)
        kept = {name: [entry for entry in before[name] if not goes(entry)] for name in LISTS}
        for name in LISTS:
            if before[name] and not kept[name]:
                left = re.sub(rf"^{name}:[ \t]*(?=#|$)", f"{name}: []  ", left, count=1, flags=re.MULTILINE)
        left = left.replace("[]  \n", "[]\n")
        try:
            understood = _entries(left, file) == kept and _rest(left) == _rest(text)
        except (Failure, yaml.YAMLError):
            understood = False
        if not understood:
            raise Failure(f"{file}: an entry can't be taken out", hint="let each entry begin a line, or edit the file")
        _replace(file, target, left)
        return gone


def item(entry: Entry, indent: str) -> str:
    """The entry as an item of a YAML list, in braces: so none of it can be cut off unseen (`KeysFile.fault_of_text`)."""
    text = yaml.safe_dump(entry, sort_keys=False, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return f"{indent}- {text.strip()}\n"


def checked(entry: Entry) -> None:
    """Raises Failure for a key that the gateway would refuse."""
    _check("keys:\n" + item(entry, "  "), "the key")


def is_over(entry: Entry) -> bool:
    """Whether it is past its day, by this machine's clock."""
    from services.gateway.keys import KeysFile

    named = {"sha256": "0" * 64, "caller": "anybody", "expires": entry.get("expires", "never")}
    try:
        (key,) = KeysFile.model_validate({"keys": [named]}).keys
    except ValueError:
        return False  # it is no day: what checks the file says so
    return key.expires_at <= time.time()


@contextmanager
def _locked(file: Path) -> Iterator[Path]:
    """The file that is meant, where FILE is a link, while nobody else of us changes it.

    The lock is a file beside it, which stays: who removed it would take it from whoever waits for it.
    """
    try:
        target = file.resolve()
        lock = target.with_name(f".{target.name}.lock").open("a")
    except (OSError, RuntimeError) as error:
        raise Failure(f"{file}: can't be changed: {getattr(error, 'strerror', None) or error}") from None
    with lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield target


def _spans(text: str, name: str) -> list[tuple[int, int]]:
    """The lines of each entry of a list, the first and the one after the last; comments before an entry stay."""
    root = yaml.compose(text, yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    found: list[yaml.Node] = next((value.value for key, value in pairs if key.value == name), [])
    lines = text.splitlines()
    spans = []
    for node in found if isinstance(found, list) else []:
        first, end = node.start_mark.line, node.end_mark.line + (node.end_mark.column > 0)
        while end - 1 > first and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith(("#", "- "))):
            end -= 1  # a block ends where the next token begins
        while end - 1 > first and not lines[end - 1].startswith(" " * max(1, node.start_mark.column)):
            end -= 1  # that token may be another key of the file
        spans.append((first, end))
    return spans


def _emptied(lines: list[str]) -> int:
    """Make the empty list under `keys:` one that items can follow, and return the line where they go."""
    for number, line in enumerate(lines):
        if line.startswith("keys:"):
            kept = re.sub(r"^keys:[ \t]*(\[[ \t]*\])?[ \t]*(?=#|$)", "keys: ", line.rstrip("\n"))
            lines[number] = kept.rstrip() + "\n"
            return number + 1
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    lines.append("keys:\n")
    return len(lines)


def _rest(text: str) -> Any:
    value = yaml.safe_load(text)
    return {name: each for name, each in value.items() if name not in LISTS} if isinstance(value, dict) else value


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{file}: can't be read: {getattr(error, 'strerror', None) or error}", status=2) from None


def _whole(file: Path) -> str:
    """The text of a file that is known to be whole: what we write says that it is."""
    from services.gateway.keys import KeysFile

    text = _read(file)
    try:
        fault = KeysFile.fault_of_text(text)
    except yaml.YAMLError:
        fault = ""  # which is told with more words below
    if fault:
        raise Failure(f"{file}: {fault}", status=2)
    return text


def _entries(text: str, file: Path) -> dict[str, list[Entry]]:
    try:
        value = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise Failure(f"{file}: no valid YAML: {' '.join(str(error).split())}", status=2) from None
    found: dict[str, list[Entry]] = {}
    for name in LISTS:
        items = value.get(name, []) if isinstance(value, dict) else None
        if items is None and isinstance(value, dict):
            items = []
        if not isinstance(items, list) or not all(isinstance(entry, dict) for entry in items):
            raise Failure(f"{file}: expected a list under `{name}:`", status=2)
        found[name] = items
    return found


def _check(text: str, source: str) -> None:
    from services.gateway.keys import KeysFile

    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder) / "keys.yaml"
        new.write_text(text, encoding="utf-8")
        try:
            parse(KeysFile, new)
        except ConfigError as error:
            faults = "; ".join(" ".join(each.split()) for each in error.faults)
            raise Failure(f"{source}: the gateway would refuse it: {faults}", status=2) from None


def _replace(file: Path, target: Path, text: str) -> None:
    """Rename a new file over the old one, with its mode and its owner."""
    from services.gateway.keys import KeysFile

    if KeysFile.fault_of_text(text):  # an entry in lines has become the last one
        text = text.rstrip("\n") + "\n" + END
    _check(text, str(file))
    name = ""
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=target.parent, prefix=f".{target.name}.", delete=False
        ) as new:
            name = new.name
            new.write(text)
            new.flush()
            os.fsync(new.fileno())
            mine = os.fstat(new.fileno())
            old = target.stat() if target.exists() else None
            if old is not None and (old.st_uid, old.st_gid) != (mine.st_uid, mine.st_gid):
                os.chown(name, old.st_uid, old.st_gid)
            Path(name).chmod(old.st_mode & 0o777 if old is not None else 0o600)
        Path(name).replace(target)
    except OSError as error:
        if name:
            with suppress(OSError):
                Path(name).unlink()
        raise Failure(f"{file}: can't be written, with its owner and mode: {error.strerror}") from None

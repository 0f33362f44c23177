"""The file in which comparisons are kept over restarts: written whole or not at all, and by one process."""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["Entry", "Key", "StateFile"]

FILE_MODE = 0o600  # it holds values that models answered

_log = logging.getLogger(__name__)

Key = tuple[str, str, str]  # model, shadow, variant
Entry = dict[str, Any]  # what is kept of one: "state" is a comparison's, all else the board's


class StateFile:
    """Locked until `close`, by a file beside it. A process that finds it taken reads it and writes nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: int | None = None
        try:
            lock = os.open(path.with_name(f"{path.name}.lock"), os.O_WRONLY | os.O_CREAT, FILE_MODE)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lock = lock
        except OSError as fault:
            _log.error("%s can't be used, and nothing is kept: it is for one gateway (%s)", path, fault)

    def read(self, most: int) -> dict[Key, Entry]:
        """What was kept, `most` entries of it; what is no entry is left out, and said."""
        try:
            kept = json.loads(self._path.read_bytes())["comparisons"]
            entries = {(each["model"], each["shadow"], each["variant"]): each for each in kept if _is_entry(each)}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as fault:
            _log.error("%s can't be used, and comparisons begin anew: %s", self._path, fault)
            return {}
        if len(entries) < len(kept) or len(entries) > most:
            _log.error("%s: %d of %d entries can be used", self._path, min(len(entries), most), len(kept))
        return dict(list(entries.items())[:most])

    def write(self, entries: Iterable[Entry]) -> bool:
        """Whether they are kept now; if not, the file is as it was, and the log has the reason."""
        if self._lock is None:
            return False
        new = self._path.with_name(f"{self._path.name}.new")
        try:
            with os.fdopen(
                os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE), "w", encoding="utf-8"
            ) as file:
                json.dump({"comparisons": list(entries)}, file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as fault:
            _log.error("comparisons can't be kept in %s: %s", self._path, fault)
            return False
        return True

    def close(self) -> None:
        """Leave it to others."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _is_entry(each: object) -> bool:
    """Whether it has the form of one; whether its state can be gone on from is for the comparison to say."""
    if not isinstance(each, dict):
        return False
    names = all(isinstance(each.get(part), str) for part in ("model", "shadow", "variant"))
    gone_s, versions = each.get("gone_s"), each.get("versions", [])
    return (
        names
        and isinstance(each.get("state"), dict)
        and isinstance(versions, list)
        and len(versions) in (0, 2)
        and all(isinstance(version, str) for version in versions)
        and (gone_s is None or (isinstance(gone_s, int | float) and math.isfinite(gone_s)))
        and isinstance(each.get("begun_anew", 0), int)
    )

"""When it is worth a look at a folder."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from watchfiles import awatch

__all__ = ["tell_of_changes"]

DEBOUNCE_MS = 500  # while files are being written without a pause, it is told this often
STEP_MS = 50

_log = logging.getLogger(__name__)


async def tell_of_changes(
    folders: Sequence[Path], changed: Callable[[], None], every_s: float, stop: asyncio.Event
) -> None:
    """Call `changed` whenever something in the folders changes, until `stop` is set.

    The system's watch is of the folder that a name stood for when it began, so it begins again when the name stands for
    another (a symbolic link that was swapped, a volume that was mounted anew), looked at `every_s` seconds. Some file systems
    tell of nothing (NFS, some bind mounts) and a system has a bound of watches: who calls has to look by itself as well.
    """
    warned = False
    while not stop.is_set():
        try:
            begun = await asyncio.to_thread(_identities, folders)
            async for changes in awatch(
                *folders,
                watch_filter=None,  # the default one leaves out names that a ConfigMap's swap uses
                debounce=DEBOUNCE_MS,
                step=STEP_MS,
                rust_timeout=max(1, int(every_s * 1000)),
                yield_on_timeout=True,
                stop_event=stop,
            ):
                if changes:
                    changed()
                if await asyncio.to_thread(_identities, folders) != begun:
                    changed()
                    break
        except (OSError, RuntimeError) as error:
            if not warned:
                _log.warning("no changes are told of, files are looked at every %g s: %s", every_s, error)
            warned = True
            try:
                await asyncio.wait_for(stop.wait(), every_s)
            except TimeoutError:
                continue


def _identities(folders: Sequence[Path]) -> list[tuple[int, int]]:
    return [(found.st_dev, found.st_ino) for found in map(os.stat, folders)]

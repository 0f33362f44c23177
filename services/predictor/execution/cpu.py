"""How much of the machine this container may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["cpu_quota"]


def cpu_quota(cgroups: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs that this process may use, at least 1: the smallest of what it may run on and of the quotas of its cgroup and of all
    that hold it, rather than the node's cores. Half CPUs are rounded.

    `cgroups` is the list of this process's cgroups, `mounted` where they are mounted (version 2, or a folder for each controller
    of version 1): kernel documentation, admin-guide/cgroup-v2 "cpu.max" and scheduler/sched-bwc.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _folders(cgroups, mounted) if (quota := _quota(folder)) is not None]
    return max(1, min(cpus, *(round(quota) for quota in quotas))) if quotas else cpus


def _folders(cgroups: Path, mounted: Path) -> Iterator[Path]:
    """Where a quota of this process may stand: its cgroup and those above it, up to the mount.

    In a container the path is often the host's, of which nothing is mounted here, or "/": the mount itself is the container's.
    """
    for line in _text(cgroups).splitlines() or ["0::/"]:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:  # version 2
            root = mounted
        elif "cpu" in controllers.split(","):
            root = next((mounted / name for name in (controllers, "cpu") if (mounted / name).is_dir()), mounted / "cpu")
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        for length in range(len(parts), -1, -1):
            yield root.joinpath(*parts[:length])


def _quota(folder: Path) -> float | None:
    """CPUs that one cgroup may use; None: it says nothing."""
    quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
    if not quota:
        quota, period = (_text(folder / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    try:
        return int(quota) / int(period) if int(quota) > 0 else None  # version 1 says -1, version 2 "max"
    except (ValueError, ZeroDivisionError):
        return None


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""

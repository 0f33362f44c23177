"""How much of the machine this container may use."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cpu_quota"]


def cpu_quota() -> int:
    """CPUs that this container may use, from the cgroup's quota rather than the node's cores; at least 1."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()  # cgroup v2
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, round(int(quota) / int(period))))

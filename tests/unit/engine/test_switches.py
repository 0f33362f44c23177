"""Envoy's threads do not take the core from each other."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from infermesh.engine.launch import _TIED

SHOWN = "import os; print(os.sched_getscheduler(0), os.sched_getscheduler(os.getppid()))"


@pytest.mark.skipif(sys.platform != "linux", reason="sched(7) is Linux'")
def test_what_is_started_wakes_without_preempting_and_we_stay_as_we_are() -> None:
    words = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), sys.executable, "-c", SHOWN]

    told = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.split()

    assert told == [str(os.SCHED_BATCH), str(os.SCHED_OTHER)]

"""Ctrl-C, once and twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from infermesh.cli.interrupts import Interrupted, interruptible

TWICE = """
import os, signal
from infermesh.cli.interrupts import Interrupted, interruptible
with interruptible(lambda: print("killed", flush=True)):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except Interrupted:
        os.kill(os.getpid(), signal.SIGTERM)
        print("never", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_interrupts(number):
    """The first signal becomes an exception that says which it was; afterwards signals are what they were."""
    before = signal.getsignal(number)

    with pytest.raises(Interrupted) as interrupted, interruptible(lambda: None):
        os.kill(os.getpid(), number)
        signal.pause()

    assert interrupted.value.number == number
    assert signal.getsignal(number) is before


def test_the_second_signal_kills():
    """The second one does not wait for anything: it kills, and exits as a signal would."""
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=30, check=False)

    assert done.stdout == "killed\n"
    assert done.returncode == 128 + signal.SIGTERM

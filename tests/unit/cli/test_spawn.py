"""Children do not outlive us."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

from infermesh.cli.spawn import spawn

PARENT = """
import sys
from infermesh.cli.spawn import spawn
child = spawn([sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"])
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_a_child_ends_when_its_parent_is_killed():
    """A parent that has no chance to clean up takes its children with it."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pid = int(parent.stdout.readline())
    ended = os.pidfd_open(pid)

    parent.kill()
    parent.communicate()

    assert select.select([ended], [], [], 10)[0], "the child still runs"
    os.close(ended)


def test_a_child_has_a_group_of_its_own():
    """A signal to our group, as a terminal sends it on Ctrl-C, does not reach the child."""
    child = spawn([sys.executable, "-c", "import os; print(os.getpgid(0), os.getpid())"])

    out, _ = child.communicate(timeout=10)

    group, pid = map(int, out.split())
    assert group == pid == child.pid


def test_the_environment_and_both_outputs():
    """The child sees the environment that it is given, and everything it writes comes by one way."""
    code = "import os, sys; print(os.environ['A'], flush=True); print('b', file=sys.stderr)"
    child = spawn([sys.executable, "-c", code], env={"A": "1"})

    out, _ = child.communicate(timeout=10)

    assert out == b"1\nb\n"
    assert child.returncode == 0


def test_its_signals_are_its_own_status():
    """The exit status of the program is the child's, with nothing in between."""
    child = spawn([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"])

    assert child.wait(10) == -signal.SIGTERM
    child.stdout.close()

"""Where the files of a running service are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from infermesh.engine.folder import run_folder

KILLED = """
import os, sys
from pathlib import Path
from infermesh.engine.folder import run_folder
with run_folder(Path(sys.argv[1])) as folder:
    (folder / "key").write_text("secret")
    os._exit(9)
"""


def test_it_is_its_users_alone_and_gone_at_the_end(tmp_path: Path) -> None:
    """Also when the service fails."""
    with pytest.raises(RuntimeError), run_folder(tmp_path) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        raise RuntimeError

    assert not list(tmp_path.iterdir())


def test_what_a_killed_service_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """And nothing of one that lives."""
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    (left,) = tmp_path.iterdir()
    assert (left / "key").exists()

    with run_folder(tmp_path) as first, run_folder(tmp_path) as second:
        assert set(tmp_path.iterdir()) == {first, second}

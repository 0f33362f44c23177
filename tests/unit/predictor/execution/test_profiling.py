"""Profiles on demand: which runs are recorded, when the file is there, and that there is one at a time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infermesh.errors import FailedPrecondition, InvalidRequest
from services.predictor.config import ExecutionConfig
from services.predictor.execution.session import Session

X = {"x": np.ones(3, np.float32)}


@pytest.fixture
def session(tmp_path: Path, models: Any) -> Session:
    (tmp_path / "model.onnx").write_bytes(models.add(1))
    config = ExecutionConfig(intra_op_threads=1, profile_folder=tmp_path / "profiles")
    return Session("adder", 3, tmp_path / "model.onnx", config)


def runs(path: Path) -> int:
    """How many runs are in a profile, when it is there."""
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end, "no profile was written"
        time.sleep(0.001)
    events = json.loads(path.read_text())
    return sum(event["name"] == "model_run" for event in events)


def test_as_many_runs_are_recorded_as_were_asked_for(session: Session, tmp_path: Path) -> None:
    """The file is where the call said, in the Chrome trace form, named by model and version; answers are the same meanwhile."""
    path = session.profile(3)

    answers = [session.run(X, ["y"])[0].tolist() for _ in range(5)]

    assert answers == [[2, 2, 2]] * 5
    assert runs(path) == 1 + 3  # the first one is on made-up data
    assert path.parent == tmp_path / "profiles" and path.name.startswith("adder-3-") and path.suffix == ".json"
    assert list(path.parent.iterdir()) == [path]


def test_one_profile_is_open_at_a_time(session: Session) -> None:
    """A second one is FAILED_PRECONDITION until the first is written."""
    first = session.profile(1)

    with pytest.raises(FailedPrecondition, match='model "adder" version 3: a profile is being recorded') as error:
        session.profile(1)
    assert error.value.reason == "PROFILE_OPEN"
    session.run(X, ["y"])
    assert runs(first) == 2

    end = time.monotonic() + 20
    while session._profile is not None and time.monotonic() < end:
        time.sleep(0.001)
    second = session.profile(1)
    session.run(X, ["y"])
    assert runs(second) == 2 and second != first


def test_a_profile_ends_without_requests_too(session: Session) -> None:
    """After its time, or when the version goes, with what it has."""
    assert runs(session.profile(100, seconds=0.0)) >= 1


def test_a_profile_ends_when_the_version_goes(session: Session) -> None:
    """What was recorded until then is written."""
    path = session.profile(100)
    session.run(X, ["y"])

    session.end_profile()

    assert runs(path) == 2
    assert session.run(X, ["y"])[0].tolist() == [2, 2, 2]
    session.end_profile()


@pytest.mark.parametrize("requests", [0, -1, 10_001])
def test_the_number_of_requests_is_bounded(session: Session, requests: int) -> None:
    """It comes from outside."""
    with pytest.raises(InvalidRequest, match="expected 1 to 10000 requests, got"):
        session.profile(requests)


def test_a_folder_that_can_not_be_written_is_told_before(tmp_path: Path, models: Any) -> None:
    """Not after the requests: nothing is recorded, and the next profile may be asked for."""
    (tmp_path / "file").touch()
    (tmp_path / "model.onnx").write_bytes(models.add(1))
    session = Session("m", 1, tmp_path / "model.onnx", ExecutionConfig(profile_folder=tmp_path / "file"))

    for _ in range(2):
        with pytest.raises(FailedPrecondition, match="profile_folder can't be written"):
            session.profile(1)


def test_a_model_file_that_is_gone_is_told(session: Session, tmp_path: Path) -> None:
    """The recording session is made from the file; without it the version serves on, and may be profiled later."""
    content = (tmp_path / "model.onnx").read_bytes()
    (tmp_path / "model.onnx").unlink()

    with pytest.raises(FailedPrecondition, match="no session to record with"):
        session.profile(1)

    (tmp_path / "model.onnx").write_bytes(content)
    path = session.profile(1)
    assert session.run(X, ["y"])[0].tolist() == [2, 2, 2]
    assert runs(path) == 2


def test_a_batch_counts_as_its_requests(session: Session) -> None:
    """One run of five requests is five of those that were asked for; the last run may have more than are left."""
    path = session.profile(7)

    for _ in range(3):
        session.run(X, ["y"], requests=5)

    assert runs(path) == 1 + 2


def test_a_profile_that_ends_while_a_run_begins_fails_nobody(session: Session) -> None:
    """Another thread may end it between any two steps of a run: what was found to be open is what is asked."""

    class Ending(Session):
        reads = 0

        @property
        def _profile(self) -> Any:
            self.reads += 1
            return SimpleNamespace(take=lambda requests: None) if self.reads == 1 else None

        @_profile.setter
        def _profile(self, value: Any) -> None: ...

    session.__class__ = Ending

    assert session.run(X, ["y"])[0].tolist() == [2, 2, 2]

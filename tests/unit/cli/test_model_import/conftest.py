"""Data with a seed, a repository, and the command that imports into it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnxruntime
import pytest
from sklearn.datasets import make_classification

Import = Callable[..., Any]
WIDTH = 6


class Data:
    """Rows of six columns, three classes, and the same rows with values missing."""

    def __init__(self) -> None:
        self.rows, self.classes = make_classification(300, WIDTH, n_informative=4, n_classes=3, random_state=3)
        self.missing = self.rows.copy()
        self.missing[::7, 1] = np.nan
        self.missing[::11, 4] = np.nan


@pytest.fixture(scope="session")
def data() -> Data:
    return Data()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def imports(infermesh: Callable[..., Any], repository: Path, tmp_path: Path) -> Import:
    """`imports(model, rows, "--trust", …)`: an estimator (saved by joblib first) or a file, and an array or a file of rows."""

    def imports(model: Any, rows: Any = None, *words: str, name: str = "m") -> Any:
        if not isinstance(model, Path):
            joblib.dump(model, tmp_path / "model.joblib")
            model = tmp_path / "model.joblib"
            words = (*words, "--trust")
        if isinstance(rows, np.ndarray):
            np.save(tmp_path / "rows.npy", rows)
            rows = tmp_path / "rows.npy"
        words = words if rows is None else ("--rows", str(rows), *words)
        return infermesh("models", "import", model, "--name", name, "--repository", repository, *words)

    return imports


@pytest.fixture
def session(repository: Path) -> Callable[..., Any]:
    """`session("m", 1)`: ONNX Runtime's session of an imported version."""

    def session(name: str = "m", version: int = 1) -> Any:
        return onnxruntime.InferenceSession(
            str(repository / name / str(version) / "model.onnx"), providers=["CPUExecutionProvider"]
        )

    return session


@pytest.fixture
def nothing_written(repository: Path) -> Callable[[], bool]:
    return lambda: not list(repository.iterdir())

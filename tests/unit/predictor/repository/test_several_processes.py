"""Models of a predictor with several processes on one port: all of them serve the same, or the change is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infermesh.config import ConfigError, load
from infermesh.errors import FailedPrecondition
from services.predictor.config import PredictorConfig
from services.predictor.repository.repository import Repository
from services.predictor.source import open_source

SERVER = {"engine": "envoy", "processes": 2}


async def test_a_load_or_unload_that_one_process_would_get_is_refused(put: Any, models: Any, tmp_path: Path) -> None:
    """It would leave the others as they were: callers would get an answer of either. What is loaded stays."""
    put("m", 1, models.add(1))
    config = PredictorConfig.model_validate({"server": SERVER, "repository": {"root": tmp_path}})
    repository = Repository(config, open_source(str(tmp_path)))
    try:
        await repository.load_all()
        put("m", 2, models.add(2))

        for change in (repository.load, repository.unload):
            with pytest.raises(FailedPrecondition, match=r"2 processes.*`repository\.mode: watch`") as refused:
                await change("m")
            assert refused.value.reason == "SEVERAL_PROCESSES"

        assert [version.version for version in repository.loaded("m")] == [1]
        await repository.refresh("m")  # what watching does, in each process
        assert {version.version for version in repository.loaded("m")} >= {2}
    finally:
        repository.close()


def test_loads_by_request_alone_need_one_process(tmp_path: Path) -> None:
    """In this mode nothing could ever be loaded."""
    (tmp_path / "predictor.yaml").write_text(
        "server: {engine: envoy, processes: 2}\nrepository: {root: ., mode: explicit}\n"
    )

    with pytest.raises(ConfigError, match=r"mode explicit: .*expected `server\.processes: 1`"):
        load(PredictorConfig, tmp_path / "predictor.yaml", {})

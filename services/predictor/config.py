"""The predictor's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from infermesh.config import ConfigPath, Duration, Model, ServiceConfig

__all__ = ["DeadlineConfig", "ExecutionConfig", "PredictorConfig", "RepositoryConfig"]


class RepositoryConfig(Model):
    """Where the models are."""

    root: ConfigPath = Path("samples/models")
    """Folder with `<model>/<version>/model.onnx`."""
    models: list[str] | None = None
    """Models to load at start; left out: all that are there. Others can be loaded by RPC."""
    strict_readiness: bool = False
    """Whether one model that fails to load keeps the predictor unready; its reason is in the index either way."""


class ExecutionConfig(Model):
    """How models run."""

    instances: int = Field(1, ge=1, le=256)
    """Runs of one model version at a time; they share the session and its weights."""
    intra_op_threads: int = Field(0, ge=0)
    """Threads inside one run; 0: as many as the CPU quota of this container."""
    graph_optimization: Literal["disabled", "basic", "extended", "all"] = "all"
    """How far ONNX Runtime may rewrite a model's graph when it loads it."""
    max_queue: int = Field(4096, ge=0)
    """Requests that wait for one model version; more are refused with RESOURCE_EXHAUSTED."""
    inline_below: Duration = "200us"  # type: ignore[assignment]
    """A model whose warm-up runs take less at the 99th percentile runs without a hop to a thread; 0: none does."""


class DeadlineConfig(Model):
    """Ends for calls."""

    default: Duration = "30s"  # type: ignore[assignment]
    """For calls that come without a deadline."""
    maximum: Duration = "5m"  # type: ignore[assignment]
    """No call lasts longer, whatever its caller asks for."""


class PredictorConfig(ServiceConfig):
    """Settings of the predictor."""

    model_config = SettingsConfigDict(env_prefix="INFERMESH_PREDICTOR__")

    repository: RepositoryConfig = RepositoryConfig()
    execution: ExecutionConfig = ExecutionConfig()
    deadline: DeadlineConfig = DeadlineConfig()

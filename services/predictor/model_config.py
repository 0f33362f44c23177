"""What a model's own `config.yaml` says, over the predictor's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, StringConstraints, model_validator

from infermesh.config import ConfigError, Model, parse
from infermesh.names import LABEL
from services.predictor.config import (
    BatchingConfig,
    ExecutionConfig,
    PredictorConfig,
    QueueConfig,
    ResponseCacheConfig,
)
from services.predictor.load_failed import LoadFailed

__all__ = ["FILE", "ModelSettings", "VersionPolicy", "WarmUp", "WarmUpInput", "settings_of"]

FILE = "config.yaml"

Label = Annotated[str, StringConstraints(pattern=rf"^{LABEL}$")]
M = TypeVar("M", bound=Model)


class VersionPolicy(Model):
    """Which versions of the folder are loaded: all when nothing is said, else those of one of these."""

    latest: int | None = Field(None, ge=1)
    """As many of the newest, by number."""
    specific: list[Annotated[int, Field(ge=0)]] | None = Field(None, min_length=1)
    """These, and no others."""

    @model_validator(mode="after")
    def _one(self) -> VersionPolicy:
        if self.latest is not None and self.specific is not None:
            raise ValueError("expected latest or specific, not both")
        return self


class WarmUpInput(Model):
    """What one input is given in a warm-up."""

    data: Literal["zero", "random"] = "random"
    """`random`: numbers from 0 to 1, of integers 0 and 1, of texts short words; the same ones at every start."""
    file: str = ""
    """Instead: a `.npy` file beside the versions, whose rows are repeated as needed; its first dimension is the rows."""
    shape: list[Annotated[int, Field(ge=0)]] | None = None
    """Dimensions after the first, as the model has them or in their free places; left out: 1 in the free ones."""


class WarmUp(Model):
    """Runs before a version is ready. One that fails keeps it from being loaded."""

    rows: list[Annotated[int, Field(ge=0)]] = Field([1], min_length=1)
    """Sizes of batches that are run, each `runs` times: every size that matters. A first dimension that the model fixes stays."""
    runs: int = Field(3, ge=1, le=1000)
    """Runs for each size."""
    inputs: dict[str, WarmUpInput] = {}
    """By the input's name; those that are left out are given random data, or nothing where the model lets them be absent."""


class ModelSettings(Model):
    """Settings of one model; what the file leaves out is as the predictor is configured, whatever default is named here."""

    versions: VersionPolicy = VersionPolicy()
    labels: dict[Label, Annotated[int, Field(ge=0)]] = {}
    """Names that callers may give instead of a version, such as `stable: 3`; each points to a version that is loaded."""
    execution: ExecutionConfig = ExecutionConfig()
    batching: BatchingConfig = BatchingConfig()
    queue: QueueConfig = QueueConfig()
    response_cache: ResponseCacheConfig = ResponseCacheConfig()
    warm_up: list[WarmUp] = []
    """Runs before a version is ready, beside those on made-up data that tell how fast it is."""


def settings_of(folder: Path, predictor: PredictorConfig) -> ModelSettings:
    """How the model in this folder is to be served. Raises LoadFailed when its file can't be used."""
    file = folder / FILE
    try:
        own = parse(ModelSettings, file) if file.is_file() else ModelSettings()
    except ConfigError as error:
        raise LoadFailed(f"{FILE}: {'; '.join(error.faults)}") from None
    return own.model_copy(
        update={
            "execution": _over(predictor.execution, own.execution),
            "batching": _over(predictor.batching, own.batching),
            "queue": _over(predictor.queue, own.queue),
            "response_cache": _over(predictor.response_cache, own.response_cache),
        }
    )


def _over(predictor: M, own: M) -> M:
    """The predictor's, but what the model's file names."""
    return predictor.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})

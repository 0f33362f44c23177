"""What a model's own `config.yaml` says, over the predictor's settings."""

from __future__ import annotations

from pathlib import Path

from infermesh.config import ConfigError, Model, parse
from services.predictor.config import ExecutionConfig
from services.predictor.model_version import LoadFailed

__all__ = ["ModelFile", "execution_of"]

FILE = "config.yaml"


class ModelFile(Model):
    """Settings of one model; what the file leaves out is as the predictor is configured, whatever default is named here."""

    execution: ExecutionConfig = ExecutionConfig()


def execution_of(folder: Path, predictor: ExecutionConfig) -> ExecutionConfig:
    """How the model in this folder is to run. Raises LoadFailed when its file can't be used."""
    file = folder / FILE
    if not file.is_file():
        return predictor
    try:
        own = parse(ModelFile, file).execution
    except ConfigError as error:
        raise LoadFailed(f"{FILE}: {'; '.join(error.faults)}") from None
    return predictor.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})

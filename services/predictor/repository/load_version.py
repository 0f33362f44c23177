"""Loading one version of a model."""

from __future__ import annotations

import logging

from services.predictor.load_failed import LoadFailed
from services.predictor.model_config import ModelSettings
from services.predictor.model_version import ModelVersion
from services.predictor.repository.folders_in_use import FoldersInUse
from services.predictor.source import Source

__all__ = ["MODEL_FILE", "load_version"]

MODEL_FILE = "model.onnx"

_log = logging.getLogger(__name__)


def load_version(
    source: Source, in_use: FoldersInUse, model: str, number: int, settings: ModelSettings
) -> ModelVersion:
    """The version, loaded and warm. Blocks; raises LoadFailed, whatever went wrong: the load of the others must go on."""
    try:
        folder = source.version_folder(model, str(number))
        with in_use.loading(folder):
            if not (folder / MODEL_FILE).is_file():
                raise LoadFailed(f"no {MODEL_FILE} in {model}/{number}/")
            beside = source.settings_folder(model) if settings.warm_up else None
            version = ModelVersion(model, number, folder / MODEL_FILE, settings, beside)
            in_use.made(version, folder)
            return version
    except LoadFailed:
        raise
    except OSError as error:  # of the file system below
        raise LoadFailed(f"{MODEL_FILE} can't be read: {error.strerror or type(error).__name__}") from None
    except Exception as error:
        _log.exception("unforeseen error while a model was loaded", extra={"model": model, "version": number})
        raise LoadFailed(f"{type(error).__name__}; the log says more") from None

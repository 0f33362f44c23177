"""The names that a request carries: models, their versions, and the explainer of a model."""

from __future__ import annotations

import re

from infermesh.errors import InvalidRequest, quoted

__all__ = ["EXPLAINER_SUFFIX", "LABEL", "check_model_name", "check_version", "explained_model", "is_version"]

EXPLAINER_SUFFIX = "-explainer"
LABEL = r"[a-z][a-z0-9_-]{0,62}"  # of a version, such as `stable`

_VERSION = re.compile(r"[0-9]{1,18}")
_VERSION_OR_LABEL = re.compile(rf"[0-9]{{1,18}}|{LABEL}")


def check_model_name(model: str) -> None:
    """Raise InvalidRequest for an empty model name."""
    if not model:
        raise InvalidRequest(
            "model name: expected the name of a model, got an empty one", reason="MODEL_NAME_EMPTY", rejected=True
        )


def is_version(text: str) -> bool:
    """Whether it can be a version: a number or a label, whether there is such a one or not."""
    return _VERSION_OR_LABEL.fullmatch(text) is not None


def check_version(model: str, version: str, labels: tuple[str, ...] = ()) -> None:
    """Raise InvalidRequest unless the version is empty, a number, or a label that the model declares."""
    if version and not _VERSION.fullmatch(version) and version not in labels:
        declared = f" or one of its labels {', '.join(labels)[:256]}" if labels else ""
        raise InvalidRequest(
            f"model {quoted(model)}: version: expected a number{declared}, got {quoted(version)}",
            reason="VERSION_INVALID",
            rejected=True,
        )


def explained_model(model: str) -> str:
    """`fraud` for `fraud-explainer`; empty when the name is no explainer's."""
    return model[: -len(EXPLAINER_SUFFIX)] if model.endswith(EXPLAINER_SUFFIX) and model != EXPLAINER_SUFFIX else ""

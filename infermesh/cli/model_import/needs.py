"""The libraries of the extra `import`: found when they are needed, and missed with a word on how to get them."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from infermesh.cli.failure import Failure

__all__ = ["library", "versions_of"]


def library(module: str) -> Any:
    """The module. Raises Failure when its distribution is not installed, or can't be imported here."""
    try:
        return import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library of it, such as OpenMP's, is missing
        raise Failure(
            f"{module.partition('.')[0]} is needed for this file and can't be imported: {error}",
            hint="pip install 'infermesh[import]'",
        ) from None


def versions_of(*modules: str) -> dict[str, str]:
    """The installed versions by module, in the order asked; those that have none are left out."""
    distributions = {"sklearn": ["scikit-learn"], "xgboost": ["xgboost", "xgboost-cpu"]}
    found: dict[str, str] = {}
    for module in modules:
        for distribution in distributions.get(module, [module]):
            try:
                found[module] = version(distribution)
            except PackageNotFoundError:
                continue
    return found

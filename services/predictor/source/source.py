"""What a repository asks of a root, wherever it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.predictor.load_failed import LoadFailed
from services.predictor.source.counts import Counts

__all__ = ["WARM_UP", "Look", "Source", "SourceAway", "is_hidden", "is_model_name"]

WARM_UP = "warm_up"  # the folder beside the versions that holds data for warm-ups: no version


class SourceAway(LoadFailed):
    """The root can't be asked now, or not for this model: away, slow, or access that is refused. What is loaded serves on. Which
    of the two it is, the root's listing tells."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the root has of one model now; equal texts mean equal files."""

    settings: str
    """Of `config.yaml` and the other files beside the version folders."""
    versions: Mapping[str, str]
    """Of each version folder, by its name, whatever that is; hidden folders (`.x`, `_x`) and `warm_up` are none."""


class Source(Protocol):
    """One root. The methods block and are called in threads, several at a time; all may raise SourceAway."""

    location: str
    """For logs and errors: without who logs in."""

    @property
    def counts(self) -> Counts:
        """What was downloaded, found in the cache and removed from it so far."""
        ...

    def models(self) -> list[str]:
        """The models that are there, in order."""
        ...

    def look(self, model: str) -> Look | None:
        """What is there of one model; None: there is no such model."""
        ...

    def settings_folder(self, model: str) -> Path:
        """A folder of this machine with the model's `config.yaml`, if it has one, and the files beside the versions."""
        ...

    def version_folder(self, model: str, version: str) -> Path:
        """A folder of this machine with the version's files, whole and verified. Raises LoadFailed."""
        ...

    def used(self, folders: frozenset[Path]) -> None:
        """The folders that are in use from now on: the others may go when room is needed."""
        ...


def is_model_name(name: str) -> bool:
    """Whether a folder of this name may be a model or version: nothing hidden, nothing that leads elsewhere."""
    return bool(name) and not name.startswith((".", "_")) and "/" not in name and "\\" not in name and "\0" not in name


def is_hidden(name: str) -> bool:
    """Whether a file, by its name below its model's or version's folder, is somebody's tool's: it or a folder that it lies in
    begins with a dot."""
    return name.startswith(".") or "/." in name

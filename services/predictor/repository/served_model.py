"""What the repository holds of one model."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from infermesh.errors import NotFound, Unavailable, quoted
from infermesh.names import check_version, is_version
from services.predictor.model_config import ModelSettings, VersionPolicy
from services.predictor.model_version import ModelVersion
from services.predictor.repository.versions import point
from services.predictor.source import Look

__all__ = ["DEFAULT", "NOT_LOADED", "UNLOADED", "Attempt", "ServedModel", "serving"]

NOT_LOADED = "not loaded"  # the reason of a model that nobody has asked for, which is no failure
UNLOADED = "unloaded"  # of a version that was dropped on request, which is none either
NO_FAILURE = (NOT_LOADED, UNLOADED)
DEFAULT = ModelSettings()  # of all that were never loaded: making one takes as long as the rest of a hundred entries


@dataclass(eq=False, slots=True)
class Attempt:
    """One load of one version. What comes of it takes over only while it is the last one of its version."""

    late: bool = False


class ServedModel:
    """One model: its loaded versions, the labels that point to them, and why other versions are not loaded.

    Versions and labels change together, in one step of the event loop. What is replaced or dropped finishes what it has accepted.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.look: Look | None = None
        """What the source had when it was last loaded."""
        self.unseen = ""
        """Why the source could not tell what there is, if it could not the last time."""
        self.settings = DEFAULT
        self.loaded: dict[int, ModelVersion] = {}
        """By number, the newest last."""
        self.newest: ModelVersion | None = None
        self.by_text: dict[str, ModelVersion] = {}
        """By what callers usually write: the number without zeros before it, and labels."""
        self.labels: dict[str, int] = {}
        """Those that point to a loaded version."""
        self.failures: dict[str, str] = {}
        """Why a version is not loaded, or not as its files are now, by its number or its folder's name; "": of the model."""
        self.tried: dict[int, tuple[object, ...]] = {}
        """What was last loaded of each version, or failed to load: files, settings, files beside the versions."""
        self.away: set[str] = set()
        """Of `failures`, those that may go by themselves: the source could not be asked. "": all of it."""
        self.trouble: dict[str, str] = {}
        """Why nothing of it could be loaded the last time, by version: its root or its configuration is at fault."""
        self.loading: set[str] = set()
        self.attempts: dict[int, Attempt] = {}
        self._label_reasons: dict[int, str] = {}
        self._left_out: frozenset[int] = frozenset()
        self._closing: list[weakref.ref[ModelVersion]] = []

    @property
    def reasons(self) -> dict[str, str]:
        """What is wrong, in words, by version."""
        reasons = dict(self.failures)
        for number, why in self._label_reasons.items():
            before = reasons.get(str(number))
            reasons[str(number)] = f"{before}; {why}" if before else why
        return reasons | self.trouble

    @property
    def has_failed(self) -> bool:
        """Whether something is wrong that nobody asked for."""
        return bool(self._label_reasons or self.trouble) or any(why not in NO_FAILURE for why in self.failures.values())

    def swap(
        self, loaded: Mapping[int, ModelVersion], settings: ModelSettings, left_out: Iterable[int] | None = None
    ) -> None:
        """From now on these versions answer, and the labels of these settings point to them; the others are closed."""
        gone = [version for number, version in self.loaded.items() if loaded.get(number) is not version]
        self.settings = settings
        self._left_out = self._left_out if left_out is None else frozenset(left_out)
        self.loaded = dict(sorted(loaded.items()))
        self.newest = next(reversed(self.loaded.values()), None)
        self.labels, self._label_reasons = point(settings.labels, self.loaded, self.labels, left_out=self._left_out)
        self.by_text = {version.version_text: version for version in self.loaded.values()}
        self.by_text |= {label: self.loaded[number] for label, number in self.labels.items()}
        self._closing = [each for each in self._closing if _is_busy(each())]
        for version in gone:
            version.close()
            self._closing.append(weakref.ref(version))

    def take_over(self, version: ModelVersion) -> None:
        """Let a version answer that was loaded after all, beside the others."""
        self.failures.pop(version.version_text, None)
        self.swap({**self.loaded, version.version: version}, self.settings)

    def drop_all(self) -> None:
        """Unload every version; loads that are still under way come to nothing."""
        for number in self.loaded:
            self.failures[str(number)] = UNLOADED
        for number, attempt in self.attempts.items():
            if attempt.late:
                self.failures[str(number)] = UNLOADED
        self.attempts.clear()
        self.trouble = {}
        self.labels = {}
        self.swap({}, self.settings)
        self._label_reasons = {}  # an unload is no failure

    def unloading(self) -> Iterator[int]:
        """Versions that finish their last calls."""
        for each in self._closing:
            version = each()
            if version is not None and _is_busy(version):
                yield version.version

    def find(self, version: str) -> ModelVersion:
        """The version that is to answer: the newest, the one of this number, or that of this label. Raises what section 3 of the
        protocol says."""
        if not version:
            if self.newest is None:
                raise self._not_ready("", "")
            return self.newest
        found = self.by_text.get(version)
        if found is not None:
            return found
        if self.look is None and is_version(version):  # never loaded: nobody knows what it has
            raise self._not_ready(f" version {version[:64]}", "")
        check_version(self.name, version, tuple(self.settings.labels))
        if version in self.settings.labels:
            number = str(self.settings.labels[version])
            raise self._not_ready(f" label {version}", number)
        found = self.loaded.get(int(version))
        if found is not None:
            return found
        number = str(int(version))  # the index has one spelling for one version
        if number in self.loading or number in self.reasons or int(number) in self.attempts:
            raise self._not_ready(f" version {number}", number)
        has = ", ".join(str(each) for each in self.loaded)[:128]
        raise NotFound(
            f"model {quoted(self.name)}: no version {number}, it has {has or 'none'}",
            reason="VERSION_NOT_FOUND",
            rejected=True,
        )

    def _not_ready(self, what: str, number: str) -> Unavailable:
        reasons = self.reasons
        waits = number in self.loading or (not number and bool(self.loading))
        why = reasons.get(number) or reasons.get("") or next(iter(reasons.values()), "")
        said = f": {why}" if why and why != NOT_LOADED else ""
        return Unavailable(
            f"model {quoted(self.name)}{what}: {'is loading' if waits else 'is not loaded'}{said}",
            reason="MODEL_NOT_READY",
            rejected=True,
        )


def serving(settings: ModelSettings) -> ModelSettings:
    """The settings that a loaded version depends on: which of them are loaded, and their labels, change without a load."""
    return settings.model_copy(update={"versions": VersionPolicy(), "labels": {}})


def _is_busy(version: ModelVersion | None) -> bool:
    return version is not None and (version.waiting > 0 or version.running > 0)

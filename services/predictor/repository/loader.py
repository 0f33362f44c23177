"""Bringing a model to what its source has now."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from services.predictor.config import PredictorConfig
from services.predictor.load_failed import LoadFailed
from services.predictor.model_config import FILE, ModelSettings, settings_of
from services.predictor.model_version import ModelVersion
from services.predictor.repository.folders_in_use import FoldersInUse
from services.predictor.repository.load_version import load_version
from services.predictor.repository.loads import Loads, StillLoading
from services.predictor.repository.served_model import DEFAULT, Attempt, ServedModel, serving
from services.predictor.repository.versions import plan
from services.predictor.source import Look, Source, SourceAway

__all__ = ["Counts", "Loader"]

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Counts:
    """What has happened since the start: plain numbers, so that other threads may read them."""

    loads: int = 0
    """Versions that were loaded."""
    failures: int = 0
    """Versions that could not be, and models none of whose versions could be tried."""
    away: int = 0
    """Times that a root could not be asked."""


class Loader:
    """Loads what is new or was changed beside what answers, and then swaps; a version that fails changes nothing but its reason.

    Calls for one model must not overlap; those for different models may. `changed` is called on the event loop whenever other
    versions answer than before.
    """

    def __init__(
        self,
        source: Source,
        config: PredictorConfig,
        loads: Loads,
        counts: Counts,
        changed: Callable[[ServedModel], None],
    ) -> None:
        self.in_use = FoldersInUse(source)
        self._source = source
        self._config = config
        self._loads = loads
        self._counts = counts
        self._changed = changed

    async def bring(self, model: ServedModel, look: Look, *, again: bool = False) -> None:
        """Load what is not loaded as the source has it now, or all of it `again`, and drop what is gone.

        Raises LoadFailed when the model's configuration can't be used; then nothing changes but the reasons. Cancelling changes
        nothing.
        """
        try:
            settings = await self._settings(model, look, again)
        except LoadFailed as failure:
            self.fails_whole(model, failure, look.versions)
            model.look, model.unseen = look, ""
            raise
        chosen = plan(model.name, look.versions, settings.versions)
        serves = serving(settings)
        of: dict[int, tuple[object, ...]] = {
            number: (look.versions[str(number)], serves, look.settings) for number in chosen.wanted
        }
        to_load = [number for number in chosen.wanted if again or _is_new(model, number, of[number])]
        fresh: dict[int, ModelVersion] = {}
        failures = dict(chosen.reasons)
        away = set()
        model.loading = {str(number) for number in to_load}
        try:
            for number, result in zip(to_load, await self._load(model, to_load, settings, fresh), strict=True):
                if result is not None:
                    failures[str(number)] = str(result)
                    if isinstance(result, SourceAway):
                        away.add(str(number))
        except BaseException:
            for version in fresh.values():
                version.close()
            raise
        finally:
            model.loading = set()
        untouched = [number for number in chosen.wanted if number not in to_load]
        failures |= {str(n): model.failures[str(n)] for n in untouched if str(n) in model.failures}
        model.failures, model.trouble, model.away, model.unseen = failures, {}, away, ""
        model.attempts = {n: attempt for n, attempt in model.attempts.items() if n in of}
        model.look, model.tried = look, of
        kept = {number: version for number, version in model.loaded.items() if number in of}
        model.swap({**kept, **fresh}, settings, chosen.left_out)
        self._changed(model)

    async def profile(self, version: ModelVersion, requests: int) -> Path:
        """Where the profile of the version's next requests will be. Within the bound of a load, as it makes a session: raises
        LoadFailed past it. A profile that nobody waits for any more is ended."""

        def too_late(result: Path | Exception) -> None:
            if not isinstance(result, Exception):  # else the one that is being recorded is another's
                version.session.end_profile()

        return await self._loads.run(lambda: version.session.profile(requests), too_late=too_late)

    def fails_whole(self, model: ServedModel, failure: LoadFailed, versions: Collection[str] = ()) -> None:
        """Note why nothing of the model could be loaded. What answers goes on."""
        is_away = isinstance(failure, SourceAway)
        rows = {*versions, *map(str, model.loaded)} or {""}
        trouble = {} if is_away and model.loaded else dict.fromkeys(rows, str(failure))
        if trouble != model.trouble:
            self._counts.failures += 1
            _log.error("model not loaded", extra={"model": model.name, "reason": str(failure)})
        model.trouble = trouble
        if is_away and not model.loaded:
            model.away = {""}

    async def _settings(self, model: ServedModel, look: Look, again: bool) -> ModelSettings:
        if not look.versions:
            return DEFAULT  # they are for nobody
        last = model.look
        if not again and last is not None and last.versions and last.settings == look.settings and not model.trouble:
            return model.settings
        return await self._loads.run(lambda: self._read_settings(model.name))

    def _read_settings(self, model: str) -> ModelSettings:
        try:
            return settings_of(self._source.settings_folder(model), self._config)
        except OSError as error:  # of the file system below
            raise LoadFailed(f"{FILE} can't be read: {error.strerror or type(error).__name__}") from None

    async def _load(
        self, model: ServedModel, numbers: list[int], settings: ModelSettings, fresh: dict[int, ModelVersion]
    ) -> list[LoadFailed | None]:
        """Load these; what succeeds is put into `fresh`, also when the whole is cancelled after it."""

        async def load(number: int) -> LoadFailed | None:
            result = await self._version(model, number, settings)
            if isinstance(result, LoadFailed):
                return result
            fresh[number] = result
            return None

        return await asyncio.gather(*(load(number) for number in numbers))

    async def _version(self, model: ServedModel, number: int, settings: ModelSettings) -> ModelVersion | LoadFailed:
        attempt = model.attempts[number] = Attempt()

        def too_late(result: ModelVersion | Exception) -> None:
            counts = model.attempts.get(number) is attempt
            if counts:
                del model.attempts[number]
            if isinstance(result, ModelVersion):
                if counts:
                    self._loaded(model, number)
                    model.take_over(result)
                    self._changed(model)
                else:
                    result.close()
            elif counts:
                model.failures[str(number)] = str(result)
                self._failed(model, number, result)

        try:
            version = await self._loads.run(
                lambda: load_version(self._source, self.in_use, model.name, number, settings), too_late=too_late
            )
        except StillLoading as failure:
            attempt.late = True
            self._failed(model, number, failure)
            return failure
        except LoadFailed as failure:
            _end(model, number, attempt)
            self._failed(model, number, failure)
            return failure
        except BaseException:
            _end(model, number, attempt)
            raise
        _end(model, number, attempt)
        self._loaded(model, number)
        return version

    def _loaded(self, model: ServedModel, number: int) -> None:
        self._counts.loads += 1
        _log.info("model version loaded", extra={"model": model.name, "version": str(number)})

    def _failed(self, model: ServedModel, number: int, failure: Exception) -> None:
        self._counts.failures += 1
        told = {"model": model.name, "version": str(number), "reason": str(failure)}
        _log.error("model version not loaded", extra=told)


def _is_new(model: ServedModel, number: int, of: tuple[object, ...]) -> bool:
    """Whether it is not loaded as it is now, and not known to fail as it is now."""
    tried = model.tried.get(number)
    if tried is None or tried[:2] != of[:2] or str(number) in model.away:
        return True
    has_failed = str(number) in model.failures  # what it lacked may be among the files beside the versions
    return has_failed and tried != of


def _end(model: ServedModel, number: int, attempt: Attempt) -> None:
    if model.attempts.get(number) is attempt:
        del model.attempts[number]

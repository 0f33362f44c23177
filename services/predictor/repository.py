"""The models of a folder, loaded: `<root>/<model>/<version>/model.onnx`."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from infermesh.errors import FailedPrecondition, NotFound, Unavailable, quoted
from infermesh.names import check_model_name, check_version
from infermesh.protocol.open_inference_pb2 import RepositoryIndexResponse
from services.predictor.config import PredictorConfig
from services.predictor.cpu import cpu_quota
from services.predictor.load_failed import LoadFailed
from services.predictor.model_config import settings_of
from services.predictor.model_version import ModelVersion
from services.predictor.source import Source, SourceAway, is_model_name

__all__ = ["Repository"]

MODEL_FILE = "model.onnx"
READY, LOADING, UNAVAILABLE = "READY", "LOADING", "UNAVAILABLE"
UNLOADED = "unloaded"  # the reason of a version that was dropped on request, which is no failure

_VERSION_FOLDER = re.compile(r"0|[1-9][0-9]{0,17}")  # one spelling for one version: 01 and 1 would be the same number

R = TypeVar("R")
_log = logging.getLogger(__name__)


@dataclass
class _Model:
    """One model: its loaded versions, newest last, and why the others are not loaded (by folder name)."""

    loaded: dict[int, ModelVersion] = field(default_factory=dict)
    loading: set[str] = field(default_factory=set)
    reasons: dict[str, str] = field(default_factory=dict)


class Repository:
    """Loads, finds and drops model versions. Lives on the event loop; files are read and sessions made in threads.

    A version is loaded beside the one that it replaces and takes over when it is ready; what runs on the old one is finished.
    A version that fails to load changes nothing but its reason in the index.
    """

    def __init__(self, config: PredictorConfig, source: Source) -> None:
        self.source = source
        self._predictor = config
        self._config = config.repository
        self._models: dict[str, _Model] = {}
        self._tried = False
        self._failed_at_start: set[str] = set()
        self._sizes: tuple[tuple[str, str, int], ...] = ()
        self._loading: dict[str, asyncio.Lock] = {}
        self._threads = ThreadPoolExecutor(
            cpu_quota(), thread_name_prefix="load"
        )  # making a session is mostly one core's work

    @property
    def ready(self) -> bool:
        """Whether the start-up set has been tried; under strict readiness also whether all of it was loaded,
        then or later. What becomes of a model after that takes nobody out: its own readiness tells of it."""
        return self._tried and not (self._config.strict_readiness and self._failed_at_start)

    @property
    def sizes(self) -> tuple[tuple[str, str, int], ...]:
        """Model, version and file size of what is loaded: whole at any moment, so that other threads may ask."""
        return self._sizes

    def label(self, model: str) -> str:
        """The model's name if there is such a model, else the empty string."""
        return model if model in self._models else ""

    async def load_all(self) -> None:
        """Try every model of the start-up set; what fails is in the index and in the log."""
        try:
            there = await self._blocking(self.source.models)
        except SourceAway as away:
            raise FileNotFoundError(f"repository.root: {away}") from None
        names = there if self._config.models is None else self._config.models
        entries = await asyncio.gather(*(self._load(name) for name in names))
        self._failed_at_start = {name for name, entry in zip(names, entries, strict=True) if entry.reasons}
        self._tried = True

    async def load(self, model: str) -> None:
        """Load what the model's folder holds now, all versions, and drop versions that are gone. Raises NotFound for no such
        model, FailedPrecondition with the reasons when one of its versions can't be loaded; the others are, all the same."""
        entry = await self._load(model, must_exist=True)
        if not entry.loaded or entry.reasons:
            why = "; ".join(f"version {version}: {reason}" for version, reason in sorted(entry.reasons.items()))
            raise FailedPrecondition(
                f"model {quoted(model)}: {why or 'no version in its folder'}", reason="MODEL_LOAD_FAILED"
            )

    async def unload(self, model: str) -> None:
        """Drop all versions of a model; what runs is finished. Waits for a load that came before."""
        if model not in self._models:
            raise NotFound(f"model {quoted(model)}: not in the repository")
        async with self._one_at_a_time(model):
            entry = self._models[model]
            for version in entry.loaded.values():
                version.close()
                entry.reasons[version.version_text] = UNLOADED
            entry.loaded.clear()
            self._loaded_changed()

    def resolve(self, model: str, version: str) -> ModelVersion:
        """The version that is to answer: the one named, or the newest. Raises what section 3 of the protocol says."""
        check_model_name(model)
        entry = self._models.get(model)
        if entry is None:
            raise NotFound(f"model {quoted(model)}: no such model", rejected=True)
        if not version:
            if not entry.loaded:
                raise self._not_ready(model, entry)
            return next(reversed(entry.loaded.values()))
        check_version(model, version)
        number = int(version)
        found = entry.loaded.get(number)
        if found is None:
            version = str(number)  # the index has one spelling for one version
            if version in entry.reasons or version in entry.loading:
                raise self._not_ready(model, entry, version)
            has = ", ".join(str(v) for v in entry.loaded)[:128]
            raise NotFound(
                f"model {quoted(model)}: no version {version}, it has {has or 'none'}",
                reason="VERSION_NOT_FOUND",
                rejected=True,
            )
        return found

    def is_ready(self, model: str, version: str) -> bool:
        """Whether it can answer now; raises NotFound for what does not exist."""
        try:
            self.resolve(model, version)
        except Unavailable:
            return False
        return True

    def ready_versions(self, model: str) -> list[str]:
        """The loaded versions, oldest first."""
        return [v.version_text for v in self._models[model].loaded.values()]

    def loaded(self, model: str = "", version: str = "") -> list[ModelVersion]:
        """Loaded versions: of all models, of one, or the one that is named."""
        if not model:
            return [v for _, entry in sorted(self._models.items()) for v in entry.loaded.values()]
        if version:
            return [self.resolve(model, version)]
        self.resolve(model, "")
        return list(self._models[model].loaded.values())

    def index(self, *, only_ready: bool = False) -> RepositoryIndexResponse:
        """Every version of every model with its state, and the reason when it is not ready."""
        response = RepositoryIndexResponse()
        for name, entry in sorted(self._models.items()):
            states = {str(v): (READY, entry.reasons.get(str(v), "")) for v in entry.loaded}
            states |= {v: (UNAVAILABLE, reason) for v, reason in entry.reasons.items() if v not in states}
            states |= {v: (LOADING, "") for v in entry.loading if v not in states}
            for version, (state, reason) in sorted(states.items(), key=lambda item: (len(item[0]), item[0])):
                if state == READY or not only_ready:
                    response.models.add(name=name, version=version, state=state, reason=reason)
        return response

    def close(self) -> None:
        """Drop everything. Runs that have begun are told to end: this comes after the drain, nobody waits for them."""
        for version in self.loaded():
            version.close(end_runs=True)
        self._models.clear()
        self._loaded_changed()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def collector(self, service: str) -> Collector:
        """Metrics that are read from the repository when somebody scrapes."""
        return _Collector(self, service)

    async def _load(self, model: str, *, must_exist: bool = False) -> _Model:
        async with self._one_at_a_time(model):
            look = await self._blocking(self.source.look, model) if is_model_name(model) else None
            if look is None and must_exist:
                raise NotFound(f"model {quoted(model)}: not in the repository")
            entry = self._models.setdefault(model, _Model())
            folders = list(look.versions) if look else []
            reasons: dict[str, str] = {} if folders else {"": f"no version folder in {model}/"}
            numbered = [name for name in folders if _VERSION_FOLDER.fullmatch(name)]
            reasons |= {name: "the name of a version folder is a number" for name in folders if name not in numbered}
            entry.loading = set(numbered)
            try:
                results = await asyncio.gather(*(self._load_version(model, name) for name in numbered))
            finally:
                entry.loading = set()  # also when who asked for it has gone away
            fresh = {result.version: result for result in results if isinstance(result, ModelVersion)}
            for name, result in zip(numbered, results, strict=True):
                if isinstance(result, LoadFailed):
                    reasons[name] = str(result)
                    _log.error(
                        "model version not loaded", extra={"model": model, "version": name, "reason": str(result)}
                    )
            old, entry.reasons = entry.loaded, reasons
            if not reasons:
                self._failed_at_start.discard(model)
            # Its new file is bad: the old one serves on.
            kept = {n: v for n, v in old.items() if n not in fresh and str(n) in reasons}
            entry.loaded = dict(sorted({**kept, **fresh}.items()))
            self._loaded_changed()
            for number, version in old.items():
                if number not in kept:
                    version.close()
            return entry

    async def _load_version(self, model: str, version: str) -> ModelVersion | LoadFailed:
        """The version, or why there is none: one that fails must not end the load of the others."""

        def make() -> ModelVersion | LoadFailed:
            try:
                settings = settings_of(self.source.settings_folder(model), self._predictor)
                path = self.source.version_folder(model, version) / MODEL_FILE
                if not path.is_file():
                    return LoadFailed(f"no {MODEL_FILE} in {model}/{version}/")
                return ModelVersion(model, int(version), path, settings)
            except LoadFailed as failure:
                return failure
            except Exception as error:
                _log.exception("unforeseen error while a model was loaded", extra={"model": model})
                return LoadFailed(f"{type(error).__name__}; the log says more")

        result = await self._blocking(make)
        if isinstance(result, ModelVersion):
            _log.info("model version loaded", extra={"model": model, "version": version, "inline": result.runs_inline})
        return result

    async def _blocking(self, work: Callable[..., R], *arguments: Any) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _loaded_changed(self) -> None:
        self._sizes = tuple((v.model, v.version_text, v.size_bytes) for v in self.loaded())

    def _one_at_a_time(self, model: str) -> asyncio.Lock:
        """Two reloads of a model must not race, nor a load and an unload."""
        return self._loading.setdefault(model, asyncio.Lock())

    def _not_ready(self, model: str, entry: _Model, version: str = "") -> Unavailable:
        state = "is loading" if version in entry.loading or entry.loading else "is not loaded"
        why = entry.reasons.get(version) or next(iter(entry.reasons.values()), "")
        what = f"model {quoted(model)}{f' version {version}' if version else ''}"
        return Unavailable(f"{what}: {state}{f': {why}' if why else ''}", reason="MODEL_NOT_READY", rejected=True)


class _Collector(Collector):
    """Runs in the thread of whoever scrapes, so it reads nothing that the event loop changes."""

    def __init__(self, repository: Repository, service: str) -> None:
        self._repository = repository
        self._service = service

    def collect(self) -> Iterator[GaugeMetricFamily]:
        size = GaugeMetricFamily(
            "infermesh_model_file_bytes", "Size of a loaded model's file.", labels=["service", "model", "version"]
        )
        for model, version, size_bytes in self._repository.sizes:
            size.add_metric([self._service, model, version], size_bytes)
        yield size

"""The models of a root, loaded: `<root>/<model>/<version>/model.onnx`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary

from infermesh.errors import FailedPrecondition, NotFound, Unavailable, quoted
from infermesh.names import check_model_name
from infermesh.protocol.open_inference_pb2 import RepositoryIndexResponse
from services.predictor.config import PredictorConfig
from services.predictor.execution.cpu import cpu_quota
from services.predictor.load_failed import LoadFailed
from services.predictor.model_config import ModelSettings
from services.predictor.model_version import ModelVersion
from services.predictor.repository.index import add_rows
from services.predictor.repository.loader import Counts, Loader
from services.predictor.repository.loads import Loads
from services.predictor.repository.looks import Looks
from services.predictor.repository.served_model import NOT_LOADED, ServedModel
from services.predictor.source import Look, Source, SourceAway
from services.predictor.source.several import Several

__all__ = ["NOTHING", "Repository", "local_roots"]

NOTHING = Look("", {})
LISTING_S = 1.0  # that the index waits for a new listing
TOGETHER = 128  # models that are listed in one turn of the event loop: some 0.3 ms

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Repository:
    """Loads, finds and drops models. Lives on the event loop; files are read and sessions made in threads.

    A version is loaded beside the one that it replaces and takes over when it is ready; what runs on the old one is finished.
    A version that fails to load changes nothing but its reason in the index.
    """

    def __init__(self, config: PredictorConfig, source: Source) -> None:
        self.source = source
        self.config = config.repository
        self._processes = config.server.processes
        self.counts = Counts()
        self.looks = Looks(source, self.config.load_timeout, self.counts)
        self._models: dict[str, ServedModel] = {}
        self._is_listed = False  # whether it is known what is in the start-up set
        self._untried: list[str] = []
        self._done: set[str] = set()
        self._failed_at_start: set[str] = set()
        self._serving: tuple[ModelVersion, ...] = ()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._listing: asyncio.Task[list[str] | None] | None = None
        loads = Loads(cpu_quota(), self.config.load_timeout)  # making a session is mostly one core's work
        self._loader = Loader(source, config, loads, self.counts, self._changed)
        self._teller = ThreadPoolExecutor(1, thread_name_prefix="in use")  # one: what it tells last is what holds

    @property
    def ready(self) -> bool:
        """Whether the start-up set has been tried; under strict readiness also whether all of it was loaded,
        then or later. What becomes of a model after that takes nobody out: its own readiness tells of it."""
        return self.tried and not (self.config.strict_readiness and self._failed_at_start)

    @property
    def tried(self) -> bool:
        """Whether the start-up set has been tried. While a root can't be listed it has not; a model that can't be read, in a root
        that can, has been."""
        return self._is_listed and not self._untried

    @property
    def serving(self) -> tuple[ModelVersion, ...]:
        """The versions that answer: whole at any moment, so that other threads may ask."""
        return self._serving

    def label(self, model: str) -> str:
        """The model's name if there is such a model, else the empty string."""
        return model if model in self._models else ""

    def settings(self, model: str) -> ModelSettings:
        """As they are now: a loaded version may have been loaded before its model's version policy and labels changed."""
        return self._models[model].settings

    def labels(self, model: str) -> dict[str, int]:
        """What callers may ask for instead of a version, and the loaded version that it stands for."""
        return self._models[model].labels

    async def load_all(self) -> None:
        """Try every model of the start-up set that was not tried yet; what fails is in the index and in the log.

        Raises FileNotFoundError for a root that is a missing folder. A root with an URL may be away: then `tried` is false, and
        this is to be called again.
        """
        if not self._is_listed:
            for root in local_roots(self.config.root):
                if await asyncio.to_thread(_is_missing, root):
                    raise FileNotFoundError(f"repository.root: {root} is no folder")
            there = await self.listed()
            if there is None:
                return
            self._is_listed = not self._part_is_away()
            of_mode = [] if self.config.mode == "explicit" else there
            start = of_mode if self.config.models is None else self.config.models
            self._untried = [name for name in dict.fromkeys(start) if name not in self._done]
        names, away = self._untried, []
        results = await asyncio.gather(*(self._tried(name) for name in names))
        is_away = any(isinstance(result, SourceAway) for result in results) and not await self._can_be_listed()
        for name, failure in zip(names, results, strict=True):
            if is_away and isinstance(failure, SourceAway):
                away.append(name)
            elif failure is not None or self._models[name].has_failed:
                self._failed_at_start.add(name)
        self._untried = away
        self._done |= set(names) - set(away)

    async def listed(self) -> list[str] | None:
        """The models that the root has now; None when it is away. Under `explicit` the index lists them too."""
        there = await self.looks.models()
        if there is None:
            return None
        if self.config.mode == "explicit":
            idle = [name for name, model in self._models.items() if model.failures == {"": NOT_LOADED}]
            for name in set(idle) - set(there):
                del self._models[name]
            for some in _batches(there):
                for name in some:
                    if name not in self._models:
                        self._models[name] = ServedModel(name)
                        self._models[name].failures = {"": NOT_LOADED}
                await asyncio.sleep(0)
        return there

    async def load(self, model: str) -> None:
        """Load what the root has of the model now, all versions, and drop versions that are gone. Raises NotFound for no such
        model, FailedPrecondition with the reasons when one of its versions can't be loaded or a label points to none (the
        others are, all the same), Unavailable when the root is away."""
        self._for_all_processes()
        try:
            entry = await self.refresh(model, again=True, must_exist=True)
        except SourceAway as away:
            raise Unavailable(f"model {quoted(model)}: {away}", reason="SOURCE_AWAY") from None
        except LoadFailed as failure:
            raise FailedPrecondition(f"model {quoted(model)}: {failure}", reason="MODEL_LOAD_FAILED") from None
        if not entry.loaded or entry.has_failed:
            why = "; ".join(f"version {version}: {reason}" for version, reason in sorted(entry.reasons.items()))
            raise FailedPrecondition(
                f"model {quoted(model)}: {why or 'no version in its folder'}", reason="MODEL_LOAD_FAILED"
            )

    async def unload(self, model: str) -> None:
        """Drop all versions of a model; what runs is finished. Waits for a load that came before."""
        self._for_all_processes()
        self._known(model)
        async with self._one_at_a_time(model):
            entry = self._known(model)
            entry.drop_all()
            self._changed(entry)

    def _for_all_processes(self) -> None:
        """Refuse what would change one process, and leave the others that share its port as they were."""
        if self._processes > 1:
            raise FailedPrecondition(
                f"this predictor has {self._processes} processes, one of which a load or unload would reach; expected "
                "`server.processes: 1`, or a change in the root, taken over with `repository.mode: watch` or a rolling restart",
                reason="SEVERAL_PROCESSES",
            )

    async def forget(self, model: str) -> None:
        """Drop a model that the root no longer has, from the index too."""
        async with self._one_at_a_time(model):
            entry = self._models.pop(model, None)
            if entry is not None:
                entry.drop_all()
                self._failed_at_start.discard(model)
                self._changed(entry)
                _log.info("model is gone", extra={"model": model})

    async def refresh(self, model: str, *, again: bool = False, must_exist: bool = False) -> ServedModel:
        """Bring the model to what the root has now: load what is new or was changed, drop what is gone; with `again`, load all
        of it once more. Raises NotFound for no such model if it `must_exist`, LoadFailed when it can't be told what there is or
        how it is to be served: the reason is in the index then, and what is loaded serves on."""
        async with self._one_at_a_time(model):
            try:
                look = await self.looks.one(model)
            except LoadFailed as failure:
                if model in self._models or not must_exist:
                    entry = self._entry(model)
                    if not isinstance(failure, SourceAway):
                        entry.unseen = str(failure)
                    self._loader.fails_whole(entry, failure)
                raise
            if look is None and must_exist:
                raise NotFound(f"model {quoted(model)}: not in the repository")
            was_known = model in self._models
            entry = self._entry(model)
            try:
                await self._loader.bring(entry, look or NOTHING, again=again)
            finally:
                if (
                    not was_known and entry.look is None
                ):  # cancelled: nothing is known of it, and the index would not show it
                    del self._models[model]
            return entry

    def models(self) -> list[ServedModel]:
        """What is held of each model, in the order of their names."""
        return [model for _, model in sorted(self._models.items())]

    def resolve(self, model: str, version: str) -> ModelVersion:
        """The version that is to answer: the one named by number or label, or the newest. Raises what section 3 of the
        protocol says."""
        entry = self._models.get(model)
        if entry is None:
            check_model_name(model)
            raise NotFound(f"model {quoted(model)}: no such model", rejected=True)
        return entry.find(version)

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
            return [version for entry in self.models() for version in entry.loaded.values()]
        if version:
            return [self.resolve(model, version)]
        self.resolve(model, "")
        return list(self._models[model].loaded.values())

    def index(self, *, only_ready: bool = False, root: str = "") -> RepositoryIndexResponse:
        """Every version of every model with its state, and the reason when it is not ready; with `root`, of that root."""
        response = RepositoryIndexResponse()
        add_rows(response, self.models() if self._has_root(root) else [], only_ready=only_ready)
        return response

    async def index_now(self, *, only_ready: bool = False, root: str = "") -> RepositoryIndexResponse:
        """The same; under `explicit` with the models that the root has now and nobody has asked for."""
        if self.config.mode == "explicit" and self.tried:
            if self._listing is None or self._listing.done():
                self._listing = asyncio.ensure_future(self.listed())
            await asyncio.wait({self._listing}, timeout=LISTING_S)  # the last one will do, if the root is slow
        response = RepositoryIndexResponse()
        for some in _batches(self.models() if self._has_root(root) else []):
            add_rows(response, some, only_ready=only_ready)
            await asyncio.sleep(0)
        return response

    async def profile(self, version: ModelVersion, requests: int) -> Path:
        """Record the next requests of a loaded version; where its profile will be. Raises what `Session.profile` does, and
        Unavailable when no session could be made in time, or the version was unloaded meanwhile."""
        where = f"model {quoted(version.model)} version {version.version_text}"
        try:
            file = await self._loader.profile(version, requests)
        except LoadFailed as failure:
            raise Unavailable(f"{where}: no profile: {failure}", reason="PROFILE") from None
        if version not in self._serving:  # its `close` came before there was a profile to end
            version.session.end_profile()
            raise Unavailable(f"{where}: it was unloaded meanwhile", reason="MODEL_NOT_READY")
        return file

    def close(self) -> None:
        """Drop everything. Runs that have begun are told to end: this comes after the drain, nobody waits for them."""
        for version in self.loaded():
            version.close(end_runs=True)
        for model in self._models.values():
            model.attempts.clear()  # what is still being loaded comes to nothing
        self._models.clear()
        self._serving = ()
        if self._listing is not None:
            self._listing.cancel()
        self._teller.shutdown(wait=False, cancel_futures=True)

    async def _tried(self, model: str) -> LoadFailed | None:
        try:
            await self.refresh(model)
        except LoadFailed as failure:
            return failure
        return None

    async def _can_be_listed(self) -> bool:
        return await self.looks.models() is not None and not self._part_is_away()

    def _part_is_away(self) -> bool:
        return isinstance(self.source, Several) and bool(self.source.away)

    def _changed(self, model: ServedModel) -> None:
        self._serving = tuple(self.loaded())
        if not model.has_failed:
            self._failed_at_start.discard(model.name)
        self._teller.submit(self._loader.in_use.tell)

    def _entry(self, model: str) -> ServedModel:
        if model not in self._models:
            self._models[model] = ServedModel(model)
        return self._models[model]

    def _known(self, model: str) -> ServedModel:
        if model not in self._models:
            raise NotFound(f"model {quoted(model)}: not in the repository")
        return self._models[model]

    def _one_at_a_time(self, model: str) -> asyncio.Lock:
        """Two reloads of a model must not race, nor a load and an unload. It goes with the last who holds or awaits it."""
        lock = self._locks.get(model)
        if lock is None:
            lock = self._locks[model] = asyncio.Lock()
        return lock

    def _has_root(self, root: str) -> bool:
        roots = self.config.root if isinstance(self.config.root, list) else [self.config.root]
        return not root or root in (*roots, self.source.location)


def _is_missing(root: Path) -> bool:
    try:
        return not root.is_dir()
    except OSError:  # it is there, or may be, and can't be read: that is away
        return False


def _batches(models: list[T]) -> Iterator[list[T]]:
    return (models[start : start + TOGETHER] for start in range(0, len(models), TOGETHER))


def local_roots(root: str | Iterable[str]) -> list[Path]:
    """The roots that are folders of this machine."""
    roots = [root] if isinstance(root, str) else root
    return [Path(each.removeprefix("file://")) for each in roots if "://" not in each.removeprefix("file://")]

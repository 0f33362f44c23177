"""The graph that ONNX Runtime rewrote, kept beside the model so that the next start need not rewrite it.

`.optimized-<contents>-<environment>.onnx` in the version's folder; hidden, so it is no change of the version. The first is a hash
of the model's files, the second of what the rewriting depends on: ONNX Runtime's version, the level, and this machine's CPU,
since level `all` chooses layouts for it. Replicas of several kinds may share the folder: each has its graph, up to `MOST_KEPT`.
It is made only for models that take long to load, and kept only when loading it was measured to be faster, its hash included;
else an empty `.optimized-<print>-<environment>.none` says not to try again while files, ONNX Runtime and CPU are the same.

Only for sessions on the CPU: what other providers compile can't be written this way (TensorRT and OpenVINO have caches of their
own). Files together over 1 GiB are left alone: protobuf ends at 2 GiB, and reading takes longer than rewriting there.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import onnxruntime as ort

from infermesh.config.types import size_text

__all__ = ["MakeSession", "with_optimized_graph"]

WORTH_TRYING_S = 0.2  # a model that loads faster has nothing to gain that a start would notice
WORTH_KEEPING = 0.8  # of the time without the cache, at most
MAX_BYTES = 2**30
MOST_KEPT = 4  # graphs, or marks, of one model for other kinds of machines; those that were used last stay
STALE_S = 3600.0  # a temporary file this old is of a process that was killed
_PREFIX = ".optimized-"
_CHUNK_BYTES = 2**20

_log = logging.getLogger(__name__)


class MakeSession(Protocol):
    """Makes an ONNX Runtime session of a file; raises what ONNX Runtime does."""

    def __call__(self, path: Path, level: Any, save_to: Path | None = None, /) -> Any: ...


def with_optimized_graph(
    make: MakeSession, path: Path, level: Any, clock: Callable[[], float] = time.thread_time
) -> Any:
    """A session of `path`: from its optimised graph where that is kept, else from the file itself, whose graph may then be kept.

    Times are of this thread's CPU: rewriting is computation, and a machine that is busy makes no model worth keeping.
    Raises what `make` does for the file itself. Nothing that is wrong with the cache is a failure: a damaged one is removed, a
    folder that can't be written or a full disk means that there is none.
    """
    began = clock()
    folder = path.parent
    kept = _kept(folder)
    key = _key(path, level) if any(name.endswith(".onnx") for name in kept) else ""
    hashed = clock() - began
    if key and (session := _from_cache(make, folder, key)) is not None:
        return session
    began = clock()
    session = make(path, level)
    took = clock() - began
    if took < WORTH_TRYING_S or _tried_before(path, level).name in kept or not os.access(folder, os.W_OK):
        return session
    if not key:
        began = clock()
        key = _key(path, level)
        hashed = clock() - began
    if not key:
        return session
    del session  # its weights, before they are loaded again
    return _tried(make, path, level, key, took - hashed, clock)


def _tried(make: MakeSession, path: Path, level: Any, key: str, to_beat_s: float, clock: Callable[[], float]) -> Any:
    """Write the optimised graph, load it, and keep it if that was fast enough; a session either way."""
    folder = path.parent
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(".tmp", _PREFIX, folder)
        os.close(handle)
        temporary = Path(name)
        make(path, level, temporary)
        began = clock()
        session = make(temporary, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
        took = clock() - began
        mark = _tried_before(path, level)
        if took > WORTH_KEEPING * to_beat_s:
            mark.touch()
            _tidy(folder, key, mark.name)
            return session
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp's is for its owner alone; another replica may read this folder
        temporary.replace(folder / f"{_PREFIX}{key}.onnx")
        _tidy(folder, key, mark.name)
        _log.info(
            "optimised graph kept beside the model",
            extra={"file": f"{path.parent.name}/{path.name}", "seconds_saved": round(to_beat_s - took, 3)},
        )
        return session
    except Exception as error:  # a full disk is an ONNX Runtime error, of no class of its own
        _log.info("optimised graph not kept", extra={"file": path.name, "reason": str(error)[:200]})
        return make(path, level)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _from_cache(make: MakeSession, folder: Path, key: str) -> Any | None:
    cached = folder / f"{_PREFIX}{key}.onnx"
    if not cached.is_file():
        return None
    with suppress(OSError):
        os.utime(cached)  # it is in use, and not to be the one that goes
    try:
        return make(cached, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    except Exception as error:  # ONNX Runtime raises a class per cause, of no common base
        _log.warning("optimised graph is damaged and not used", extra={"file": cached.name, "reason": str(error)[:200]})
        with suppress(OSError):
            cached.unlink()
        return None


def _kept(folder: Path) -> frozenset[str]:
    try:
        return frozenset(file.name for file in folder.iterdir() if file.name.startswith(_PREFIX))
    except OSError:
        return frozenset()


def _tidy(folder: Path, key: str, mark: str) -> None:
    """Remove graphs and marks of other contents, all but the newest of this one's, and what a killed process left behind. What
    another process writes now stays."""
    contents = (f"{_PREFIX}{key.partition('-')[0]}-", f"{_PREFIX}{mark[len(_PREFIX) :].partition('-')[0]}-")
    own: dict[str, list[tuple[float, Path]]] = {".onnx": [], ".none": []}
    for name in _kept(folder):
        file = folder / name
        with suppress(OSError):  # another process tidies too
            changed = file.stat().st_mtime
            if file.suffix == ".tmp":
                if time.time() - changed > STALE_S:
                    file.unlink()
            elif file.suffix in own and name.startswith(contents):
                own[file.suffix].append((changed, file))
            else:
                file.unlink()
    for files in own.values():
        for _, file in sorted(files, reverse=True)[MOST_KEPT:]:
            with suppress(OSError):
                file.unlink()


def _key(path: Path, level: Any) -> str:
    """Hashes of contents, since a copied folder has new times, and of the environment; empty: this model's graph is not kept."""
    files = _files(path.parent)
    total = sum(file.stat().st_size for file in files)
    if total > MAX_BYTES:
        _log.debug("no optimised graph for a model of %s", size_text(total))
        return ""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path.parent)}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as opened:
            while chunk := opened.read(_CHUNK_BYTES):
                digest.update(chunk)
    return f"{digest.hexdigest()[:32]}-{_environment(level)}"


def _tried_before(path: Path, level: Any) -> Path:
    """The mark of a model that gains nothing; without a hash of its contents, which would be read at every start for nothing."""
    stats = [(str(file.relative_to(path.parent)), file.stat()) for file in _files(path.parent)]
    text = repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])
    return path.parent / f"{_PREFIX}{hashlib.sha256(text.encode()).hexdigest()[:32]}-{_environment(level)}.none"


def _files(folder: Path) -> list[Path]:
    """The model's file and its external data."""
    return [file for file in sorted(folder.rglob("*")) if not file.name.startswith(".") and file.is_file()]


def _environment(level: Any) -> str:
    return hashlib.sha256(repr((ort.__version__, str(level), _cpu())).encode()).hexdigest()[:16]


@cache
def _cpu() -> str:
    """What tells one kind of CPU from another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    wanted = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features")
    return " ".join([platform.machine(), *(about.get(key, "") for key in wanted)])

"""Where an imported model goes: a new version of a repository, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from infermesh.cli.failure import Failure
from infermesh.cli.model_import.replace_folder import STAGED, locked, repair, replace_folder
from infermesh.names import EXPLAINER_SUFFIX

__all__ = ["MODEL_FILE", "check_place", "write_version"]

MODEL_FILE = "model.onnx"
MAX_NAME_BYTES = 200
MAX_VERSION = 10**18 - 1  # the longest number that a request may name


def check_place(repository: str, name: str, version: int | None, *, force: bool) -> Path:
    """The folder of the repository. Raises Failure for a name or a version that can't be written there, before any work."""
    from services.predictor.source import is_model_name

    if "://" in repository:
        raise Failure(
            f"--repository {repository}: expected a folder",
            hint="import to a folder, then copy it to the bucket",
            status=2,
        )
    if not is_model_name(name) or not name.isprintable() or len(name.encode()) > MAX_NAME_BYTES:
        raise Failure(
            f"--name {name!r}: expected a name without slashes that does not begin with a dot or an underscore",
            status=2,
        )
    if name.endswith(EXPLAINER_SUFFIX):
        raise Failure(f"--name {name!r}: names in {EXPLAINER_SUFFIX} are those of explainers", status=2)
    root = Path(repository)
    if not root.is_dir():
        raise Failure(f"--repository {root}: there is no such folder", hint=f"mkdir -p {root}", status=2)
    if version is not None and not 0 <= version <= MAX_VERSION:
        raise Failure(f"--version {version}: expected a number from 0 to {MAX_VERSION}", status=2)
    if version is not None and not force and os.path.lexists(root / name / str(version)):
        raise _exists(root / name / str(version))
    return root


def write_version(
    root: Path, name: str, version: int | None, files: Mapping[str, bytes | Path], *, force: bool = False
) -> Path:
    """Write the files (content, or a file to copy, by the path in the version) and return the version's folder.

    They are written to a hidden folder beside it, which then takes the name: a predictor that watches sees all of them or none.
    None is the next version. Raises Failure, and leaves the repository as it was, when the version exists and `force` is not
    given, or nothing can be written. What an import that was killed has left in the model's folder is put in order first.
    """
    folder = root / name
    made = not folder.exists()
    staged = folder / f"{STAGED}{secrets.token_hex(8)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            with locked(folder):
                repair(folder)
                staged.mkdir()
                held.enter_context(locked(staged))  # so that no other import takes it for what a killed one has left
            for path, content in files.items():
                _write(staged / path, content)
            with locked(folder):
                return _take_name(staged, folder, version, force=force)
    except OSError as error:
        raise Failure(f"{folder}: can't be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):  # it holds a version now
                folder.rmdir()


def _take_name(staged: Path, folder: Path, version: int | None, *, force: bool) -> Path:
    while True:
        target = folder / str(_next(folder) if version is None else version)
        if force and os.path.lexists(target):
            replace_folder(staged, target)
            return target
        try:
            if os.path.lexists(target):  # an empty folder would be replaced without an error
                raise FileExistsError
            staged.rename(target)
        except OSError as error:
            if not isinstance(error, FileExistsError) and error.errno not in (
                errno.EEXIST,
                errno.ENOTEMPTY,
                errno.ENOTDIR,
            ):
                raise
            if version is not None:
                raise _exists(target) from None
            continue  # somebody else took the number meanwhile
        return target


def _next(folder: Path) -> int:
    """One more than the newest, by number, as the predictor compares them; 1 for the first."""
    return 1 + max((int(p.name) for p in folder.iterdir() if p.name.isascii() and p.name.isdecimal()), default=0)


def _write(path: Path, content: bytes | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path):
        shutil.copyfile(content, path)
    with path.open("ab" if isinstance(content, Path) else "wb") as opened:
        if isinstance(content, bytes):
            opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())  # before the name is taken: a version that is seen is on the disk


def _exists(folder: Path) -> Failure:
    return Failure(
        f"{folder}: this version exists",
        hint="leave --version out for the next one, or replace it by --force",
        status=1,
    )

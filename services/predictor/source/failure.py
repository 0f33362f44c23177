"""Why a root could not be asked, in words for whoever runs the predictor."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from services.predictor.load_failed import LoadFailed
from services.predictor.source.remote_file import Changed
from services.predictor.source.source import SourceAway

__all__ = ["failed", "is_passing", "local_fault"]

MAX_CHARACTERS = 300
LOCAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EFBIG}
"""Faults of this machine's disk, which no store reports."""

_USER_INFO = re.compile(r"(?<=://)[^/\s]*@")
_QUERY = re.compile(r"\?\S+")  # of a signed address


def failed(error: BaseException, root: str, what: str = "") -> LoadFailed:
    """The error of an fsspec filesystem as ours: SourceAway, or Changed for a file (`what`) that was listed and is gone."""
    for cause in _chain(error):
        if isinstance(cause, LoadFailed):
            return cause
    where = f"{root}{f': {what}' if what else ''}"
    status = _status(error)
    if status in (401, 403) or isinstance(error, PermissionError) or "Forbidden" in str(error):
        return SourceAway(f"{where}: access refused{f' ({status})' if status else ''}: {_shown(error)}")
    if type(error).__name__ in ("NoCredentialsError", "DefaultCredentialsError", "PartialCredentialsError"):
        return SourceAway(f"{where}: no credentials: {_shown(error)}")
    if isinstance(error, FileNotFoundError) or status == 404:
        if what:
            return Changed(f"{what}: was listed, and is no longer in {root}")
        return SourceAway(f"{where}: not found; expected a bucket or folder that holds <model>/<version>/model.onnx")
    return SourceAway(f"{where}: {_shown(error)}")


def local_fault(error: BaseException) -> OSError | None:
    """The fault of this machine's disk that is behind the error; None when the store is at fault."""
    return next((each for each in _chain(error) if isinstance(each, OSError) and each.errno in LOCAL), None)


def is_passing(error: BaseException) -> bool:
    """Whether asking again may help: no for what the store understood and refused, and for faults of this machine."""
    if local_fault(error) or any(isinstance(each, LoadFailed) for each in _chain(error)):
        return False
    status = _status(error)
    if status is not None:
        return status >= 500 or status in (408, 429)
    return not isinstance(error, PermissionError | FileNotFoundError | TypeError | ValueError)


def _status(error: BaseException) -> int | None:
    """The HTTP status that is in an error of aiohttp, gcsfs or botocore."""
    for cause in _chain(error):
        if type(cause).__name__ == "HttpError":  # gcsfs's
            found = getattr(cause, "code", None)
        elif isinstance(response := getattr(cause, "response", None), dict):  # botocore's
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:  # aiohttp's
            found = getattr(cause, "status", None)
        if str(found).isdecimal():
            return int(str(found))
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen = 0
    cause: BaseException | None = error
    while cause is not None and seen < 8:
        yield cause
        cause, seen = cause.__cause__, seen + 1


def _shown(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return _QUERY.sub("", _USER_INFO.sub("", text))[:MAX_CHARACTERS]

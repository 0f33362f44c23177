"""The URL of a root: which kind of store it is, and what may be shown of it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["RootUrl", "check_root", "folder_of_file_url", "scheme_of"]

SCHEMES = {
    "s3": ("s3fs", "infermesh[s3]"),
    "gs": ("gcsfs", "infermesh[gcs]"),
    "http": ("aiohttp", "infermesh[predictor]"),
    "https": ("aiohttp", "infermesh[predictor]"),
}
"""The module that each kind of root needs, and the extra that installs it."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True, slots=True)
class RootUrl:
    """A root that is not a folder of this machine. Raises ValueError for one that can't be, before anything is asked of it."""

    url: str
    """Without a slash at its end; may hold a user and a password."""
    shown: str
    """The same without who logs in: for logs, errors and the index."""
    scheme: str

    @classmethod
    def parse(cls, location: str) -> RootUrl:
        """Raises ValueError for what can't be, and for a missing extra."""
        try:
            root = cls.read(location)
        except ValueError as error:
            raise ValueError(f"repository.root: {_shown(location)}: {error}") from None
        module, extra = SCHEMES[root.scheme]
        if find_spec(module) is None:
            raise ValueError(f"repository.root: {root.shown}: {module} is not installed; pip install '{extra}'")
        return root

    @classmethod
    def read(cls, location: str) -> RootUrl:
        """Raises ValueError for an unknown scheme, and what is no address of a folder; its text leaves the address out."""
        scheme = scheme_of(location)
        if scheme not in SCHEMES:
            raise ValueError(f"unknown scheme {scheme}://; expected a folder, file://, {_schemes()}")
        parts = urlsplit(location)
        if not parts.hostname or "@" in parts.path.split("/")[0]:
            raise ValueError(f"expected {scheme}://<bucket or host>/<folder>")
        if parts.query or parts.fragment:
            raise ValueError("a root has no query and no fragment (? and #)")
        return cls(location.rstrip("/"), _shown(location), scheme)

    def key(self, endpoint: str) -> str:
        """The name of the folder in the cache that remembers this root; `endpoint` when it is not the store's usual one."""
        digest = hashlib.sha256(f"{self.shown}\n{endpoint}".encode()).hexdigest()[:12]
        return f"{re.sub(r'[^A-Za-z0-9]+', '-', self.shown)[:48].strip('-')}-{digest}"


def scheme_of(location: str) -> str:
    """The scheme in small letters; empty for a folder."""
    match = _SCHEME.match(location)
    return match[1].lower() if match else ""


def folder_of_file_url(location: str) -> Path:
    """The folder that a `file://` URL names. Raises ValueError for one on another machine."""
    parts = urlsplit(location)
    if parts.netloc not in ("", "localhost"):
        raise ValueError("expected file:///<folder>, on this machine")
    return Path(unquote(parts.path))


def check_root(location: str) -> None:
    """Raises ValueError for a root that can't be, wherever it is to be opened: a missing extra is no fault of the address."""
    if scheme_of(location) == "file":
        folder_of_file_url(location)
    elif scheme_of(location):
        RootUrl.read(location)


def _shown(location: str) -> str:
    return re.sub(r"(?<=://)[^/]*@", "", location).split("?")[0].rstrip("/")


def _schemes() -> str:
    *first, last = (f"{scheme}://" for scheme in SCHEMES)
    return f"{', '.join(first)} or {last}"

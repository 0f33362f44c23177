"""Files as a remote root lists them, sorted by the model and version that they belong to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from infermesh.errors import quoted
from services.predictor.load_failed import LoadFailed
from services.predictor.source.source import WARM_UP, Look, is_hidden, is_model_name

__all__ = ["Changed", "Listing", "RemoteFile"]

MAX_FILES = 10_000  # of one model; a listing without an end must not fill the memory


class Changed(LoadFailed):
    """What came of a root is not what it had listed: somebody replaced it meanwhile, or it was damaged on the way."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a root."""

    name: str
    """Below its model's folder, or below its version's, with slashes."""
    path: str
    """What the store calls it."""
    size: int
    state: str
    """Changes when the content does: a checksum where the store tells one, else its ETag or time."""
    checksums: dict[str, str] = field(default_factory=dict)
    """Of the content, by algorithm (sha256, md5, crc32c), in hexadecimal; empty when the store tells none."""

    def below(self, name: str) -> RemoteFile:
        return RemoteFile(name, self.path, self.size, self.state, self.checksums)


@dataclass(frozen=True, slots=True)
class Listing:
    """One model of a root. `refused` says of a version why its files can't be kept, whatever they hold."""

    settings: tuple[RemoteFile, ...] = ()
    versions: dict[str, tuple[RemoteFile, ...]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, files: Iterable[RemoteFile]) -> Listing | None:
        """From the names below the model's folder; None when there is none. Hidden files are left out. Names come from somebody
        else's store: one that would lead out of its folder is never used, and its version is refused."""
        settings: list[RemoteFile] = []
        versions: dict[str, list[RemoteFile]] = {}
        refused: dict[str, str] = {}
        for file in sorted(files, key=lambda file: file.name):
            version, _, name = file.name.partition("/")
            if file.name.endswith("/"):  # a placeholder that stands for a folder
                continue
            if not name or version == WARM_UP:
                if _is_plain(file.name) and not is_hidden(file.name):
                    settings.append(file)
            elif not is_model_name(version):  # a hidden folder
                continue
            elif not _is_plain(name):
                refused[version] = f"{quoted(name)} is no name for a file of a version: it may lead out of its folder"
                versions.setdefault(version, [])
            elif not is_hidden(name):
                versions.setdefault(version, []).append(file.below(name))
        for version, members in versions.items():
            names = {member.name for member in members}
            for name in sorted(names):
                parents = name.split("/")[:-1]
                if any("/".join(parents[:depth]) in names for depth in range(1, len(parents) + 1)):
                    refused[version] = f"{quoted(name)} lies in what is a file"
        if not settings and not versions:
            return None
        return cls(tuple(settings), {name: tuple(members) for name, members in versions.items()}, refused)

    def look(self) -> Look:
        return Look(
            _text(self.settings),
            {name: _text(files) + self.refused.get(name, "") for name, files in self.versions.items()},
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Listing:
        """Raises KeyError, TypeError or AttributeError for what `to_json` did not write."""
        return cls(
            tuple(RemoteFile(**file) for file in document["settings"]),
            {name: tuple(RemoteFile(**file) for file in files) for name, files in document["versions"].items()},
            dict(document["refused"]),
        )


def _text(files: Iterable[RemoteFile]) -> str:
    return "\n".join(f"{file.name} {file.size} {file.state}" for file in files)


def _is_plain(name: str) -> bool:
    parts = name.split("/")
    return all(part not in ("", ".", "..") for part in parts) and "\\" not in name and name.isprintable()

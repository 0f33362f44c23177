"""What a call begins with."""

from __future__ import annotations

from collections.abc import Sequence

import infermesh
from infermesh.transport.http2.frames import integer, literal

__all__ = ["Heads"]

MAX_NAMES = 256  # of metadata, that are kept as they are sent

_USER_AGENT = f"infermesh/{infermesh.__version__}".encode()


class Heads:
    """Header blocks of calls to one authority; what is the same in all of them is written once."""

    def __init__(self, authority: str) -> None:
        self._authority = authority.encode()
        self._of_paths: dict[str, bytes] = {}
        self._names: dict[str, bytes] = {}

    def of(self, path: str, timeout_s: float | None, metadata: Sequence[tuple[str, str]]) -> bytes:
        parts = [self._of_paths.get(path) or self._of_path(path)]
        if timeout_s is not None:
            parts.append(literal(b"grpc-timeout", timeout(timeout_s)))
        for name, value in metadata:
            written = value.encode()
            parts += (self._names.get(name) or self._name(name), integer(len(written), 7), written)
        return b"".join(parts)

    def _of_path(self, path: str) -> bytes:
        where, who = path.encode(), self._authority
        # POST, http and the names of path and authority are entries 3, 6, 4 and 1 of HPACK's static table.
        head = b"\x83\x86\x04" + integer(len(where), 7) + where + b"\x01" + integer(len(who), 7) + who
        head += literal(b"te", b"trailers") + literal(b"content-type", b"application/grpc")
        self._of_paths[path] = head = head + literal(b"user-agent", _USER_AGENT)
        return head

    def _name(self, name: str) -> bytes:
        written = name.encode()
        begun = b"\x00" + integer(len(written), 7) + written
        if len(self._names) < MAX_NAMES:
            self._names[name] = begun
        return begun


def timeout(seconds: float) -> bytes:
    """As grpc-timeout has it: at most eight digits and a unit; not longer than it is, and never nothing."""
    micros = int(seconds * 1e6)
    return b"%du" % max(1, micros) if micros < 10**8 else b"%dm" % min(micros // 1000, 10**8 - 1)

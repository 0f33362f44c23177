"""A worker for tests: it writes what it takes to a file, and does as a frame says."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from services.gateway.worker import Worker, work

WRITE, DIE, HANG, FAIL = 1, 2, 3, 4


class Echo(Worker):
    def __init__(self, file: Path) -> None:
        self.file = file
        self.taken = 0

    def take(self, kind: int, parts: tuple[bytes, ...]) -> None:
        self.taken += 1
        if kind == DIE:
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == HANG:
            time.sleep(3600)
        if kind == FAIL:
            raise ValueError("as told")
        with self.file.open("ab") as out:
            out.write(b"|".join(parts) + b"\n")

    def answer(self, data: bytes) -> bytes:
        if data == b"fail":
            raise ValueError("as told")
        return data[::-1]

    def tick(self) -> dict[str, float]:
        return {"taken": float(self.taken)}

    def close(self) -> None:
        with self.file.open("ab") as out:
            out.write(b"closed\n")


if __name__ == "__main__":
    work(Echo(Path(sys.argv[1])))

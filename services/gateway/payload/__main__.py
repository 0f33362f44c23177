"""The process that writes payloads; the gateway starts it."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from infermesh.line_files import LineFiles
from services.gateway.payload.frames import SETTINGS
from services.gateway.payload.record import line_of
from services.gateway.payload.redact import Redaction
from services.gateway.worker import Worker, work

_log = logging.getLogger("services.gateway.payload")


class PayloadWriter(Worker):
    """Makes lines of frames and appends them; what can't be written is counted and lost, since nothing here waits."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._max_bytes = int(settings["max_bytes"])
        self._files = LineFiles(Path(settings["folder"]), self._max_bytes, int(settings["max_total"]), prefix="payload")
        self._redaction = Redaction(settings["redact"], settings["salt"].encode())
        self._written = 0
        self._failed = 0
        self._failing = False

    def take(self, kind: int, parts: tuple[bytes, ...]) -> None:
        self._failed += 1  # until it is written
        line = line_of(parts, self._redaction, self._max_bytes)
        try:
            self._files.append(line)
        except OSError as error:
            if not self._failing:
                _log.error("payloads can't be written: %s", error)
            self._failing = True
            return
        self._failed -= 1
        self._written += 1
        if self._failing:
            _log.warning("payloads are written again")
        self._failing = False

    def answer(self, data: bytes) -> bytes:
        raise ValueError("there is nothing to ask it")

    def tick(self) -> dict[str, float]:
        self._files.look()
        return {
            "written": float(self._written),
            "failed": float(self._failed),
            "files_deleted": float(self._files.deleted),
        }

    def close(self) -> None:
        self._files.close()


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)-7s payload log: %(message)s")
    if SETTINGS not in os.environ:
        sys.exit("this is the gateway's writer of payloads, which it starts by itself")
    work(PayloadWriter(json.loads(os.environ.pop(SETTINGS))))


if __name__ == "__main__":
    main()

"""The comparing process; the gateway starts it."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from services.gateway.compare.board import Board
from services.gateway.worker import work

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s shadow comparison: %(message)s")
    settings = json.loads(sys.argv[1])
    work(Board(Path(settings["state"]) if settings["state"] else None, settings["save_every_s"]))

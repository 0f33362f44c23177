"""How a service's process ends."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from infermesh.config import ConfigError, PortTaken

__all__ = ["EXIT_CONFIG", "EXIT_FAILED", "EXIT_PORT", "leave", "line", "status_of"]

EXIT_CONFIG = 2
EXIT_PORT = 3
EXIT_FAILED = 1

_log = logging.getLogger("infermesh.runtime")


def status_of(name: str, served: Callable[[], int | None]) -> int:
    """What a service exits with."""
    try:
        return served() or 0
    except PortTaken as error:
        return line(f"{name}: {error}", EXIT_PORT)
    except ConfigError as error:  # files that only a service which starts needs, such as certificates
        return line(f"{name}: {error}", EXIT_CONFIG)
    except Exception as error:
        _log.critical("%s could not be started: %s", name, error, exc_info=error)
        return EXIT_FAILED


def leave(status: int) -> NoReturn:
    """Exit at once. All that is to be closed is closed by now, and a model that is still being loaded or run in a thread can't be
    interrupted: an ordinary exit would wait for it, past every grace."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def line(text: str, status: int) -> int:
    print(text, file=sys.stderr)
    return status

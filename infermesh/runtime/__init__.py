"""A service as a process: `run` is the main function of each, whichever engine carries its calls."""

from infermesh.runtime.life import Build, Telemetry
from infermesh.runtime.process import run, serve

__all__ = ["Build", "Telemetry", "run", "serve"]

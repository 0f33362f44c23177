"""A service as a process: `run` is the main function of each, whichever engine carries its calls."""

from typing import TYPE_CHECKING

from infermesh.lazy import lazily
from infermesh.runtime.process import run

if TYPE_CHECKING:
    from infermesh.runtime.in_grpc import serve
    from infermesh.runtime.life import Build, Telemetry

__all__ = ["Build", "Telemetry", "run", "serve"]

__getattr__ = lazily(
    __name__,
    {
        "Build": "infermesh.runtime.life",
        "Telemetry": "infermesh.runtime.life",
        "serve": "infermesh.runtime.in_grpc",
    },
)

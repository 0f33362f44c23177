"""A whole mesh on this machine: the store, its features, and the four services, in the order in which they need each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infermesh.cli.failure import Failure
from infermesh.cli.member import SERVICES
from infermesh.cli.ports import free_port
from infermesh.cli.processes import Mesh, samples_folder
from infermesh.cli.store import fill
from infermesh.cli.valkey import Valkey
from infermesh.cli.wiring import setting
from infermesh.errors import MeshError
from infermesh.transport.outside import OutsideCaller

__all__ = ["Launch", "Launched", "launched"]

ENGINES = ("", "grpcio", "envoy")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Launch:
    """What to start. `redis_url` empty: an embedded Valkey; gateway port 0: any free one."""

    config: Path
    features: Path
    models: Path | None = None
    redis_url: str = ""
    gateway_port: int = 0
    engine: str = ""

    @classmethod
    def given(
        cls, *, redis: str = "", gateway_port: int = 0, models: Path | None = None, config: Path | None = None,
        features: Path | None = None, engine: str = "",
    ) -> Launch:  # fmt: skip
        """From options of the command line; what is left out is the samples'."""
        for name, folder in (("--models", models), ("--config", config), ("--features", features)):
            if folder is not None and not folder.is_dir():
                raise Failure(f"{name} {folder}: expected a folder", status=2)
        if engine not in ENGINES:
            raise Failure(f"--engine {engine}: expected {' or '.join(filter(None, ENGINES))}", status=2)
        samples = samples_folder()
        return cls(config or samples / "config", features or samples / "features", models, redis, gateway_port, engine)


@dataclass(frozen=True)
class Launched:
    """A mesh that is ready."""

    mesh: Mesh
    valkey: Valkey | None
    redis_url: str
    config: Path
    features: Path
    seconds: float


@contextmanager
def launched(launch: Launch, say: Say) -> Iterator[Launched]:
    """Start everything, and drain it all on exit; `say` gets a line for each thing that happens. Raises Failure."""
    started = time.perf_counter()
    ready = False
    valkey = None if launch.redis_url else Valkey(free_port())
    redis_url = launch.redis_url or (valkey.url if valkey else "")
    mesh = Mesh(
        config=launch.config,
        models=launch.models,
        redis_url=redis_url,
        gateway_port=launch.gateway_port,
        env={each: {setting(each, "server", "engine"): launch.engine} for each in SERVICES} if launch.engine else None,
        tell=say,
    )
    try:
        mesh.begin()  # first: while the services import what they need, the store starts and is filled
        if valkey is not None:
            valkey.start()
            say(f"store: embedded Valkey at {valkey.url}")
        for loaded in fill(mesh.config / "transformer.yaml", launch.features, redis_url):
            say(f"features: view {loaded.view}, {loaded.rows} rows in {loaded.seconds * 1000:.0f} ms")
        mesh.wait_ready()
        for line in models_that_failed(mesh.address("predictor")):
            say(line)
        ready = True
        yield Launched(mesh, valkey, redis_url, mesh.config, launch.features, time.perf_counter() - started)
    finally:
        began = time.perf_counter()
        mesh.stop()
        if valkey is not None:
            valkey.stop()
        if ready:
            say(f"all drained in {time.perf_counter() - began:.1f} s")


def models_that_failed(predictor: str) -> list[str]:
    """A line for each model version that did not load; the others are served."""
    with OutsideCaller(predictor) as caller:
        try:
            index = caller.index()
        except MeshError as error:
            return [f"predictor: its models can't be listed: {error.message}"]
    return [
        f"model {model.name}{f' version {model.version}' if model.version else ''} did not load: {model.reason}"
        for model in index.models
        if model.state == "UNAVAILABLE"
    ]

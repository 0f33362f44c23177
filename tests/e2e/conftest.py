"""The mesh as processes of its own, shared by the tests that do it no harm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2e_door import NO_LIMIT, SAMPLES, Door
from e2e_engines import engines_of, variables

from infermesh.cli.processes import Mesh
from infermesh.cli.store import fill
from infermesh.cli.valkey import Valkey

collect_ignore = ["test_compose.py"]  # needs a container engine; `make e2e-compose` names the file, which collects it


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of whole services run on both engines; on the second one most of them with `--long` only."""
    module = metafunc.module.__name__.rpartition(".")[2]
    engines = [
        pytest.param(
            engine, id=pytest.HIDDEN_PARAM if engine == "grpcio" else engine, marks=[] if short else [pytest.mark.long]
        )
        for engine, short in engines_of(module, metafunc.function.__name__)
    ]
    metafunc.parametrize("engine", engines, indirect=True, scope="session")


@pytest.fixture(scope="session", autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """What carries the calls of every service that a test starts as a process, however it starts it."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in variables(request.param).items():
            environment.setenv(name, value)
        yield request.param


@pytest.fixture(scope="session")
def store() -> Iterator[Valkey]:
    """A Valkey of the end-to-end tests' own, with the samples' features."""
    with Valkey() as server:
        fill(SAMPLES / "config" / "transformer.yaml", SAMPLES / "features", server.url)
        yield server


@pytest.fixture(scope="session")
def mesh(store: Valkey, engine: str) -> Iterator[Mesh]:
    """The four services as `infermesh up` starts them."""
    with Mesh(redis_url=store.url) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def unlimited(store: Valkey, engine: str) -> Iterator[Mesh]:
    """A mesh of the module's own, for load and for harm: its gateway takes as many calls as come."""
    with Mesh(redis_url=store.url, env=NO_LIMIT) as mesh:
        yield mesh


@pytest.fixture(scope="session")
def door(mesh: Mesh) -> Iterator[Door]:
    door = Door(mesh.address("gateway"))
    yield door
    door.close()

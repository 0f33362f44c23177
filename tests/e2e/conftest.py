"""The mesh as processes of its own, shared by the tests that do it no harm."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from e2e_door import NO_LIMIT, SAMPLES, Door
from e2e_engines import engines_of, variables

from infermesh.cli.processes import Mesh
from infermesh.cli.store import fill
from infermesh.cli.valkey import Valkey

HERE = Path(__file__).parent

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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Every service that a test or its fixtures start as a process, however they start it, runs on the test's engine; no test
    of another folder inherits that."""
    named = {}
    if isinstance(item, pytest.Function) and item.path.parent == HERE:  # the hook is called for those of all folders
        named = variables(str(item.callspec.params["engine"]))
    with pytest.MonkeyPatch.context() as environment:
        for name, value in named.items():
            environment.setenv(name, value)
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def engine(request: pytest.FixtureRequest) -> str:
    """What carries the calls; a fixture that starts services names it, to be made anew for the other engine."""
    return str(request.param)


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

"""The mesh as processes of its own, shared by the tests that do it no harm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2e_door import NO_LIMIT, SAMPLES, Door

from infermesh.cli.processes import Mesh
from infermesh.cli.store import fill
from infermesh.cli.valkey import Valkey

collect_ignore = ["test_compose.py"]  # needs a container engine; `make e2e-compose` names the file, which collects it


@pytest.fixture(scope="session")
def store() -> Iterator[Valkey]:
    """A Valkey of the end-to-end tests' own, with the samples' features."""
    with Valkey() as server:
        fill(SAMPLES / "config" / "transformer.yaml", SAMPLES / "features", server.url)
        yield server


@pytest.fixture(scope="session")
def mesh(store: Valkey) -> Iterator[Mesh]:
    """The four services as `infermesh up` starts them."""
    with Mesh(redis_url=store.url) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def unlimited(store: Valkey) -> Iterator[Mesh]:
    """A mesh of the module's own, for load and for harm: its gateway takes as many calls as come."""
    with Mesh(redis_url=store.url, env=NO_LIMIT) as mesh:
        yield mesh


@pytest.fixture(scope="session")
def door(mesh: Mesh) -> Iterator[Door]:
    door = Door(mesh.address("gateway"))
    yield door
    door.close()

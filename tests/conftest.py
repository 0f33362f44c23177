"""Fixtures that every kind of test may use, and the choice between short and long."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infermesh.cli.valkey import Valkey


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests marked long, and no others")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "long: takes minutes; `make verify` runs it, and its short form is in `make test`"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """`make test` and `make verify` share no test: a long proof is deselected by the one, everything else by the other."""
    wanted = config.getoption("--long")
    chosen = [item for item in items if bool(item.get_closest_marker("long")) is wanted]
    if len(chosen) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
        items[:] = chosen


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """A real Valkey server on a free port, one for all tests of the session; ended by its process id."""
    with Valkey() as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(valkey: Valkey) -> str:
    """The address of the session's Valkey. Tests share it: use keys, or a database (`/1` … `/15`), of your own."""
    return valkey.url

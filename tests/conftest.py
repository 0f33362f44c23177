"""Fixtures that every kind of test may use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infermesh.cli.valkey import Valkey


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """A real Valkey server on a free port, one for all tests of the session; ended by its process id."""
    with Valkey() as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(valkey: Valkey) -> str:
    """The address of the session's Valkey. Tests share it: use keys, or a database (`/1` … `/15`), of your own."""
    return valkey.url

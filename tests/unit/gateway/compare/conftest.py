"""Fixtures of the comparison's tests."""

from __future__ import annotations

import pytest

from tests.unit.gateway.compare.boards import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()

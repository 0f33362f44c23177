"""Which names of a peer are believed."""

from __future__ import annotations

import pytest

from infermesh.transport.peer import Patterns


@pytest.mark.parametrize(
    ("pattern", "name", "believed"),
    [
        ("dns:gateway.mesh", "dns:gateway.mesh", True),
        ("dns:Gateway.mesh", "dns:gateway.mesh", True),
        ("dns:gateway.mesh", "cn:gateway.mesh", False),
        ("dns:gateway.mesh", "dns:gatewayxmesh", False),
        ("dns:*.mesh", "dns:gateway.mesh", True),
        ("dns:*.mesh", "dns:evil.gateway.mesh", False),
        ("dns:*.mesh", "dns:.mesh", False),
        ("uri:spiffe://mesh/*", "uri:spiffe://mesh/gateway", True),
        ("uri:spiffe://mesh/*", "uri:spiffe://mesh/gateway/evil", False),
        ("uri:spiffe://*/gateway", "uri:spiffe://mesh.example/gateway", True),
        ("cn:gateway", "cn:gateway", True),
    ],
)
def test_a_star_stands_for_one_part(pattern: str, name: str, believed: bool) -> None:
    """A whole name matches or nothing does."""
    patterns = Patterns([pattern])

    assert patterns.match((name,)) is believed
    assert patterns.match(("dns:other", name)) is believed
    assert not patterns.match(())


def test_what_is_remembered_is_bounded() -> None:
    """A hundred thousand certificates leave no trace."""
    patterns = Patterns(["dns:a"])

    for number in range(5000):
        patterns.match((f"dns:{number}",))

    assert len(patterns._known) <= 1024
    assert patterns.match(("dns:a",))

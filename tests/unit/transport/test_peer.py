"""The names of a peer, and which are believed."""

from __future__ import annotations

import pytest

from infermesh.transport.peer import Patterns, names_in


def test_names_carry_their_kind() -> None:
    """A name of one kind is never taken for one of another, whatever it reads like."""
    shown = {
        "transport_security_type": [b"ssl"],
        "peer_uri": [b"spiffe://mesh/gateway"],
        "peer_dns": [b"Gateway.Mesh"],
        "peer_email": [b"spiffe://mesh/other@x"],
        "x509_common_name": [b"dns:gateway.mesh"],
        "x509_subject_alternative_name": [b"all of them"],
    }

    assert names_in(shown) == ("uri:spiffe://mesh/gateway", "dns:gateway.mesh", "cn:dns:gateway.mesh")
    assert names_in({"transport_security_type": [b"ssl"]}) == ()


def test_a_certificate_with_very_many_names_is_cut() -> None:
    """What a certificate says is bounded; a name that is too long is none."""
    assert len(names_in({"peer_dns": [b"a%d" % n for n in range(1000)]})) == 64
    assert names_in({"peer_dns": [b"a" * 513]}) == ()


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

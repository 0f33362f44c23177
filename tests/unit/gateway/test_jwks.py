"""Sets of keys: which keys are of use, and how a set changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from infermesh.config import ConfigError
from services.gateway.jwks import KeySet, read_jwks, read_jwks_file
from services.gateway.jwt_config import JwtConfig
from tests.issuer import jwk, jwks, private

ALL = ["RS256", "PS256", "ES256", "ES384", "EdDSA"]


def _weak() -> dict[str, Any]:
    made: dict[str, Any] = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True)
    return made


def test_keys_are_for_the_algorithms_of_their_kind() -> None:
    """By type and curve, by what the key says itself, and by what is pinned."""
    keys = read_jwks(
        jwks(jwk(kid="rsa"), jwk(kid="own", alg="PS256"), jwk("ES384", kid="ec"), jwk("EdDSA", kid="ed")), ALL, "test"
    )

    found = {each.kid: set(each.algorithms) for each in keys}
    assert found == {"rsa": {"RS256", "PS256"}, "own": {"PS256"}, "ec": {"ES384"}, "ed": {"EdDSA"}}


@pytest.mark.parametrize(
    "key",
    [
        jwk(use="enc"),
        jwk(key_ops=["sign"]),
        jwk(alg="RS512"),
        jwk(kty="XYZ"),
        jwk(n="AQAB"),
        jwk(n="%%%"),
        jwk(kid=7),
        jwk("HS256"),
        {**jwk("ES256"), "x": "AAAA"},
        {"kty": "RSA"},
        {"kty": "oct", "k": "c2hvcnQ"},
        "key",
        None,
        {},
    ],
)
def test_keys_of_no_use_are_left_out(key: Any) -> None:
    """They harm no other key; a set that has no other can't be used."""
    assert [each.kid for each in read_jwks(jwks(key, jwk(kid="good")), ALL, "test")] == ["good"]
    with pytest.raises(ConfigError, match="none of its 1 keys is good for RS256, PS256"):
        read_jwks(jwks(key), ALL, "test")


def test_weak_keys_are_left_out() -> None:
    """RSA of 1024 bits and shared keys shorter than their hash (RFC 7518) verify nothing."""
    for key, algorithm in ((_weak(), "RS256"), ({"kty": "oct", "k": "c2hvcnQ"}, "HS256")):
        with pytest.raises(ConfigError, match="none of its 1 keys"):
            read_jwks(jwks(key), [algorithm], "test")


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"[]", b"7", b"{}", b'{"keys": 7}', b'{"keys": []}', b"<html>", b"[" * 100_000, b" " * 300_000],
)
def test_garbage_is_refused_and_not_repeated(data: bytes) -> None:
    """Whatever an address may answer is no set of keys."""
    with pytest.raises(ConfigError) as refused:
        read_jwks(data, ALL, "test")

    assert len(str(refused.value)) < 200


def test_a_set_of_very_many_keys_is_refused() -> None:
    """Each of them costs time to try."""
    with pytest.raises(ConfigError, match="at most 100 keys"):
        read_jwks(json.dumps({"keys": [{}] * 101}).encode(), ALL, "test")


def test_of_a_private_key_the_public_part_is_taken() -> None:
    """An issuer that shows too much is none of our business, and its secret is nothing that we keep."""
    (key,) = read_jwks(
        jwks({**json.loads(RSAAlgorithm.to_jwk(private())), "kid": "one", "key_ops": ["verify"]}), ALL, "t"
    )

    assert isinstance(key.key, rsa.RSAPublicKey)


def test_a_swap_keeps_the_keys_that_stay() -> None:
    """A key that stays is the same object; one that goes is no longer live."""
    keys = KeySet()
    assert not keys.is_loaded
    keys.swap(read_jwks(jwks(jwk(), jwk("ES256", kid="two")), ALL, "test"))
    (one,), (two,) = keys.find("one", "RS256"), keys.find("two", "ES256")

    keys.swap(read_jwks(jwks(jwk()), ALL, "test"))

    assert keys.find("one", "RS256") == [one]
    assert (one.live, two.live, len(keys)) == (True, False, 1)
    assert keys.find("two", "ES256") == keys.find("one", "ES256") == []


def test_keys_of_one_id_are_told_apart_by_their_algorithm_and_else_both_count() -> None:
    """An issuer that changes a key without changing its id names the old one and the new one for a while."""
    keys = KeySet()
    same = [jwk(), jwk("ES256"), jwk(number=1), jwk(number=2)]
    keys.swap(read_jwks(jwks(*same), ALL, "test"))

    assert [each.key.key_size for each in keys.find("one", "ES256")] == [256]
    assert len(keys.find("one", "RS256")) == 2


def test_a_shared_key_is_in_no_text() -> None:
    """A key that stands in a log would be everybody's."""
    (key,) = read_jwks(jwks(jwk("HS256")), ["HS256"], "test")

    assert repr(key) == "VerifyingKey('one', ['HS256'])"


def test_a_file_that_is_missing_or_endless_is_refused(tmp_path: Path) -> None:
    """By its name; a device is not read to its end."""
    config = JwtConfig(issuer=["i"], audience=["a"], jwks_file=tmp_path / "no")

    for file in (tmp_path / "no", Path("/dev/zero")):
        with pytest.raises(ConfigError, match=str(file)):
            read_jwks_file(config, file)

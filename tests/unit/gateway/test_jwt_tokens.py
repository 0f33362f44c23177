"""Tokens: which are taken, whose they are, and what is remembered of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infermesh.call import Call
from infermesh.deadline import Deadline
from infermesh.errors import MeshError, Unauthenticated, Unavailable
from services.gateway.jwks import KeySet, read_jwks
from services.gateway.jwt_config import JwtConfig
from services.gateway.jwt_tokens import Tokens
from tests.issuer import AUDIENCE, ISSUER, NOW, claims, forged, jwk, jwks, private, public_pem, token

PUBLIC = ["RS256", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA"]


def _config(**rest: Any) -> JwtConfig:
    settings = {"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": "https://issuer.example/keys", **rest}
    return JwtConfig.model_validate(settings)


def _tokens(*keys: dict[str, Any], clock: Any = lambda: NOW, newer: Any = None, **rest: Any) -> tuple[Tokens, KeySet]:
    config = _config(**rest)
    known = KeySet()
    known.swap(read_jwks(jwks(*(keys or (jwk(),))), config.algorithms, "test"))
    return Tokens(config, known, clock=clock, newer=newer), known


async def _refused(tokens: Tokens, text: str) -> MeshError:
    with pytest.raises(MeshError) as refused:
        await tokens.caller_of(text, Call())
    assert not any(part in refused.value.message for part in text.split(".") if len(part) > 5)
    return refused.value


@pytest.mark.parametrize("algorithm", PUBLIC)
async def test_a_good_token_names_its_caller(algorithm: str) -> None:
    """By any pinned algorithm; the name has its prefix, the tenant is the caller, scopes are those of the token."""
    tokens, _ = _tokens(jwk(algorithm), algorithms=[algorithm])

    caller = await tokens.caller_of(token(algorithm), Call())

    assert (caller.name, caller.tenant, caller.scopes, caller.models) == (
        "jwt:alice",
        "jwt:alice",
        {"infer", "explain"},
        None,
    )


async def test_shared_keys_come_from_a_file_alone(tmp_path: Any) -> None:
    """HS256 works where it is pinned and the key is in a file; with an address it is refused."""
    file = {"jwks_url": "", "jwks_file": tmp_path / "k"}
    tokens, _ = _tokens(jwk("HS256"), algorithms=["HS256"], **file)

    assert (await tokens.caller_of(token("HS256"), Call())).name == "jwt:alice"
    with pytest.raises(ValueError, match="jwks_file"):
        _config(algorithms=["HS256"])


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ({"exp": NOW - 31}, "TOKEN_EXPIRED"),
        ({"exp": NOW - 30}, "TOKEN_EXPIRED"),
        ({"nbf": NOW + 31}, "TOKEN_NOT_YET_VALID"),
        ({"iat": NOW + 31}, "TOKEN_NOT_YET_VALID"),
        ({"exp": None}, "TOKEN_CLAIMS"),
        ({"exp": "tomorrow"}, "TOKEN_CLAIMS"),
        ({"exp": True}, "TOKEN_CLAIMS"),
        ({"exp": 1e300}, "TOKEN_CLAIMS"),
        ({"exp": float("nan")}, "TOKEN_CLAIMS"),
        ({"exp": -1}, "TOKEN_CLAIMS"),
        ({"nbf": []}, "TOKEN_CLAIMS"),
        ({"exp": NOW + 90_000}, "TOKEN_LIFETIME"),
        ({"iat": None}, "TOKEN_CLAIMS"),
        ({"iss": "https://evil.example"}, "TOKEN_ISSUER"),
        ({"iss": None}, "TOKEN_ISSUER"),
        ({"iss": [ISSUER]}, "TOKEN_ISSUER"),
        ({"aud": "other"}, "TOKEN_AUDIENCE"),
        ({"aud": None}, "TOKEN_AUDIENCE"),
        ({"aud": {"infermesh": 1}}, "TOKEN_AUDIENCE"),
        ({"sub": None}, "TOKEN_CLAIMS"),
        ({"sub": 7}, "TOKEN_CLAIMS"),
        ({"sub": ""}, "TOKEN_CLAIMS"),
        ({"sub": "a" * 129}, "TOKEN_CLAIMS"),
        ({"sub": "a\nb"}, "TOKEN_CLAIMS"),
        ({"number": 1}, "TOKEN_SIGNATURE"),
        ({"kid": "two"}, "TOKEN_KEY_UNKNOWN"),
        ({"algorithm": "RS384"}, "TOKEN_ALGORITHM"),
        ({"headers": {"crit": ["x"], "x": 1}}, "TOKEN_CRITICAL"),
    ],
)
async def test_a_token_with_a_fault_is_refused_for_that(rest: dict[str, Any], reason: str) -> None:
    """Each fault has a reason of its own, UNAUTHENTICATED, and nothing of the token is in the text or remembered."""
    tokens, _ = _tokens()

    refused = await _refused(tokens, token(**rest))

    assert (refused.reason, refused.code) == (reason, "UNAUTHENTICATED")
    assert len(tokens) == 0


async def test_what_is_within_the_leeway_is_taken() -> None:
    """Clocks are off by a little; several audiences and issuers may be taken."""
    tokens, _ = _tokens(issuer=[ISSUER, "https://second.example"])

    for rest in ({"exp": NOW - 29}, {"nbf": NOW + 29}, {"aud": ["x", AUDIENCE]}, {"iss": "https://second.example"}):
        assert (await tokens.caller_of(token(**rest), Call())).name == "jwt:alice"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        forged({"alg": "none", "kid": "one"}, json.dumps(claims()).encode()),
        forged({"alg": "None", "kid": "one"}, json.dumps(claims()).encode()),
        forged({"alg": "", "kid": "one"}, json.dumps(claims()).encode()),
        forged({"alg": "HS256", "kid": "one"}, json.dumps(claims()).encode(), public_pem()),
        forged({"alg": ["RS256"], "kid": "one"}, json.dumps(claims()).encode(), public_pem()),
        forged({"kid": "one"}, json.dumps(claims()).encode(), b"x"),
        forged({"alg": "RS256", "kid": 7}, b"{}", b"x"),
        forged({"alg": "RS256", "kid": "one" * 100}, b"{}", b"x"),
        forged({"alg": "RS256", "kid": "one"}, json.dumps(claims()).encode()),
        forged({"alg": "RS256", "kid": "one", "jwk": jwk(number=1)}, json.dumps(claims()).encode(), b"x"),
        forged({"alg": "RS256", "kid": "one", "b64": False}, b"{}", b"x"),
        "..",
        "a.b.c",
        "\ud800.é.€",
        "e30.e30.e30",
        "[" * 2000 + ".a.b",
    ],
)
async def test_forged_tokens_are_refused(text: str) -> None:
    """`alg=none`, a public key used as a shared one, keys that come with the token, and whatever is no token at all."""
    tokens, _ = _tokens()

    refused = await _refused(tokens, text)

    assert isinstance(refused, Unauthenticated)
    assert refused.reason in ("TOKEN_ALGORITHM", "TOKEN_SIGNATURE", "TOKEN_MALFORMED", "TOKEN_CRITICAL")


async def test_a_token_never_brings_its_own_key() -> None:
    """A token that is signed by the key in its header is refused, and no address in it is asked."""
    tokens, _ = _tokens()
    own = {"jwk": jwk(number=1), "jku": "http://127.0.0.1:1/keys", "x5u": "http://127.0.0.1:1/x"}

    assert (await _refused(tokens, token(number=1, headers=own))).reason == "TOKEN_SIGNATURE"
    assert (await tokens.caller_of(token(headers=own), Call())).name == "jwt:alice"


async def test_a_key_is_for_its_algorithm_alone() -> None:
    """A key that says RS256 verifies nothing else, though RS512 is pinned and the key could."""
    tokens, _ = _tokens(jwk(alg="RS256"), algorithms=["RS256", "RS512"])

    assert (await _refused(tokens, token("RS512"))).reason == "TOKEN_KEY_UNKNOWN"


async def test_claims_that_stand_twice_are_refused() -> None:
    """Two readers of such a token might see two callers."""
    tokens, _ = _tokens(jwk("HS256"), algorithms=["HS256"], jwks_url="", jwks_file="k")
    text = json.dumps(claims())
    twice = (text[:-1] + ', "sub": "bob"}').encode()

    refused = await _refused(tokens, forged({"alg": "HS256", "kid": "one"}, twice, private("HS256")))

    assert refused.reason == "TOKEN_MALFORMED"


async def test_payloads_that_are_no_claims_are_malformed() -> None:
    """A signature over anything else than a JSON object is no token."""
    tokens, _ = _tokens(jwk("HS256"), algorithms=["HS256"], jwks_url="", jwks_file="k")

    for payload in (b"", b"[]", b"7", b"\xff", b'{"a":' * 1200):
        refused = await _refused(tokens, forged({"alg": "HS256", "kid": "one"}, payload, private("HS256")))
        assert refused.reason == "TOKEN_MALFORMED", payload


async def test_an_oversized_token_is_refused_before_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past 8 KiB nothing is parsed or hashed."""
    tokens, _ = _tokens()
    monkeypatch.setattr("services.gateway.jwt_tokens.hashlib", None)

    assert (await _refused(tokens, "a." * 4096 + ".")).reason == "TOKEN_OVERSIZED"


async def test_without_its_time_of_issue_the_rest_of_its_life_is_bounded_where_that_is_enough() -> None:
    """An issuer may leave `iat` out (RFC 7519, 4.1.6); then nobody knows how old a token is."""
    tokens, _ = _tokens(require_iat=False)

    assert (await tokens.caller_of(token(iat=None), Call())).name == "jwt:alice"
    assert (await _refused(tokens, token(iat=None, exp=NOW + 90_000))).reason == "TOKEN_LIFETIME"


async def test_of_two_keys_with_one_id_each_verifies_its_own() -> None:
    """While an issuer changes a key and keeps its id, old tokens and new ones are good, and nobody else's."""
    tokens, _ = _tokens(jwk(), jwk(number=1))

    for number in (0, 1):
        assert (await tokens.caller_of(token(number=number), Call())).name == "jwt:alice"
    assert (await _refused(tokens, token(number=2))).reason == "TOKEN_SIGNATURE"


async def test_without_a_key_id_the_only_key_counts() -> None:
    """With two keys for the algorithm nobody guesses."""
    one, _ = _tokens(jwk(), jwk("ES256", kid="ec"))
    two, _ = _tokens(jwk(), jwk(kid="two", number=1))

    assert (await one.caller_of(token(kid=None), Call())).name == "jwt:alice"
    assert (await _refused(two, token(kid=None))).reason == "TOKEN_KEY_UNKNOWN"


async def test_claims_are_mapped_as_configured() -> None:
    """Nested and dotted names, scopes with a prefix, and never more scopes than tokens may give."""
    tokens, _ = _tokens(
        claims={"caller": "email", "tenant": "https://x.example/org", "scopes": "access.roles", "models": "models"},
        scope_prefix="infermesh:",
        caller_prefix="",
        required={"email_verified_by": ["us", "them"], "groups": []},
    )
    good = {
        "email": "a@b.c",
        "https://x.example/org": "shop",
        "access": {"roles": ["infermesh:infer", "infermesh:admin", "explain", 7]},
        "models": ["iris", "fraud-*", "a*b", 7],
        "email_verified_by": ["us"],
        "groups": ["x"],
    }

    caller = await tokens.caller_of(token(**good), Call())  # type: ignore[arg-type]

    assert (caller.name, caller.tenant, caller.scopes, caller.models) == (
        "a@b.c",
        "shop",
        {"infer"},
        ("iris", "fraud-*"),
    )
    for name, value in (("https://x.example/org", None), ("groups", None), ("email_verified_by", ["me"])):
        assert (await _refused(tokens, token(**{**good, name: value}))).reason == "TOKEN_CLAIMS"
    assert (await tokens.caller_of(token(**{**good, "models": None}), Call())).models == ()  # type: ignore[arg-type]


async def test_a_token_without_scopes_has_none_unless_all_have_the_same() -> None:
    """Nothing is given that nobody wrote down."""
    asked, _ = _tokens()
    given, _ = _tokens(claims={"scopes": ""}, grants=["infer"])

    assert (await asked.caller_of(token(scope=None), Call())).scopes == frozenset()
    assert (await given.caller_of(token(scope="admin"), Call())).scopes == {"infer"}


async def test_a_verified_token_is_remembered_until_it_expires(clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call verifies nothing; at its expiry, leeway included, the token ends."""
    clock.now = NOW
    tokens, _ = _tokens(clock=clock)
    text = token()
    first = await tokens.caller_of(text, Call())
    with monkeypatch.context() as patched:
        patched.setattr(tokens, "_claims", None)
        assert await tokens.caller_of(text, Call()) is first

    clock.now = NOW + 629.9
    assert await tokens.caller_of(text, Call()) is first
    clock.now = NOW + 630
    assert (await _refused(tokens, text)).reason == "TOKEN_EXPIRED"
    assert len(tokens) == 0


async def test_a_remembered_token_ends_with_its_key() -> None:
    """A key that leaves the set takes its tokens along; one that stays, though the set was read anew, keeps them."""
    tokens, keys = _tokens()
    text = token()
    first = await tokens.caller_of(text, Call())

    keys.swap(read_jwks(jwks(jwk(), jwk(kid="two", number=1)), ["RS256"], "test"))
    assert await tokens.caller_of(text, Call()) is first
    keys.swap(read_jwks(jwks(jwk(kid="two", number=1)), ["RS256"], "test"))
    assert (await _refused(tokens, text)).reason == "TOKEN_KEY_UNKNOWN"
    keys.swap(read_jwks(jwks(jwk(number=1)), ["RS256"], "test"))
    assert (await _refused(tokens, text)).reason == "TOKEN_SIGNATURE"


async def test_what_is_remembered_is_bounded() -> None:
    """The token that was not used for longest goes first."""
    tokens, _ = _tokens(jwk("HS256"), algorithms=["HS256"], jwks_url="", jwks_file="k", max_cached=3)
    texts = [token("HS256", sub=f"caller-{n}") for n in range(50)]
    for text in texts:
        await tokens.caller_of(texts[0], Call())
        await tokens.caller_of(text, Call())

    assert len(tokens) == 3
    assert (await tokens.caller_of(texts[0], Call())).name == "jwt:caller-0"


async def test_slow_keys_are_verified_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key whose signatures take long to verify does not hold up other calls."""
    import asyncio

    used: list[Any] = []

    async def to_thread(work: Any, *rest: Any) -> Any:
        used.append(work)
        return work(*rest)

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    tokens, keys = _tokens()
    (key,) = keys.find("one", "RS256")

    key.slow = True
    await tokens.caller_of(token(), Call())
    key.slow = False
    await tokens.caller_of(token(sub="bob"), Call())

    assert len(used) == 1


async def test_before_any_key_is_known_a_token_is_unavailable_and_not_refused() -> None:
    """Its caller did nothing wrong, and may come again; a call that can't wait is not held."""
    asked = []

    async def newer() -> bool:
        asked.append(1)
        import asyncio

        await asyncio.Event().wait()
        return True

    tokens = Tokens(_config(), KeySet(), newer=newer, clock=lambda: NOW)

    with pytest.raises(Unavailable) as refused:
        await tokens.caller_of(token(), Call(deadline=Deadline.after(0.01)))

    assert (refused.value.reason, refused.value.rejected) == ("JWKS_UNAVAILABLE", True)
    assert refused.value.retry_after_s
    assert asked


async def test_a_token_by_a_new_key_waits_for_the_keys() -> None:
    """After a rotation the first token by the new key is taken, once the keys were fetched again."""
    keys: KeySet

    async def newer() -> bool:
        keys.swap(read_jwks(jwks(jwk(), jwk(kid="new", number=1)), ["RS256"], "test"))
        return True

    tokens, keys = _tokens(newer=newer)

    assert (await tokens.caller_of(token(kid="new", number=1), Call())).name == "jwt:alice"


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ({"algorithms": ["RS256", "HS256"]}, "not both"),
        ({"algorithms": ["none"]}, "algorithms"),
        ({"algorithms": []}, "algorithms"),
        ({"audience": []}, "audience"),
        ({"jwks_url": "http://issuer.example/keys"}, "https"),
        ({"jwks_url": "file:///etc/passwd"}, "https"),
        ({"jwks_url": "https://user:word@issuer.example/keys"}, "without a user"),
        ({"jwks_url": "https://issuer.example:x/keys"}, "https"),
        ({"jwks_url": ""}, "one of them"),
        ({"jwks_file": "keys.json"}, "one of them"),
        ({"leeway": "1h"}, "leeway"),
    ],
)
def test_settings_that_are_not_safe_are_refused(rest: dict[str, Any], words: str) -> None:
    """A gateway with them does not start."""
    with pytest.raises(ValueError, match=words):
        _config(**rest)

"""Tests of who gets in, and for what."""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from infermesh.call import Call
from infermesh.config import ConfigError, parse
from infermesh.errors import MeshError, PermissionDenied, Unauthenticated
from services.gateway.authenticate import Authenticate
from services.gateway.key_ring import KeyRing
from services.gateway.keys import KeysFile

ALL = ["infer", "explain", "admin", "variant"]


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _entry(key: str, **rest: Any) -> dict[str, Any]:
    return {"sha256": _digest(key), "caller": "demo", **rest}


def _door(*entries: dict[str, Any], clock: Any = lambda: 0.0, enforce: bool = True) -> tuple[Authenticate, list[str]]:
    seen: list[str] = []
    ring = KeyRing(KeysFile.model_validate({"keys": list(entries)}), clock=clock)
    return Authenticate(
        keys=ring, enforce=enforce, observe=seen.append, observe_dropped=lambda: seen.append("dropped")
    ), seen


def _call(key: str = "k", **metadata: str) -> Call:
    return Call(metadata={"x-api-key": key, **{name.replace("_", "-"): value for name, value in metadata.items()}})


async def test_a_known_key_names_its_caller() -> None:
    """The call carries the caller, the tenant (the caller where none is named) and the scopes of the key."""
    door, seen = _door(_entry("k", scopes=["infer"]))
    call = _call()

    await door.admit("ModelInfer", "iris", "", call)

    assert (call.caller.name, call.caller.tenant, call.caller.scopes) == ("demo", "demo", {"infer"})
    assert not seen


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_key_may_come_as_a_bearer_token(scheme: str) -> None:
    """`authorization: Bearer KEY` is as good as `x-api-key`, in any case of the scheme."""
    door, _ = _door(_entry("k"))
    call = Call(metadata={"authorization": f"{scheme} k"})

    await door.admit("ModelInfer", "iris", "", call)

    assert call.caller.name == "demo"


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({}, "KEY_MISSING"),
        ({"x-api-key": ""}, "KEY_MISSING"),
        ({"authorization": "Basic k"}, "KEY_MISSING"),
        ({"x-api-key": "no-such-key"}, "KEY_UNKNOWN"),
        ({"x-api-key": _digest("k")}, "KEY_UNKNOWN"),
        ({"x-api-key": "\ud800"}, "KEY_UNKNOWN"),
    ],
)
async def test_no_or_bad_credentials_are_unauthenticated(metadata: dict[str, str], reason: str) -> None:
    """A call without a known key is refused, counted by reason, and told nothing of what it sent."""
    door, seen = _door(_entry("k"))

    with pytest.raises(Unauthenticated) as refused:
        await door.admit("ModelInfer", "iris", "", Call(metadata=metadata))

    assert refused.value.reason == reason
    assert seen == [reason]
    assert "no-such-key" not in refused.value.message


@pytest.mark.parametrize("expires", [date(2030, 1, 31), datetime(2030, 1, 31, tzinfo=UTC)])
async def test_a_key_is_refused_from_its_day_on(clock: Any, expires: date) -> None:
    """A key is good until midnight UTC of the day on which it expires, and not after."""
    door, _ = _door(_entry("k", expires=expires), clock=clock)
    midnight = datetime(2030, 1, 31, tzinfo=UTC).timestamp()

    clock.now = midnight - 1
    await door.admit("ModelInfer", "iris", "", _call())
    clock.now = midnight
    with pytest.raises(Unauthenticated, match="expired"):
        await door.admit("ModelInfer", "iris", "", _call())


async def test_a_caller_may_have_several_keys() -> None:
    """Two keys of one caller name the same caller, each with its own scopes."""
    door, _ = _door(_entry("old", scopes=["infer"]), _entry("new", scopes=["admin"]))
    old, new = _call("old"), _call("new")

    await door.admit("ModelInfer", "iris", "", old)
    await door.admit("RepositoryModelLoad", "iris", "", new)

    assert old.caller.name == new.caller.name == "demo"


@pytest.mark.parametrize(
    ("rpc", "model", "scope"),
    [
        ("ModelInfer", "iris", "infer"),
        ("ModelStreamInfer", "iris", "infer"),
        ("ModelInfer", "iris-explainer", "explain"),
        ("ModelStreamInfer", "iris-explainer", "explain"),
        ("RepositoryModelLoad", "iris", "admin"),
        ("RepositoryModelUnload", "iris", "admin"),
    ],
)
async def test_an_rpc_needs_its_scope(rpc: str, model: str, scope: str) -> None:
    """With its one scope an RPC passes; with all others and without it, it is PERMISSION_DENIED."""
    door, _ = _door(_entry("with", scopes=[scope]), _entry("without", scopes=[s for s in ALL if s != scope]))

    await door.admit(rpc, model, "", _call("with"))
    with pytest.raises(PermissionDenied, match=f"needs the scope {scope}"):
        await door.admit(rpc, model, "", _call("without"))


@pytest.mark.parametrize("rpc", ["ModelMetadata", "ModelReady", "RepositoryIndex", "ServerMetadata", "ModelStatistics"])
async def test_to_look_needs_a_key_and_no_scope(rpc: str) -> None:
    """What only tells about models needs credentials alone."""
    door, _ = _door(_entry("k", scopes=[]))

    await door.admit(rpc, "", "", _call())
    with pytest.raises(Unauthenticated):
        await door.admit(rpc, "", "", Call())


async def test_a_model_of_others_is_refused_in_the_same_words_whether_it_exists() -> None:
    """Exact names and prefixes count, a model covers its explainer, and the refusal tells nothing of what exists."""
    door, _ = _door(_entry("k", scopes=ALL, models=["iris", "conf-*"]))
    for model in ("iris", "iris-explainer", "conf-sum", "conf-sum-explainer"):
        await door.admit("ModelInfer", model, "", _call())

    texts = set()
    for model in ("fraud-detector", "no-such-model", "irises", "fraud-detector-explainer"):
        with pytest.raises(PermissionDenied) as refused:
            await door.admit("ModelMetadata", model, "", _call())
        texts.add(refused.value.message.replace(model, "MODEL"))
    assert len(texts) == 1


async def test_a_wish_for_a_variant_without_the_scope_is_dropped() -> None:
    """It is dropped like every key of the mesh that a caller sends, and counted; the call goes on with the rest as it was."""
    door, seen = _door(_entry("may", scopes=["infer", "variant"]), _entry("may-not", scopes=["infer"]))
    may, may_not = (_call(key, x_infermesh_variant="canary", card_id="7") for key in ("may", "may-not"))

    await door.admit("ModelInfer", "iris", "", may)
    await door.admit("ModelInfer", "iris", "", may_not)

    assert may.metadata["x-infermesh-variant"] == "canary"
    assert dict(may_not.metadata) == {"x-api-key": "may-not", "card-id": "7"}
    assert seen == ["dropped"]


async def test_only_who_may_choose_variants_is_told_how_one_was_chosen() -> None:
    """The wish for it goes by the same scope as the wish for a variant, and is dropped without it."""
    door, seen = _door(_entry("may", scopes=["infer", "variant"]), _entry("may-not", scopes=["infer"]))
    may, may_not = (_call(key, x_infermesh_debug="1") for key in ("may", "may-not"))

    for call in (may, may_not):
        await door.admit("ModelInfer", "m", "", call)

    assert "x-infermesh-debug" in may.metadata
    assert "x-infermesh-debug" not in may_not.metadata
    assert seen.count("dropped") == 1


async def test_a_wish_for_a_variant_is_only_counted_where_nothing_is_refused() -> None:
    """In the mode `observe` a wish without the scope still counts for the choice."""
    door, seen = _door(_entry("k", scopes=["infer"]), enforce=False)
    call = _call(x_infermesh_variant="canary")

    await door.admit("ModelInfer", "iris", "", call)

    assert call.metadata["x-infermesh-variant"] == "canary"
    assert seen == ["dropped"]


async def test_observe_refuses_nobody_and_names_who_is_known() -> None:
    """In the mode `observe` the reasons are counted, every call passes, and a known caller is still known."""
    door, seen = _door(_entry("k", scopes=[]), enforce=False)
    stranger, known = Call(), _call()

    await door.admit("ModelInfer", "iris", "", stranger)
    await door.admit("ModelInfer", "iris", "", known)

    assert seen == ["KEY_MISSING", "SCOPE_MISSING"]
    assert (stranger.caller.name, known.caller.name) == ("", "demo")


async def test_new_keys_count_at_once_and_old_ones_no_more() -> None:
    """After a swap the keys of the new file count, all of them and no others."""
    door, _ = _door(_entry("old"))

    door.keys.swap(KeysFile.model_validate({"keys": [_entry("new")]}))

    await door.admit("ModelInfer", "iris", "", _call("new"))
    with pytest.raises(Unauthenticated):
        await door.admit("ModelInfer", "iris", "", _call("old"))


@pytest.mark.parametrize(
    "text",
    [
        "keys: [{sha256: my-secret-key, caller: a}]",
        "keys: [my-secret-key]",
        "keys: my-secret-key",
        "keys: [{sha256: [my-secret-key], caller: a}]",
        "keys: [{key: my-secret-key, caller: a}]",
    ],
)
def test_a_key_in_the_place_of_its_digest_is_in_no_message(tmp_path: Path, text: str) -> None:
    """Whoever mistakes the digest for the key is told so, and does not find the key in the log."""
    (tmp_path / "keys.yaml").write_text(text)

    with pytest.raises(ConfigError, match=r"keys") as refused:
        parse(KeysFile, tmp_path / "keys.yaml")

    assert "my-secret-key" not in str(refused.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ([_entry("k"), _entry("k")], "the same digest stands twice"),
        ([_entry("k"), _entry("k", caller="other")], "other and demo"),
        ([_entry("k", scopes=["root"])], "'infer', 'explain', 'admin' or 'variant'"),
        ([_entry("k", models=["a*b"])], "prefixes that end in"),
        ([_entry("k", expires="soon")], "expires"),
    ],
)
def test_faults_of_the_keys_file_are_refused(keys: list[dict[str, Any]], words: str) -> None:
    """A file with a fault is refused whole, and says what would be right."""
    with pytest.raises(ValueError, match=words):
        KeysFile.model_validate({"keys": keys})


async def test_every_refusal_comes_before_the_model_is_looked_for() -> None:
    """Credentials come before permission: an unknown key is UNAUTHENTICATED for a model that it could not use either."""
    door, _ = _door(_entry("k", models=[]))

    with pytest.raises(MeshError) as refused:
        await door.admit("ModelInfer", "x", "", _call("unknown"))

    assert refused.value.code == "UNAUTHENTICATED"

"""The keys file: what may stand in it, and that no part of it passes for the whole."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from infermesh.call import Caller
from infermesh.config import ConfigError, parse
from services.gateway.keys import KeysFile

DIGESTS = [hashlib.sha256(key).hexdigest() for key in (b"a", b"b", b"c")]

LINES = f"""\
keys:
- sha256: {DIGESTS[0]}
  expires: 2031-01-31
  caller: guest
  models:
  - fraud
  - iris-*
- caller: shop-eu
  tenant: shop
  sha256: {DIGESTS[1]}
  scopes: []
certificates:
- caller: carol
  scopes:
  - infer
  models: []
  expires: 2031-01-31T12:00:00+00:00
  identity: uri:spiffe://mesh/carol/other
"""

BRACES = f"""\
certificates: [{{identity: "dns:a.mesh", caller: a, models: [m]}}]
keys:
  - {{sha256: {DIGESTS[0]}, caller: guest, models: [fraud], expires: 2031-01-31}}
  - {{sha256: {DIGESTS[1]}, caller: shop, scopes: [infer]}}   # the shop's
"""

WHOLE = {
    "lines, and the end said": LINES + "...\n",
    "lines by a program": yaml.safe_dump(yaml.safe_load(LINES), explicit_end=True),
    "braces": BRACES,
    "JSON": f'{{"keys": [{{"sha256": "{DIGESTS[0]}", "caller": "a", "models": ["m"], "scopes": ["infer"]}}]}}',
}


def _granted(file: KeysFile) -> dict[str, tuple[Caller, float]]:
    """What everybody in the file may do, by digest or name."""
    entries = [(each.sha256, each) for each in file.keys] + [(each.identity, each) for each in file.certificates]
    return {
        name: (Caller(e.caller, e.tenant, frozenset(e.scopes), tuple(e.models)), e.expires_at) for name, e in entries
    }


def _parsed(folder: Path, text: str) -> KeysFile:
    (folder / "keys.yaml").write_text(text)
    return parse(KeysFile, folder / "keys.yaml")


@pytest.mark.parametrize("text", WHOLE.values(), ids=WHOLE)
def test_no_part_of_a_file_grants_what_the_whole_does_not(tmp_path: Path, text: str) -> None:
    """Wherever a file is cut off, it is refused, or has fewer entries, each as it was meant."""
    whole = _granted(_parsed(tmp_path, text)).items()
    refused = 0

    for end in range(len(text)):
        try:
            part = _parsed(tmp_path, text[:end])
        except ConfigError:
            refused += 1
            continue
        assert _granted(part).items() <= whole, text[:end]
    assert refused


@pytest.mark.parametrize("text", [LINES, yaml.safe_dump(yaml.safe_load(LINES))])
def test_a_file_that_can_t_show_its_end_says_how_it_could(tmp_path: Path, text: str) -> None:
    """At the start and in `config check` as well as while the gateway runs: nobody learns of it when a key is revoked."""
    with pytest.raises(
        ConfigError, match=r"may have been cut off; expected it in braces, `- {…}`, or the line `\.\.\.`"
    ):
        _parsed(tmp_path, text)


@pytest.mark.parametrize("field", ["models", "expires", "scopes", "tenant", "caller"])
def test_nothing_is_no_value(tmp_path: Path, field: str) -> None:
    """A field whose value was forgotten does not stand for its default."""
    with pytest.raises(ConfigError, match=rf"keys\.0\.{field}: "):
        _parsed(
            tmp_path, f"keys: [{{sha256: {DIGESTS[0]}, caller: a, {field}: }}]".replace("caller: a, caller", "caller")
        )


@pytest.mark.parametrize("expires", ["2030", "'2030'", "0", "true", "1.5", "soon", "2030-1-1", "2030-01-31T12:00:00"])
def test_a_day_is_a_day(tmp_path: Path, expires: str) -> None:
    """A number would be seconds after 1970, and a moment without its offset several moments."""
    with pytest.raises(ConfigError, match=r"keys\.0\.expires"):
        _parsed(tmp_path, f"keys: [{{sha256: {DIGESTS[0]}, caller: a, expires: {expires}}}]")


@pytest.mark.parametrize(
    ("expires", "at"),
    [
        ("2031-01-31", datetime(2031, 1, 31, tzinfo=UTC).timestamp()),
        ("'2031-01-31'", datetime(2031, 1, 31, tzinfo=UTC).timestamp()),
        ("2031-01-31T12:00:00+02:00", datetime(2031, 1, 31, 10, tzinfo=UTC).timestamp()),
        ("never", float("inf")),
    ],
)
def test_expiry_is_a_day_a_moment_or_never(tmp_path: Path, expires: str, at: float) -> None:
    """In quotes or not."""
    (key,) = _parsed(tmp_path, f"keys: [{{sha256: {DIGESTS[0]}, caller: a, expires: {expires}}}]").keys

    assert key.expires_at == at


@pytest.mark.parametrize("identity", ["dns:*.mesh", "uri:spiffe://mesh/*", "cn:*"])
def test_a_pattern_is_no_identity_of_a_caller(tmp_path: Path, identity: str) -> None:
    """Taken by its letters it would let in nobody that was meant, without a word."""
    with pytest.raises(ConfigError, match=r"certificates\.0\.identity: expected one whole name"):
        _parsed(tmp_path, f"{{keys: [], certificates: [{{identity: '{identity}', caller: a}}]}}")


@pytest.mark.parametrize(
    "text",
    [
        "keys: [{sha256: imk_my-secret_Key, caller: a}]",
        f"keys: [{{sha256: {DIGESTS[0]}, caller: a, scopes: [imk_my-secret_Key]}}]",
        f"keys: [{{sha256: {DIGESTS[0]}, caller: a, imk_my-secret_Key: 1}}]",
        f"keys: [{{sha256: {DIGESTS[0]}, caller: a, tenant: [imk_my-secret_Key]}}]",
        "{keys: [], imk_my-secret_Key: 1}",
        "{keys: [], imk_my-secret_Key: 1, imk_my-secret_Key: 2}",
        "keys: *imk_my-secret_Key",
    ],
)
def test_a_key_is_in_no_message_wherever_it_stands(tmp_path: Path, text: str) -> None:
    """Who pastes a key to the wrong place must not find it in the log."""
    with pytest.raises(ConfigError) as refused:
        _parsed(tmp_path, text)

    assert "my-secret" not in str(refused.value) + str(refused.value.faults)

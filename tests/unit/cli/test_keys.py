"""API keys."""

from __future__ import annotations

import hashlib
import stat
from datetime import date
from pathlib import Path

import pytest
import yaml

from infermesh.cli.failure import Failure
from infermesh.cli.keys import append, entry_of, remove

ENTRY = entry_of("secret", "shop", "eu", ["infer", "explain"])


def test_entry_holds_the_digest_alone():
    """A keys file never learns the key."""
    assert ENTRY["sha256"] == hashlib.sha256(b"secret").hexdigest()
    assert "secret" not in str(ENTRY)


def test_new_key_in_a_new_file(infermesh, tmp_path: Path):
    """The key goes to standard output alone, its digest to the file, which only its owner may read."""
    file = tmp_path / "keys.yaml"

    result = infermesh(
        "keys",
        "new",
        "--caller",
        "shop",
        "--scope",
        "infer",
        "--model",
        "fraud-*",
        "--expires",
        "2031-01-31",
        "--file",
        file,
    )

    key = result.out.strip()
    assert key.startswith("imk_")
    assert len(key) > 40
    assert yaml.safe_load(file.read_text()) == {
        "keys": [
            {
                "sha256": hashlib.sha256(key.encode()).hexdigest(),
                "caller": "shop",
                "tenant": "shop",
                "scopes": ["infer"],
                "models": ["fraud-*"],
                "expires": date(2031, 1, 31),
            }
        ]
    }
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key not in result.err


def test_new_key_without_a_file(infermesh):
    """Without --file the entry is printed to be pasted, apart from the key."""
    result = infermesh("keys", "new", "--caller", "shop")

    digest = hashlib.sha256(result.out.strip().encode()).hexdigest()
    assert digest in result.err
    assert "- sha256:" in result.err


@pytest.mark.parametrize(
    "text",
    [
        "keys: []\n",
        "keys:\n",
        "# who may call\nkeys: []  # none yet\n",
        "keys:\n  - {sha256: aa, caller: a, tenant: a, scopes: [infer]}   # the first\n",
        "keys:\n- sha256: aa\n  caller: a\n  tenant: a\n  scopes: [infer]\n\n# the end\n",
        "",
    ],
)
def test_append_keeps_the_rest(tmp_path: Path, text: str):
    """An entry is added at the end of the list, in its indentation; comments and the file's mode stay."""
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    file.chmod(0o640)
    before = (yaml.safe_load(text) or {}).get("keys") or []

    append(file, ENTRY)
    append(file, {**ENTRY, "caller": "second"})

    entries = yaml.safe_load(file.read_text())["keys"]
    assert entries == [*before, ENTRY, {**ENTRY, "caller": "second"}]
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        line for line in file.read_text().splitlines() if line.startswith("#")
    ]
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["keys.yaml"]


@pytest.mark.parametrize("text", ["keys: [{sha256: aa}]\n", "keys:\n  - {sha256: aa}\nother: 1\n", "list\n", "a: [\n"])
def test_append_changes_nothing_that_it_does_not_understand(tmp_path: Path, text: str):
    """A file that one more entry can't follow is refused and stays as it was."""
    file = tmp_path / "keys.yaml"
    file.write_text(text)

    with pytest.raises(Failure, match=r"keys\.yaml: "):
        append(file, ENTRY)

    assert file.read_text() == text


def test_ls(infermesh, tmp_path: Path):
    """The list shows who has a key and for what, and no whole digest."""
    file = tmp_path / "keys.yaml"
    append(file, ENTRY)
    append(file, entry_of("other", "ci", "ci", ["admin"], ["iris"], date(2020, 1, 1)))

    result = infermesh("keys", "ls", "--file", file)

    assert "shop" in result.out
    assert "infer, explain" in result.out
    assert "2020-01-01" in result.out
    assert ENTRY["sha256"] not in result.out


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--scope", "everything"], "expected one of infer, explain"), (["--expires", "soon"], "expected a day")],
)
def test_mistakes(infermesh, words, said):
    """An unknown scope or a day that is none is refused before a key is made."""
    result = infermesh("keys", "new", "--caller", "shop", *words)

    assert result.status == 2
    assert said in result.err
    assert result.out == ""


TWO = """\
# who may call
keys:
  # the shop
  - sha256: aaaaaaaaaaaa1
    caller: shop
    scopes: [infer]

  # the tests
  - {sha256: aaaaaaaaaaaa2, caller: ci}  # until May
  - sha256: bbbbbbbbbbbb1
    caller: shop
    expires: 2020-01-01
certificates:
  - {identity: "dns:a", caller: a}
"""


def _left(file: Path) -> list[str]:
    return [entry["sha256"] for entry in yaml.safe_load(file.read_text())["keys"]]


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["aaaaaaaaaaaa1"], ["aaaaaaaaaaaa2", "bbbbbbbbbbbb1"]),
        (["AAAAAAAAAAAA2"], ["aaaaaaaaaaaa1", "bbbbbbbbbbbb1"]),
        (["bbbbbbbb…"], ["aaaaaaaaaaaa1", "aaaaaaaaaaaa2"]),
        (["--caller", "shop"], ["aaaaaaaaaaaa2"]),
        (["--expired"], ["aaaaaaaaaaaa1", "aaaaaaaaaaaa2"]),
    ],
)
def test_revoke_takes_out_what_was_named_alone(infermesh, tmp_path: Path, words, left):
    """Other entries, their comments, what else is in the file, and its mode stay."""
    file = tmp_path / "keys.yaml"
    file.write_text(TWO)
    file.chmod(0o640)

    result = infermesh("keys", "revoke", *words, "--file", file)

    assert result.status == 0
    assert result.out.count("revoked") == 3 - len(left)
    assert _left(file) == left
    assert yaml.safe_load(file.read_text())["certificates"] == [{"identity": "dns:a", "caller": "a"}]
    assert "# who may call" in file.read_text()
    assert ("# until May" in file.read_text()) is ("aaaaaaaaaaaa2" in left)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_key_can_be_made_again_after_the_last_was_revoked(infermesh, tmp_path: Path):
    """A file without keys is a list without entries."""
    file = tmp_path / "keys.yaml"
    append(file, ENTRY)

    assert infermesh("keys", "revoke", "--caller", "shop", "--file", file).status == 0
    assert yaml.safe_load(file.read_text()) == {"keys": []}
    append(file, ENTRY)
    assert yaml.safe_load(file.read_text()) == {"keys": [ENTRY]}


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["aaaaaaaaaaaa"], 2, "2 keys begin so"),
        (["cccccccccccc"], 1, "there is no such key"),
        (["--caller", "nobody"], 1, "there is no such key"),
        (["aaaaaaaaaaaa1", "--expired"], 2, "expected one of"),
        (["imk_my-secret-key"], 2, "expected 8 to 64 hexadecimal digits"),
    ],
)
def test_revoke_of_what_is_not_clear_changes_nothing(infermesh, tmp_path: Path, words, status, said):
    """It says why, and does not repeat what may be a key."""
    file = tmp_path / "keys.yaml"
    file.write_text(TWO)

    result = infermesh("keys", "revoke", *words, "--file", file)

    assert result.status == status
    assert said in result.err
    assert "my-secret-key" not in result.err
    assert file.read_text() == TWO


def test_revoke_in_a_list_on_one_line_changes_nothing(tmp_path: Path):
    """What has no line of its own is not cut out of one."""
    file = tmp_path / "keys.yaml"
    file.write_text("keys: [{sha256: aa, caller: a}, {sha256: bb, caller: b}]\n")

    with pytest.raises(Failure, match="can't be taken out"):
        remove(file, lambda entry: entry["caller"] == "a")

    assert "aa" in file.read_text()

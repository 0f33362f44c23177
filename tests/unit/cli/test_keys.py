"""API keys."""

from __future__ import annotations

import hashlib
import stat
import threading
from datetime import date
from pathlib import Path

import pytest
import yaml

from infermesh.cli.failure import Failure
from infermesh.cli.keys import entry_of
from infermesh.cli.keys_file import append, remove
from infermesh.config import parse
from services.gateway.keys import KeysFile

A = "a" * 64
ENTRY = entry_of("secret", "shop", "eu", ["infer", "explain"])
SECOND = entry_of("other", "second", "eu", [])


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
    assert "- {sha256:" in result.err


@pytest.mark.parametrize(
    "text",
    [
        "keys: []\n",
        "keys:\n",
        "# who may call\nkeys: []  # none yet\n",
        f"keys:\n  - {{sha256: {A}, caller: a, tenant: a, scopes: [infer]}}   # the first\n",
        f"keys:\n- sha256: {A}\n  caller: a\n  tenant: a\n  scopes: [infer]\n\n# the end\n...\n",
        f"keys:\n- sha256: {A}\n  caller: a\ncertificates:\n# mesh\n- {{identity: 'dns:a', caller: a}}",
        "keys: []  # none yet\ncertificates:\n- {identity: 'dns:a', caller: a}\n",
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
    append(file, SECOND)

    entries = yaml.safe_load(file.read_text())["keys"]
    assert entries == [*before, ENTRY, SECOND]
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        line for line in file.read_text().splitlines() if line.startswith("#")
    ]
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert (yaml.safe_load(file.read_text()).get("certificates")) == (yaml.safe_load(text) or {}).get("certificates")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".keys.yaml.lock", "keys.yaml"]


@pytest.mark.parametrize(
    "text",
    [
        f"keys: [{{sha256: {A}, caller: a}}]\n",
        f"keys:\n  - {{sha256: {A}, caller: a}}\nother: 1\n",
        "keys:\n  - {sha256: aa, caller: a}\n",
        f"keys:\n  - sha256: {A}\n    caller: a\n",
        "list\n",
        "a: [\n",
    ],
)
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


A1, A2, B1 = "a" * 63 + "1", "a" * 62 + "2" + "a", "b" * 63 + "1"

TWO = f"""\
# who may call
keys:
  # the shop
  - sha256: {A1}
    caller: shop
    scopes: [infer]

  # the tests
  - {{sha256: {A2}, caller: ci}}  # until May
  - sha256: {B1}
    caller: shop
    expires: "2020-01-01"
certificates:
  - {{identity: "dns:a", caller: a}}
  # its certificate
  - identity: dns:shop
    caller: shop
  - {{identity: "cn:old", caller: b, expires: 2020-01-01}}
"""


def _left(file: Path) -> list[str]:
    return [entry["sha256"] for entry in yaml.safe_load(file.read_text())["keys"]]


@pytest.mark.parametrize(
    ("words", "left", "certified"),
    [
        ([A1], [A2, B1], ["dns:a", "dns:shop", "cn:old"]),
        ([A2.upper()], [A1, B1], ["dns:a", "dns:shop", "cn:old"]),
        (["bbbbbbbb…"], [A1, A2], ["dns:a", "dns:shop", "cn:old"]),
        (["--caller", "shop"], [A2], ["dns:a", "cn:old"]),
        (["--caller", "a"], [A1, A2, B1], ["dns:shop", "cn:old"]),
        (["--expired"], [A1, A2], ["dns:a", "dns:shop"]),
    ],
)
def test_revoke_takes_out_what_was_named_alone(infermesh, tmp_path: Path, words, left, certified):
    """Keys and certificates; other entries, their comments, what else is in the file, and its mode stay."""
    file = tmp_path / "keys.yaml"
    file.write_text(TWO)
    file.chmod(0o640)

    result = infermesh("keys", "revoke", *words, "--file", file)

    assert result.status == 0
    assert result.out.count("revoked") == 6 - len(left) - len(certified)
    assert ("revoked dns:shop of shop" in result.out) is ("dns:shop" not in certified)
    assert _left(file) == left
    assert [each["identity"] for each in yaml.safe_load(file.read_text())["certificates"]] == certified
    assert "# who may call" in file.read_text()
    assert ("# until May" in file.read_text()) is (A2 in left)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    parse(KeysFile, file)


def test_the_last_certificate_may_go(infermesh, tmp_path: Path):
    """A list without entries is left, and the end of the file is said where an entry in lines has become the last."""
    file = tmp_path / "keys.yaml"
    file.write_text(
        "certificates:\n  - {identity: 'dns:a', caller: a}\n"
        f"keys:\n- sha256: {A1}\n  caller: b\n- {{sha256: {B1}, caller: a}}\n"
    )

    assert infermesh("keys", "revoke", "--caller", "a", "--file", file).status == 0

    assert yaml.safe_load(file.read_text()) == {"certificates": [], "keys": [{"sha256": A1, "caller": "b"}]}
    assert file.read_text().endswith("caller: b\n...\n")
    parse(KeysFile, file)


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
        ([A1, "--expired"], 2, "expected one of"),
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
    file.write_text(f"keys: [{{sha256: {A1}, caller: a}}, {{sha256: {B1}, caller: b}}]\n")

    with pytest.raises(Failure, match="can't be taken out"):
        remove(file, lambda entry: entry["caller"] == "a")

    assert A1 in file.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "a*b"], "prefixes that end in"),
        (["--tenant", "t" * 129], "at most 128 characters"),
    ],
)
def test_what_the_gateway_would_refuse_is_not_written(infermesh, tmp_path: Path, words, said):
    """Nor is a key printed that nobody could use, with a file or without."""
    file = tmp_path / "keys.yaml"
    append(file, ENTRY)
    before = file.read_text()

    for where in (["--file", file], []):
        result = infermesh("keys", "new", "--caller", "shop", *words, *where)
        assert (result.status, result.out) == (2, "")
        assert said in " ".join(result.err.split())
    assert file.read_text() == before


def test_a_file_that_may_be_cut_off_is_not_made_whole(infermesh, tmp_path: Path):
    """What was written by us says that it is whole; so we write no more to what may lack its end."""
    file = tmp_path / "keys.yaml"
    text = f"keys:\n- {{sha256: {B1}, caller: a}}\n- sha256: {A1}\n  caller: b\n"
    file.write_text(text)

    for words in (["new", "--caller", "shop"], ["revoke", "--caller", "a"]):
        result = infermesh("keys", *words, "--file", file)
        assert result.status == 2
        assert "may have been cut off" in result.err
    assert file.read_text() == text


def test_ls_shows_certificates_too(infermesh, tmp_path: Path):
    """Whoever looks for what a caller can do must find all of it."""
    file = tmp_path / "keys.yaml"
    file.write_text(TWO)

    result = infermesh("keys", "ls", "--file", file)

    for name in ("dns:a", "dns:shop", "cn:old", A1[:12]):
        assert name in result.out


def test_a_link_stays_one(infermesh, tmp_path: Path):
    """The file that it leads to is the one that changes."""
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "keys.yaml", tmp_path / "keys.yaml"
    append(real, ENTRY)
    link.symlink_to("real/keys.yaml")

    assert infermesh("keys", "revoke", "--caller", "shop", "--file", link).status == 0

    assert link.is_symlink()
    assert yaml.safe_load(real.read_text()) == {"keys": []}


def test_owner_and_mode_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A gateway that runs as somebody else can still read the file; where that can't be kept nothing is changed."""
    file = tmp_path / "keys.yaml"
    append(file, ENTRY)
    before = file.read_text()
    mine = file.stat()
    real, asked = Path.stat, []

    class Others:
        st_uid, st_gid, st_mode = mine.st_uid + 1, mine.st_gid + 1, 0o100640

    monkeypatch.setattr(Path, "stat", lambda self, **k: Others if self == file else real(self, **k))
    monkeypatch.setattr("os.chown", lambda *given: asked.append(given[1:]))
    append(file, entry_of("third", "ci", "ci", ["admin"]))
    assert asked == [(mine.st_uid + 1, mine.st_gid + 1)]
    assert stat.S_IMODE(real(file).st_mode) == 0o640

    def refused(*_: object) -> None:
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr("os.chown", refused)
    after = file.read_text()
    with pytest.raises(Failure, match="with its owner and mode: not permitted"):
        append(file, SECOND)
    assert before != after == file.read_text()
    assert sorted(each.name for each in tmp_path.iterdir()) == [".keys.yaml.lock", "keys.yaml"]


def test_changes_at_the_same_time_are_all_made(tmp_path: Path):
    """Between reading the file and replacing it nobody else changes it: a key that was revoked does not come back."""
    file = tmp_path / "keys.yaml"
    append(file, entry_of("leaked", "leaked", "t", ["infer"]))
    begun = threading.Event()

    def revoke() -> None:
        def goes(entry: dict) -> bool:
            if not begun.is_set():  # read, and not replaced yet
                begun.set()
                other.join(0.2)  # which waits for us; without a lock it would be through by now
            return entry["caller"] == "leaked"

        remove(file, goes)

    def add() -> None:
        begun.wait(10)
        append(file, ENTRY)

    other = threading.Thread(target=add)
    other.start()
    revoke()
    other.join(10)

    assert [entry["caller"] for entry in yaml.safe_load(file.read_text())["keys"]] == ["shop"]

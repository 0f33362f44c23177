"""The cache on disk: verified, bounded, and whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations import http

from services.predictor.load_failed import LoadFailed
from services.predictor.source import Source

Open = Callable[..., Source]
SIZE = 100_000


def put(store: Any, *models: str) -> None:
    for name in models:
        store.put(f"{name}/1/model.onnx", hashlib.shake_128(name.encode()).digest(SIZE))


def model_file(source: Source, name: str) -> Path:
    source.look(name)
    return source.version_folder(name, "1") / "model.onnx"


def test_a_corrupt_file_is_downloaded_anew(index: Any, open_root: Open) -> None:
    """At a warm start each file is read once: a bit that fell over on the disk is never served."""
    put(index, "m")
    path = model_file(open_root(index), "m")
    path.chmod(0o644)
    path.write_bytes(b"?" + path.read_bytes()[1:])
    restarted = open_root(index)

    again = model_file(restarted, "m")

    assert again.read_bytes() == index.files["models/m/1/model.onnx"]
    assert (restarted.counts.corrupt, restarted.counts.downloads) == (1, 1)


def test_a_file_that_is_missing_is_downloaded_anew(index: Any, open_root: Open) -> None:
    """Somebody who cleans up in the cache costs a download, no more."""
    put(index, "m")
    path = model_file(open_root(index), "m")
    path.unlink()
    for each in path.parents[2].glob("objects/*/*"):
        each.unlink()

    assert model_file(open_root(index), "m").stat().st_size == SIZE


@pytest.mark.parametrize("text", ["", "[1]", '{"model.onnx": 1}', '{"model.onnx": {"sha256": "../../x"}}'])
def test_notes_that_can_not_be_read_cost_a_download(text: str, pages: Any, open_root: Open, cache: Path) -> None:
    """What another release or a damaged disk made of the cache's own files is nothing that was known."""
    put(pages, "m")
    path = model_file(open_root(pages), "m")
    for note in [*cache.glob("roots/*/m/*.json"), *cache.glob("roots/*/m/.*.json")]:
        note.write_text(text)

    again = model_file(open_root(pages), "m")

    assert again == path and again.stat().st_size == SIZE


def test_content_that_is_not_what_was_listed_is_refused(index: Any, open_root: Open, cache: Path) -> None:
    """Damage on the way is told by the checksum in index.json, and nothing of it stays."""
    put(index, "m")
    index.answer = lambda reply: reply.path.endswith("model.onnx") and reply.send(200, b"?" * SIZE)

    with pytest.raises(LoadFailed, match=r'"model\.onnx": expected sha256 [0-9a-f]{64} as listed, got'):
        model_file(open_root(index), "m")

    assert not [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size == SIZE]


def test_a_file_that_is_longer_than_listed_does_not_fill_the_disk(index: Any, open_root: Open) -> None:
    """The download ends where the listing said that it would."""
    put(index, "m")
    index.answer = lambda reply: reply.path.endswith("model.onnx") and reply.send(200, b"?" * (50 * SIZE))

    with pytest.raises(LoadFailed, match="expected 100000 bytes as listed, more came"):
        model_file(open_root(index), "m")


def test_a_file_that_changes_during_its_download_is_loaded_as_it_is_then(pages: Any, open_root: Open) -> None:
    """Where there is no checksum the root is asked again after the download."""
    put(pages, "m")
    changes = iter([True])

    def change(reply: Any) -> bool:
        if reply.method == "GET" and reply.path.endswith("model.onnx") and next(changes, False):
            before = pages.files["models/m/1/model.onnx"]
            pages.put("m/1/model.onnx", before[::-1])
            return bool(reply.send(200, before))
        return False

    source = open_root(pages)
    source.look("m")
    pages.answer = change

    path = source.version_folder("m", "1") / "model.onnx"

    assert path.read_bytes() == pages.files["models/m/1/model.onnx"]


def test_an_etag_that_is_no_checksum_is_not_held_against_the_file(s3: Any, open_root: Open) -> None:
    """Objects that are encrypted with a KMS key, or were uploaded in parts, have ETags that are no MD5 of their content."""
    s3.put("m/1/model.onnx", b"graph", ServerSideEncryption="aws:kms")
    upload = s3.client.create_multipart_upload(Bucket=s3.bucket, Key="models/m/2/model.onnx")
    about = {"Bucket": s3.bucket, "Key": "models/m/2/model.onnx", "UploadId": upload["UploadId"]}
    parts = [
        {"PartNumber": number, "ETag": s3.client.upload_part(**about, PartNumber=number, Body=body)["ETag"]}
        for number, body in enumerate([b"a" * 5 * 2**20, b"b"], 1)
    ]
    s3.client.complete_multipart_upload(**about, MultipartUpload={"Parts": parts})
    source = open_root(s3)
    source.look("m")

    folders = [source.version_folder("m", version) for version in "12"]

    assert [(folder / "model.onnx").stat().st_size for folder in folders] == [5, 5 * 2**20 + 1]


def test_what_was_not_used_for_longest_goes_when_room_is_needed(index: Any, open_root: Open, cache: Path) -> None:
    """The bound is held, and a version that is loaded is never removed."""
    put(index, "a", "b", "c", "d")
    source = open_root(index, max_bytes="250kB")
    a, b = model_file(source, "a"), model_file(source, "b")
    source.used(frozenset({a.parent, b.parent}))
    source.used(frozenset({a.parent}))

    c = model_file(source, "c")

    assert (a.exists(), b.exists(), c.exists()) == (True, False, True)
    assert source.counts.evictions == 1
    with pytest.raises(LoadFailed, match=r"100000 bytes to download, 50000 more than there is room for .*in use"):
        model_file(source, "d")
    assert a.exists() and c.exists()


def test_use_counts_over_restarts(index: Any, open_root: Open) -> None:
    """What the last process used last stays longest."""
    put(index, "a", "b", "c")
    first = open_root(index)
    a, b = model_file(first, "a"), model_file(first, "b")
    first.used(frozenset({a.parent, b.parent}))
    first.used(frozenset())
    os.utime(a.parent.with_suffix(".lock"), (2, 2))
    os.utime(b.parent.with_suffix(".lock"), (1, 1))

    model_file(open_root(index, max_bytes="250kB"), "c")

    assert a.exists() and not b.exists()


def test_a_version_larger_than_the_cache_is_refused_before_its_download(index: Any, open_root: Open) -> None:
    """The reason names the setting."""
    put(index, "m")

    with pytest.raises(LoadFailed, match=r"100000 bytes, more than repository\.cache\.max_bytes, which is 50000B"):
        model_file(open_root(index, max_bytes="50kB"), "m")

    assert index.downloads() == []


def test_a_full_disk_fails_one_version_only(
    index: Any, open_root: Open, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """The reason says where no space is left; what was written goes, and other models load."""
    put(index, "m", "other")
    source = open_root(index)
    source.look("m")
    fsync = os.fsync
    full = iter([True])

    def no_space(descriptor: int) -> None:
        if next(full, False):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    source.used(frozenset())
    monkeypatch.setattr(os, "fsync", no_space)

    with pytest.raises(LoadFailed, match=r"no space left in .*cache"):
        source.version_folder("m", "1")
    assert not [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size == SIZE]
    assert model_file(source, "other").exists()


def test_a_disk_that_is_full_in_the_middle_of_a_download(
    index: Any, open_root: Open, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write that finds no space fails the version, at once and with the reason; nothing of it stays; a smaller one loads."""
    put(index, "m")
    index.put("small/1/model.onnx", b"small")
    written = 0

    class Disk(io.FileIO):
        def write(self, data: Any) -> int:
            nonlocal written
            written += len(data)
            if written > SIZE // 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(http, "open", Disk, raising=False)
    source = open_root(index)

    with pytest.raises(LoadFailed, match=r"no space left in .*cache"):
        model_file(source, "m")

    assert len(index.downloads()) == 1  # a full disk is no reason to ask again
    assert not [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size >= SIZE // 2]
    written = 0
    assert model_file(source, "small").read_bytes() == b"small"


FULL = """
import sys
from services.predictor.config import CacheConfig
from services.predictor.load_failed import LoadFailed
from services.predictor.source import open_source
import shutil
shutil.disk_usage = lambda path: type("Usage", (), {"free": 2**40})  # else it is seen before the download
source = open_source(sys.argv[1], CacheConfig(folder=sys.argv[2]), {})
try:
    source.look("m")
    source.version_folder("m", "1")
except LoadFailed as failed:
    print("failed:", failed)
source.look("small")
print(source.version_folder("small", "1").joinpath("model.onnx").read_bytes())
"""


def test_a_disk_that_fills_during_a_download(index: Any, tmp_path: Path) -> None:
    """On a real file system of 1 MiB: the large model fails with its reason, and leaves room for the small one."""
    index.put("m/1/model.onnx", os.urandom(3 * 2**20))
    index.put("small/1/model.onnx", b"small")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=1m tmpfs {disk} && exec {sys.executable} -c '{FULL}' {index.url} {disk}"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*command, f"mount -t tmpfs tmpfs {disk}"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system of his own")

    done = subprocess.run([*command, mount], capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[4])

    assert done.stdout.splitlines()[0].startswith(f"failed: no space left in {disk}"), done.stderr
    assert done.stdout.splitlines()[1] == "b'small'"


@pytest.mark.parametrize("name", ["m/1/../../../../escaped", "m/1/a\\..\\b", "m/1//escaped", "m/1/x\x01"])
def test_names_that_lead_elsewhere_are_refused(name: str, index: Any, open_root: Open, tmp_path: Path) -> None:
    """Names come from the store: none is written outside the cache, and the other versions are not harmed."""
    put(index, "m")
    index.put("m/2/model.onnx", b"graph")
    index.put(name, b"escaped")
    source = open_root(index)
    source.look("m")

    with pytest.raises(LoadFailed, match="is no name for a file of a version"):
        source.version_folder("m", "1")

    assert (source.version_folder("m", "2") / "model.onnx").read_bytes() == b"graph"
    assert not list(tmp_path.rglob("*escaped*"))


@pytest.mark.parametrize("text", [b"no json", b"[]", b'{"files": {"m/1/model.onnx": {"size": "5"}}}'])
def test_an_index_that_can_not_be_read_says_its_form(text: bytes, index: Any, open_root: Open) -> None:
    """Whoever wrote it sees what would be right."""
    index.answer = lambda reply: reply.path.endswith("index.json") and reply.send(200, text)

    with pytest.raises(LoadFailed, match=r"index\.json: .*expected"):
        open_root(index).look("m")

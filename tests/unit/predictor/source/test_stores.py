"""What each kind of remote root has in common, over real HTTP."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.predictor.load_failed import LoadFailed
from services.predictor.source import Source, SourceAway

Open = Callable[..., Source]


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def load(source: Source, model: str, version: str) -> dict[str, bytes]:
    assert source.look(model) is not None
    return files(source.version_folder(model, version))


def test_models_and_versions_are_those_of_the_root(store: Any, open_root: Open) -> None:
    """Folders below the root are models, folders below them versions; files beside them and hidden ones are none."""
    for name in ("a/1/model.onnx", "a/10/model.onnx", "b/2/model.onnx", "b/draft/model.onnx", ".git/1/model.onnx"):
        store.put(name, name.encode())
    store.put("readme.txt", b"text")
    source = open_root(store)

    look = source.look("a")

    assert source.models() == ["a", "b"]
    assert look is not None and sorted(look.versions) == ["1", "10"]
    assert sorted(source.look("b").versions) == ["2", "draft"]  # type: ignore[union-attr]
    assert source.look("c") is None


def test_a_version_comes_with_its_external_data(store: Any, open_root: Open) -> None:
    """Files in folders below the version keep their places; hidden files stay where they are; names may have blanks."""
    data = os.urandom(300_000)
    store.put("m/1/model.onnx", b"graph")
    store.put("m/1/weights/part 1#.bin", data)
    store.put("m/1/.cache/x", b"somebody's tool")
    store.put("m/1/empty", b"")

    loaded = load(open_root(store), "m", "1")

    assert loaded == {"model.onnx": b"graph", "weights/part 1#.bin": data, "empty": b""}


def test_settings_come_without_the_versions(store: Any, open_root: Open) -> None:
    """config.yaml and the data for warm-ups are fetched, no model file is."""
    store.put("m/config.yaml", b"labels: {}")
    store.put("m/warm_up/x.npy", b"rows")
    store.put("m/1/model.onnx", b"graph")
    source = open_root(store)
    look = source.look("m")

    folder = source.settings_folder("m")

    assert files(folder) == {"config.yaml": b"labels: {}", "warm_up/x.npy": b"rows"}
    assert look is not None and list(look.versions) == ["1"]
    assert store.downloads() == []


def test_a_model_without_settings_has_an_empty_folder(store: Any, open_root: Open) -> None:
    """There is a folder to look for config.yaml in, in any case."""
    store.put("m/1/model.onnx", b"graph")

    assert files(open_root(store).settings_folder("m")) == {}


def test_a_warm_start_downloads_nothing(store: Any, open_root: Open) -> None:
    """A second process finds what the first one downloaded, by asking the root for its listing alone."""
    store.put("m/1/model.onnx", b"graph")
    load(open_root(store), "m", "1")
    before = len(store.downloads())
    second = open_root(store)

    loaded = load(second, "m", "1")

    assert loaded == {"model.onnx": b"graph"}
    assert before == 1 and len(store.downloads()) == before
    assert (second.counts.hits, second.counts.downloads) == (1, 0)


def test_a_new_file_makes_a_new_look_and_a_new_folder(store: Any, open_root: Open) -> None:
    """What was replaced is loaded from another folder, so that the old one serves on; what stayed is not downloaded again."""
    store.put("m/1/model.onnx", b"graph one")
    store.put("m/1/weights.bin", b"weights")
    source = open_root(store)
    first, folder = source.look("m"), source.version_folder("m", "1")

    store.put("m/1/model.onnx", b"graph two")
    second, replaced = source.look("m"), source.version_folder("m", "1")

    assert first != second and first is not None and second is not None and first.settings == second.settings
    assert files(folder)["model.onnx"] == b"graph one" and files(replaced)["model.onnx"] == b"graph two"
    assert source.counts.downloads == 3


def test_a_version_that_was_removed_is_gone(store: Any, open_root: Open) -> None:
    """It is in no look, and can't be loaded, although the cache has its files."""
    store.put("m/1/model.onnx", b"one")
    store.put("m/2/model.onnx", b"two")
    source = open_root(store)
    load(source, "m", "1")

    store.delete("m/1/model.onnx")
    look = source.look("m")

    assert look is not None and list(look.versions) == ["2"]
    with pytest.raises(LoadFailed, match=r'version "1" is no longer in the root'):
        source.version_folder("m", "1")


def test_versions_of_equal_content_share_one_copy(store: Any, open_root: Open, cache: Path) -> None:
    """Files are kept by content: two models with the same file take its size once."""
    content = os.urandom(50_000)
    store.put("a/1/model.onnx", content)
    store.put("b/7/model.onnx", content)
    source = open_root(store)

    folders = [source.version_folder(name, version) for name, version in (("a", "1"), ("b", "7"))]
    source.used(frozenset(folders))

    assert len([path for path in (cache / "objects").rglob("*") if path.is_file()]) == 1
    assert source.counts.cache_bytes < 60_000


def test_a_root_that_is_not_there_is_away(store: Any, open_root: Open) -> None:
    """A bucket or folder that does not exist is no empty repository: nothing is unloaded because of a typing error."""
    store.put("m/1/model.onnx", b"graph")
    source = open_root(type("Other", (), {"url": store.url + "-not", "options": store.options}))

    with pytest.raises(SourceAway, match=r"-not.*not found|-not.*NotFound|access refused"):
        source.models()
    with pytest.raises(SourceAway):
        source.look("m")


def test_equal_weights_of_two_versions_are_downloaded_once(s3: Any, open_root: Open) -> None:
    """S3 tells the MD5 of an object: a new version of a graph over the same weights costs the graph."""
    for version in ("1", "2"):
        s3.put(f"m/{version}/model.onnx", version.encode())
        s3.put(f"m/{version}/weights.bin", b"weights" * 1000)
    source = open_root(s3)

    loaded = [load(source, "m", version) for version in ("1", "2")]

    assert [each["model.onnx"] for each in loaded] == [b"1", b"2"]
    assert loaded[0]["weights.bin"] == loaded[1]["weights.bin"] == b"weights" * 1000
    assert source.counts.downloads == 3


def test_a_root_may_be_the_whole_bucket(s3: Any, open_root: Open) -> None:
    """Without a folder the models are right below the bucket."""
    s3.put("1/model.onnx", b"graph")
    source = open_root(type("Whole", (), {"url": f"s3://{s3.bucket}/", "options": s3.options}))

    assert source.models() == ["models"]
    assert load(source, "models", "1") == {"model.onnx": b"graph"}

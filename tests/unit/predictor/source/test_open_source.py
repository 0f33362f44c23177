"""Roots as they are configured: which source each becomes, and what is refused at start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infermesh.config import ConfigError
from infermesh.config.load import load
from services.predictor.config import CacheConfig, PredictorConfig, RepositoryConfig
from services.predictor.load_failed import LoadFailed
from services.predictor.source import Folder, Source, SourceAway, open_source, root_url

Open = Callable[..., Source]


def put(root: Path, name: str, content: bytes = b"graph") -> Path:
    folder = root / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    return folder


def test_a_folder_is_read_where_it_is(tmp_path: Path) -> None:
    """A path and its file:// URL are the same root; nothing of it is copied into a cache."""
    folder = put(tmp_path, "a b")

    for location in (str(tmp_path), tmp_path.as_uri()):
        source = open_source(location)
        assert isinstance(source, Folder)
        assert source.version_folder("a b", "1") == folder


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("ftp://host/models", r"ftp://host/models: unknown scheme ftp://; expected a folder, file://, s3://, gs://"),
        ("s3://", r"expected s3://<bucket or host>/<folder>"),
        ("https://host/models?token=abc", r"https://host/models: a root has no query"),
        ("file://elsewhere/models", r"expected file:///<folder>, on this machine"),
    ],
)
def test_a_root_that_can_not_be_is_refused_at_start(location: str, words: str) -> None:
    """Before anything is asked of it, and without what may be secret."""
    with pytest.raises(ValueError, match=words) as refused:
        open_source(location)

    assert "abc" not in str(refused.value)


@pytest.mark.parametrize(
    ("location", "words"),
    [
        (
            "ftp://me:hidden@host/models",
            "unknown scheme ftp://; expected a folder, file://, s3://, gs://, http:// or https",
        ),
        ("s3://", "expected s3://<bucket or host>/<folder>"),
        ("https://host/models?token=hidden", "a root has no query"),
        ("file://elsewhere/models", "expected file:///<folder>, on this machine"),
    ],
)
@pytest.mark.parametrize("form", ["root: '{}'", "root: [samples, '{}']"])
def test_a_root_that_can_not_be_is_found_by_config_check(location: str, words: str, form: str, tmp_path: Path) -> None:
    """Before the deployment, with its path in the file and without what may be secret."""
    file = tmp_path / "predictor.yaml"
    file.write_text(f"repository: {{{form.format(location)}}}")

    with pytest.raises(ConfigError, match=words) as refused:
        load(PredictorConfig, file, {})

    assert "repository.root" in str(refused.value) and "hidden" not in str(refused.value)


def test_config_check_needs_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is checked on a machine that serves nothing; there the extra of its roots may be missing."""
    monkeypatch.setattr(root_url, "find_spec", lambda module: None)

    assert RepositoryConfig(root=["s3://bucket/models", "gs://bucket/models"]).root


@pytest.mark.parametrize(("location", "extra"), [("s3://b/m", "s3"), ("gs://b/m", "gcs")])
def test_a_missing_extra_is_named(location: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts it reads what to install."""
    monkeypatch.setattr(root_url, "find_spec", lambda module: None)

    with pytest.raises(ValueError, match=rf"is not installed; pip install 'infermesh\[{extra}\]'"):
        open_source(location)


def test_who_logs_in_is_never_shown(index: Any, cache: Path) -> None:
    """A user and password in a URL are used, and are in no error, log or folder name."""
    index.put("m/1/model.onnx", b"graph")
    given: list[str] = []

    def who(reply: Any) -> bool:
        given.append(reply.handler.headers["Authorization"])
        return False

    index.answer = who
    source = open_source(index.url.replace("://", "://me:hidden@"), CacheConfig(folder=cache), {})
    source.look("m")

    source.version_folder("m", "1")

    assert given and all(value.startswith("Basic ") for value in given)
    assert "hidden" not in source.location
    assert not [path for path in cache.rglob("*") if "hidden" in path.name]
    assert not [path for path in cache.rglob("*") if path.is_file() and b"hidden" in path.read_bytes()]


def test_headers_of_the_options_are_sent(index: Any, cache: Path) -> None:
    """A web server that wants a token is given it, with each request."""
    index.put("m/1/model.onnx", b"graph")
    index.answer = lambda reply: reply.handler.headers["X-Token"] != "t" and reply.send(401)
    options = {"http": {"headers": {"X-Token": "t"}}}

    assert open_source(index.url, CacheConfig(folder=cache), options).models() == ["m"]
    with pytest.raises(SourceAway, match=r"access refused \(401\)"):
        open_source(index.url, CacheConfig(folder=cache)).models()


def test_storage_options_hide_their_secrets() -> None:
    """`config show` prints addresses and no credentials."""
    config = RepositoryConfig(
        storage_options={
            "s3": {"endpoint_url": "http://u:p@minio:9000", "secret": "s", "client_kwargs": {"region_name": "eu"}},
            "https": {"headers": {"Cookie": "c"}},
        }
    )

    assert config.model_dump(mode="json")["storage_options"] == {
        "s3": {"endpoint_url": "http://…@minio:9000", "secret": "…", "client_kwargs": {"region_name": "eu"}},
        "https": {"headers": {"Cookie": "…"}},
    }


def test_several_roots_are_one(tmp_path: Path, index: Any, cache: Path) -> None:
    """Folders and URLs together: each model is loaded from the root that has it."""
    put(tmp_path / "folder", "a")
    index.put("b/1/model.onnx", b"remote")
    source = open_source([str(tmp_path / "folder"), index.url], CacheConfig(folder=cache))

    names = source.models()
    contents = [(source.version_folder(name, "1") / "model.onnx").read_bytes() for name in names]

    assert names == ["a", "b"] and contents == [b"graph", b"remote"]
    assert source.look("c") is None
    assert source.counts.downloads == 1


def test_a_name_in_two_roots_is_refused(tmp_path: Path) -> None:
    """Nobody can tell which one was meant; the other models are not harmed."""
    one, two = tmp_path / "one", tmp_path / "two"
    for root, name in ((one, "m"), (two, "m"), (two, "n")):
        put(root, name)
    source = open_source([str(one), str(two)])

    assert source.models() == ["m", "n"]
    with pytest.raises(LoadFailed, match=rf'model "m" is in {one} and {two}; expected it in one root'):
        source.look("m")
    with pytest.raises(LoadFailed, match="expected it in one root"):
        source.version_folder("m", "1")
    assert source.look("n") is not None


def test_a_root_that_is_away_hides_no_other(tmp_path: Path) -> None:
    """Its models stay those that it had, so that none is unloaded; whether it has another can't be known."""
    one, two = tmp_path / "one", tmp_path / "two"
    put(one, "a")
    put(two, "b")
    source = open_source([str(one), str(two)])
    source.models()

    one.rename(tmp_path / "unmounted")

    assert source.models() == ["a", "b"]
    assert source.look("b") is not None
    two.rename(tmp_path / "unmounted too")
    assert source.models() == ["a", "b"]


def test_all_roots_away_at_the_start_is_an_error(tmp_path: Path) -> None:
    """An empty repository would look as if somebody had wanted it."""
    source = open_source([str(tmp_path / "one"), str(tmp_path / "two")])

    with pytest.raises(SourceAway, match=r"one is no folder; .*two is no folder"):
        source.models()


def test_a_root_named_twice_is_refused(tmp_path: Path) -> None:
    """Each of its models would be in two roots."""
    with pytest.raises(ValueError, match="named twice"):
        open_source([str(tmp_path), str(tmp_path)])

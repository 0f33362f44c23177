"""What a load may ask for by parameters."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.errors import InvalidRequest, NotFound, Unavailable
from infermesh.protocol import open_inference_pb2 as pb

X = np.array([1, 2], np.float32)


def load(model: str = "m", **parameters: Any) -> pb.RepositoryModelLoadRequest:
    request = pb.RepositoryModelLoadRequest(model_name=model)
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", bytes: "bytes_param"}
    for name, value in parameters.items():
        if value is None:
            request.parameters[name].SetInParent()
        else:
            setattr(request.parameters[name], kinds[type(value)], value)
    return request


@pytest.mark.parametrize("parameters", [{}, {"unload_dependents": True}, {"somebody's": "own"}])
async def test_a_load_with_what_is_not_ours_is_a_load(serve: Any, put: Any, models: Any, parameters: Any) -> None:
    """Parameters that are not known are ignored."""
    put("m", 1, models.add(1))
    predictor = await serve(models=[])

    await predictor.load(load(**parameters), Call())

    assert await predictor.ready("m")


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"config": "{}"}, 'parameter "config": a model is served from the files of the repository'),
        ({"file:1/model.onnx": b"x"}, 'parameter "file:1/model.onnx": a model is served from the files'),
        ({"infermesh_profile": 1}, "expected infermesh_profile_requests or infermesh_version"),
        ({"infermesh_version": "1"}, "goes with infermesh_profile_requests"),
        ({"infermesh_profile_requests": 0}, "expected an int64 of at least 1"),
        ({"infermesh_profile_requests": "5"}, "expected an int64 of at least 1"),
        ({"infermesh_profile_requests": None}, "expected an int64 of at least 1"),
        ({"infermesh_profile_requests": 1, "infermesh_version": 1}, "expected a string"),
        ({"infermesh_profile_requests": 1, "infermesh_version": "beta"}, "expected a number"),
    ],
)
async def test_what_can_not_be_done_is_refused(serve: Any, put: Any, models: Any, parameters: Any, words: str) -> None:
    """A client that sends a model or its configuration is told why not, and nothing is loaded for it."""
    put("m", 1, models.add(1))
    predictor = await serve()
    version = predictor.repository.resolve("m", "")

    with pytest.raises(InvalidRequest, match=words):
        await predictor.load(load(**parameters), Call())

    assert predictor.repository.resolve("m", "") is version


async def test_a_version_is_profiled_without_a_load(
    serve: Any, put: Any, models: Any, ask: Any, tmp_path: Path
) -> None:
    """The next requests of the version that is named, by number or label, are recorded; what answers stays loaded."""
    root = tmp_path / "root"
    for version in (1, 2):
        put("root/m", version, models.add(version))
    (root / "m/config.yaml").write_text("labels: {stable: 1}")
    predictor = await serve(root, profile_folder=tmp_path / "profiles")
    version = predictor.repository.resolve("m", "stable")

    await predictor.load(load(infermesh_profile_requests=2, infermesh_version="stable"), Call())
    for _ in range(3):
        await predictor.infer(ask("m", x=X, version="1"), Call())
    async with asyncio.timeout(20):
        while not list((tmp_path / "profiles").glob("*.json")):
            await asyncio.sleep(0.001)

    assert predictor.repository.resolve("m", "stable") is version


async def test_only_what_is_loaded_is_profiled(serve: Any, put: Any, models: Any) -> None:
    """An unknown model or version is NOT_FOUND, as ever."""
    put("m", 1, models.add(1))
    predictor = await serve()

    for model, version in (("other", "1"), ("m", "7")):
        with pytest.raises(NotFound):
            await predictor.load(load(model, infermesh_profile_requests=2, infermesh_version=version), Call())


async def test_a_profile_has_an_end_as_a_load_has(
    serve: Any, put: Any, models: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Making its session is bounded by `load_timeout`; one that is made after all records nothing."""
    put("root/m", 1, models.add(1))
    predictor = await serve(
        tmp_path / "root", repository={"load_timeout": "500ms"}, profile_folder=tmp_path / "profiles"
    )
    session = predictor.repository.resolve("m", "").session
    go_on, made = threading.Event(), session.profile

    def slow(requests: int) -> Path:
        go_on.wait(20)
        return Path(made(requests))

    monkeypatch.setattr(session, "profile", slow)

    with pytest.raises(Unavailable, match=r'"m" version 1: no profile: still loading after 500ms'):
        await predictor.load(load(infermesh_profile_requests=1), Call())
    go_on.set()
    async with asyncio.timeout(20):
        while not list((tmp_path / "profiles").glob("*.json")):  # ended, with nothing of a request
            await asyncio.sleep(0.001)


async def test_a_profile_of_a_version_that_goes_meanwhile_is_ended(
    serve: Any, put: Any, models: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its session, with weights of its own, does not outlive the version that was unloaded while it was made."""
    put("root/m", 1, models.add(1))
    predictor = await serve(tmp_path / "root", profile_folder=tmp_path / "profiles")
    session = predictor.repository.resolve("m", "").session
    begun, go_on, made = threading.Event(), threading.Event(), session.profile

    def slow(requests: int) -> Path:
        begun.set()
        go_on.wait(20)
        return Path(made(requests))

    monkeypatch.setattr(session, "profile", slow)
    profiling = asyncio.ensure_future(predictor.load(load(infermesh_profile_requests=9), Call()))
    async with asyncio.timeout(20):
        while not begun.is_set():
            await asyncio.sleep(0.001)

    await predictor.repository.unload("m")
    go_on.set()

    with pytest.raises(Unavailable, match=r'"m" version 1: it was unloaded meanwhile'):
        await profiling
    async with asyncio.timeout(20):
        while not list((tmp_path / "profiles").glob("*.json")):
            await asyncio.sleep(0.001)

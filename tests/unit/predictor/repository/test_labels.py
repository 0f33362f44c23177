"""Version policy and labels of a repository that is served."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.errors import FailedPrecondition, InvalidRequest, NotFound, Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from tests.unit.predictor.repository.repository_state import answered

X = np.array([1, 2], np.float32)


def index(predictor: Any) -> dict[str, tuple[str, str]]:
    return {m.version: (m.state, m.reason) for m in predictor.repository.index().models}


@pytest.fixture
def configure(tmp_path: Path, put: Any, models: Any) -> Any:
    """`configure("labels: {stable: 1}", 1, 2)`: the model `m` with this configuration, and these versions beside what it has."""

    def configure(text: str, *versions: int) -> None:
        for version in versions:
            put("m", version, models.add(version))
        (tmp_path / "m/config.yaml").write_text(text)

    return configure


async def test_the_policy_decides_what_is_loaded(serve: Any, configure: Any, ask: Any, put: Any, models: Any) -> None:
    """With `latest` the newest are loaded; a newer one takes the place of the oldest at the next load."""
    configure("versions: {latest: 2}", 1, 2, 3)
    predictor = await serve()
    assert index(predictor) == {"2": ("READY", ""), "3": ("READY", "")}
    put("m", 4, models.add(4))

    await predictor.repository.load("m")

    assert index(predictor) == {"3": ("READY", ""), "4": ("READY", "")}
    with pytest.raises(NotFound, match="no version 1, it has 3, 4"):
        await predictor.infer(ask("m", x=X, version="1"), Call())


async def test_a_specific_version_that_is_not_there_is_in_the_index(serve: Any, configure: Any, ask: Any) -> None:
    """It is not ready, with the reason; the load reports it."""
    configure("versions: {specific: [1, 7]}", 1, 2)
    predictor = await serve()

    reason = "versions.specific of config.yaml names it, and there is no folder m/7/"
    assert index(predictor) == {"1": ("READY", ""), "7": ("UNAVAILABLE", reason)}
    with pytest.raises(Unavailable, match=r"version 7: is not loaded: versions.specific"):
        await predictor.infer(ask("m", x=X, version="7"), Call())
    with pytest.raises(FailedPrecondition, match=r"version 7: versions.specific"):
        await predictor.repository.load("m")


async def test_a_label_stands_for_its_version_in_every_rpc(serve: Any, configure: Any, ask: Any) -> None:
    """A label is taken where a version is; the answer carries the number."""
    configure("labels: {stable: 1, canary: 2}", 1, 2, 3)
    predictor = await serve()
    name, version = "m", "stable"

    assert await answered(predictor, ask("m", x=X, version="stable")) == ("1", [2, 3])
    assert await answered(predictor, ask("m", x=X, version="canary")) == ("2", [3, 4])
    assert await answered(predictor, ask("m", x=X)) == ("3", [4, 5])
    assert await predictor.ready(name, version)
    assert (await predictor.metadata(pb.ModelMetadataRequest(name=name, version=version), Call())).name == "m"
    assert (await predictor.config(pb.ModelConfigRequest(name=name, version=version), Call())).config.name == "m"
    asked = pb.ModelStatisticsRequest(name=name, version=version)
    (statistics,) = (await predictor.statistics(asked, Call())).model_stats
    assert statistics.version == "1"
    assert predictor.repository.labels("m") == {"stable": 1, "canary": 2}


async def test_a_label_that_is_not_declared_is_refused_with_those_that_are(
    serve: Any, configure: Any, ask: Any
) -> None:
    """INVALID_ARGUMENT with the labels that there are; nothing of it is started."""
    configure("labels: {stable: 1, canary: 1}", 1)
    predictor = await serve()

    with pytest.raises(InvalidRequest, match='a number or one of its labels stable, canary, got "beta"') as refused:
        await predictor.infer(ask("m", x=X, version="beta"), Call())

    assert refused.value.rejected


async def test_a_label_of_a_version_that_is_not_loaded_is_not_ready(
    serve: Any, configure: Any, put: Any, ask: Any
) -> None:
    """It is declared, so it is UNAVAILABLE with the reason, and not ready; the load reports it and the index has it."""
    configure("labels: {stable: 1, next: 2, later: 5}", 1)
    put("m", 2, b"no model")
    predictor = await serve()

    assert predictor.repository.labels("m") == {"stable": 1}
    with pytest.raises(Unavailable, match=r"label next: is not loaded: model.onnx is no ONNX model"):
        await predictor.infer(ask("m", x=X, version="next"), Call())
    with pytest.raises(Unavailable, match="label later: is not loaded: label later is to point to this version"):
        await predictor.infer(ask("m", x=X, version="later"), Call())
    assert not await predictor.ready("m", "next")
    with pytest.raises(FailedPrecondition, match=r"label next is to point to this version, which is not loaded"):
        await predictor.repository.load("m")
    assert index(predictor)["5"] == (
        "UNAVAILABLE",
        "label later is to point to this version, which is not loaded",
    )


async def test_a_label_moves_with_the_load_or_not_at_all(
    serve: Any, configure: Any, put: Any, models: Any, ask: Any
) -> None:
    """Where the new version fails the label stays where it was, and the load says so; when it loads, the label moves."""
    configure("labels: {stable: 1}", 1)
    predictor = await serve()
    configure("labels: {stable: 2}")
    put("m", 2, b"no model")

    with pytest.raises(FailedPrecondition, match="which is not loaded; it stays at version 1"):
        await predictor.repository.load("m")
    assert await answered(predictor, ask("m", x=X, version="stable")) == ("1", [2, 3])

    put("m", 2, models.add(2))
    await predictor.repository.load("m")
    assert await answered(predictor, ask("m", x=X, version="stable")) == ("2", [3, 4])
    assert index(predictor) == {"1": ("READY", ""), "2": ("READY", "")}


async def test_a_label_does_not_outlive_its_version(serve: Any, configure: Any, ask: Any, tmp_path: Path) -> None:
    """A version that goes takes the label with it: the label is not ready, and never points to what is closed."""
    configure("labels: {stable: 1}", 1, 2)
    predictor = await serve()
    shutil.rmtree(tmp_path / "m/1")

    with pytest.raises(FailedPrecondition, match="version 1: label stable is to point to this version"):
        await predictor.repository.load("m")

    with pytest.raises(Unavailable, match="label stable: is not loaded"):
        await predictor.infer(ask("m", x=X, version="stable"), Call())


async def test_labels_of_an_unloaded_model_are_not_ready(serve: Any, configure: Any, ask: Any) -> None:
    """An unload is no failure: the label is known, its version is not loaded."""
    configure("labels: {stable: 1}", 1)
    predictor = await serve(strict=True)

    await predictor.repository.unload("m")

    with pytest.raises(Unavailable, match="label stable: is not loaded: unloaded"):
        await predictor.infer(ask("m", x=X, version="stable"), Call())
    assert index(predictor) == {"1": ("UNAVAILABLE", "unloaded")}
    assert await predictor.ready()


@pytest.mark.parametrize("text", ["labels: {Stable: 1}", "labels: {'1': 1}", "versions: {newest: 1}", "labels: ["])
async def test_a_broken_configuration_keeps_what_is_loaded(
    serve: Any, configure: Any, put: Any, models: Any, ask: Any, text: str
) -> None:
    """What answers goes on, labels too; nothing new is loaded, and every version says why. Mending the file is enough."""
    configure("labels: {stable: 1}", 1)
    predictor = await serve()
    configure(text, 2)

    with pytest.raises(FailedPrecondition, match=r"config.yaml"):
        await predictor.repository.load("m")

    assert await answered(predictor, ask("m", x=X, version="stable")) == ("1", [2, 3])
    states = index(predictor)
    assert [states[version][0] for version in ("1", "2")] == ["READY", "UNAVAILABLE"]
    assert all("config.yaml" in reason for _, reason in states.values())

    configure("labels: {stable: 2}")
    await predictor.repository.load("m")
    assert await answered(predictor, ask("m", x=X, version="stable")) == ("2", [3, 4])
    assert {reason for _, reason in index(predictor).values()} == {""}


async def test_a_label_moves_under_load_without_a_failed_call(serve: Any, configure: Any, ask: Any) -> None:
    """Callers of a label see the old version or the new one, and no error, while it goes to and fro."""
    configure("labels: {stable: 1}", 1, 2)
    predictor = await serve(inline_below="0s")
    moving, seen = True, set()

    async def caller() -> None:
        while moving:
            seen.add((await answered(predictor, ask("m", x=X, version="stable")))[0])
            await asyncio.sleep(0)

    callers = [asyncio.ensure_future(caller()) for _ in range(8)]
    for turn in range(10):
        configure(f"labels: {{stable: {turn % 2 + 1}}}")
        await predictor.repository.load("m")
        assert await answered(predictor, ask("m", x=X, version="stable")) == (
            str(turn % 2 + 1),
            [2 + turn % 2, 3 + turn % 2],
        )
    moving = False
    await asyncio.gather(*callers)

    assert seen == {"1", "2"}

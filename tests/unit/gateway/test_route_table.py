"""Tests of which route a call takes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from infermesh.call import Call, Caller
from infermesh.errors import InvalidRequest, NotFound, Unavailable, Unimplemented
from infermesh.protocol import open_inference_pb2 as pb
from services.gateway.routes import RoutesFile

ROUTES = [
    {"prefix": "", "backend": "one"},
    {"prefix": "conf-", "backend": "two"},
    {"prefix": "conf-s", "backend": "one"},
    {"model": "conf-sum", "backend": "two"},
]


@pytest.mark.parametrize(
    ("model", "backend", "label"),
    [
        ("conf-sum", "two", "conf-sum"),
        ("conf-slow", "one", "conf-s*"),
        ("conf-echo", "two", "conf-*"),
        ("iris", "one", "*"),
        ("conf-sum-explainer", "two", "conf-sum-explainer"),
        ("conf-echo-explainer", "two", "conf-*-explainer"),
        ("-explainer", "one", "*"),
    ],
)
async def test_a_name_of_its_own_wins_then_the_longest_prefix(
    make_mesh: Any, ask: Any, model: str, backend: str, label: str
) -> None:
    """The order of the file does not matter; an explainer takes its model's route; labels are what the routes say."""
    mesh = make_mesh(ROUTES)

    await mesh.table.infer(ask(model), Call())

    assert [name for name, _, _ in mesh.backends[backend].asked] == [model]
    assert mesh.table.label(model) == label
    assert mesh.picks(label, "default", "weight") == 1


async def test_a_model_without_a_route_is_not_found(make_mesh: Any, ask: Any) -> None:
    """Every RPC that names a model without a route is NOT_FOUND, and one without a name INVALID_ARGUMENT; neither is a label."""
    mesh = make_mesh(ROUTES[1:])
    for model, error in (("iris", NotFound), ("iris-explainer", NotFound), ("", InvalidRequest)):
        for asking in (
            mesh.table.infer(ask(model, "no-such-version"), Call()),
            mesh.table.metadata(pb.ModelMetadataRequest(name=model), Call()),
            mesh.table.load(pb.RepositoryModelLoadRequest(model_name=model), Call()),
            mesh.table.config(pb.ModelConfigRequest(name=model), Call()),
        ):
            with pytest.raises(error) as refused:
                await asking
            assert refused.value.rejected
        assert mesh.table.label(model) == ""
    with pytest.raises(NotFound, match='model "iris": no route for it'):
        await mesh.table.ready("iris")


async def test_calls_in_flight_keep_the_old_table(make_mesh: Any, ask: Any, settle: Any) -> None:
    """A call that is under way when the routes change is answered by the backend that it went to; the next one by the new."""
    mesh = make_mesh([{"model": "m", "backend": "one"}])
    mesh.backends["one"].state["wait"] = go_on = asyncio.Event()
    under_way = asyncio.ensure_future(mesh.table.infer(ask("m", id="old"), Call()))
    await settle()

    renamed = [{"name": "fresh", "weight": 1, "version": 5}]
    file = RoutesFile.model_validate({"routes": [{"model": "m", "backend": "two", "variants": renamed}]})
    mesh.table.swap(file)
    new = await mesh.table.infer(ask("m", id="new"), Call())
    go_on.set()
    old = await under_way

    assert (old.id, old.parameters["infermesh_variant"].string_param) == ("old", "default")
    assert (new.id, new.model_version, new.parameters["infermesh_variant"].string_param) == ("new", "5", "fresh")
    assert [len(mesh.backends[name].asked) for name in ("one", "two")] == [1, 1]


async def test_a_table_that_can_not_be_compiled_leaves_the_old_one(make_mesh: Any, ask: Any) -> None:
    """A swap that fails changes nothing: the table is compiled whole before it is taken."""
    mesh = make_mesh([{"model": "m", "backend": "one"}])
    bad = RoutesFile.model_validate({"routes": [{"model": "m", "backend": "two"}, {"model": "x", "backend": "gone"}]})

    with pytest.raises(KeyError):
        mesh.table.swap(bad)

    await mesh.table.infer(ask("m"), Call())
    assert len(mesh.backends["one"].asked) == 1


async def test_the_index_is_that_of_all_backends(make_mesh: Any) -> None:
    """Each version once, ready where one backend has it ready; what has no route, or is not the caller's, is left out."""
    mesh = make_mesh(
        [{"model": "a", "backend": "one"}, {"model": "b", "backend": "two"}, {"model": "c", "backend": "two"}]
    )
    mesh.backends["one"].state["index"] = [("a", "READY"), ("b", "UNAVAILABLE"), ("no-route", "READY")]
    mesh.backends["two"].state["index"] = [("b", "READY"), ("c", "READY")]

    index = await mesh.table.index(pb.RepositoryIndexRequest(), Call())
    restricted = await mesh.table.index(pb.RepositoryIndexRequest(), Call(caller=Caller("x", models=("b",))))

    assert [(e.name, e.state) for e in index.models] == [("a", "READY"), ("b", "READY"), ("c", "READY")]
    assert [e.name for e in restricted.models] == ["b"]


async def test_load_and_unload_go_to_every_backend_of_the_route(make_mesh: Any) -> None:
    """Variants and shadows alike, each under its own name; a model that one of them does not have is no failure."""
    variants = [{"name": "a", "weight": 1}, {"name": "b", "weight": 1, "model": "m2", "backend": "two"}]
    shadows = [{"name": "s", "fraction": 0.1, "backend": "two"}]
    mesh = make_mesh([{"model": "m", "backend": "one", "variants": variants, "shadows": shadows}])

    await mesh.table.load(pb.RepositoryModelLoadRequest(model_name="m"), Call())
    assert [sorted(mesh.backends[name].loaded) for name in ("one", "two")] == [["m"], ["m", "m2"]]

    mesh.backends["one"].loaded.clear()
    await mesh.table.unload(pb.RepositoryModelUnloadRequest(model_name="m"), Call())
    assert mesh.backends["two"].loaded == []
    with pytest.raises(NotFound):
        await mesh.table.unload(pb.RepositoryModelUnloadRequest(model_name="m"), Call())


async def test_a_load_that_fails_somewhere_is_told(make_mesh: Any) -> None:
    """When one backend can't load the model, the caller hears of it."""
    variants = [{"name": "a", "weight": 1}, {"name": "b", "weight": 1, "backend": "two"}]
    mesh = make_mesh([{"model": "m", "backend": "one", "variants": variants}])
    mesh.backends["two"].state["error"] = Unavailable("away")

    with pytest.raises(Unavailable):
        await mesh.table.load(pb.RepositoryModelLoadRequest(model_name="m"), Call())


async def test_what_no_backend_keeps_is_unimplemented(make_mesh: Any) -> None:
    """Configuration and statistics are the backend's, and so is that it has none."""
    mesh = make_mesh([{"model": "m", "backend": "one"}])

    with pytest.raises(Unimplemented):
        await mesh.table.config(pb.ModelConfigRequest(name="m"), Call())
    with pytest.raises(Unimplemented):
        await mesh.table.statistics(pb.ModelStatisticsRequest(name="m"), Call())

"""Tests of which variant answers."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from infermesh.call import Call
from infermesh.errors import InvalidRequest, NotFound, Unavailable
from infermesh.protocol import open_inference_pb2 as pb

DRAWS = 100_000
Z_999 = 3.2905  # of the normal distribution, two-sided 99.9 %

FRAUD = {
    "model": "fraud",
    "backend": "one",
    "variants": [
        {"name": "stable", "version": 1, "weight": 90},
        {"name": "canary", "version": 2, "weight": 10, "backend": "two"},
        {"name": "next", "version": 3, "weight": 0, "backend": "two"},
    ],
}
STICKY = FRAUD | {"sticky": {"metadata": "x-card"}}
OVERRIDE = "x-infermesh-variant"


async def test_shares_are_the_weights(make_mesh: Any, ask: Any) -> None:
    """Of 100,000 calls each variant gets its share, within the 99.9 % bound of a binomial; one without weight gets none."""
    mesh = make_mesh([FRAUD], draw=random.Random(20_240_601).random)
    request, call = ask("fraud"), Call()

    for _ in range(DRAWS):
        await mesh.table.infer(request, call)

    canary = mesh.picks("fraud", "canary", "weight")
    assert abs(canary - 0.1 * DRAWS) <= Z_999 * math.sqrt(DRAWS * 0.1 * 0.9)
    assert mesh.picks("fraud", "stable", "weight") == DRAWS - canary
    assert mesh.picks("fraud", "next", "weight") == 0


@pytest.mark.parametrize("draw", [0.0, 0.5, math.nextafter(1.0, 0.0)])
async def test_no_draw_falls_on_a_variant_without_weight(make_mesh: Any, ask: Any, draw: float) -> None:
    """The smallest and the largest number that can be drawn fall on variants with weight, wherever those without stand."""
    thirds = [{"name": f"v{n}", "weight": weight} for n, weight in enumerate((0, 0.1, 0.2, 0.7, 0))]
    mesh = make_mesh([{"model": "m", "backend": "one", "variants": thirds}], draw=lambda: draw)

    response = await mesh.table.infer(ask("m"), Call())

    assert response.parameters["infermesh_variant"].string_param in ("v1", "v2", "v3")


async def test_the_variant_is_told_below_and_above(make_mesh: Any, ask: Any) -> None:
    """The backend is asked for the variant's version and told its name; the response names it, the request stays as it was."""
    mesh = make_mesh([FRAUD], draw=lambda: 0.95)
    request, call = ask("fraud", id="7"), Call(request_id="r")
    before = request.SerializeToString()

    response = await mesh.table.infer(request, call)

    ((model, version, below),) = mesh.backends["two"].asked
    assert (model, version, below.variant, below.request_id) == ("fraud", "2", "canary", "r")
    assert (response.model_name, response.model_version, response.id) == ("fraud", "2", "7")
    assert response.parameters["infermesh_variant"].string_param == "canary"
    assert request.SerializeToString() == before
    assert call.variant == ""


async def test_a_card_stays_on_its_variant(make_mesh: Any, ask: Any) -> None:
    """Calls with the same key get the same variant, whatever is drawn; a call without one is split and counted as a miss."""
    mesh = make_mesh([STICKY], draw=random.Random(1).random)
    answered: dict[str, set[str]] = {}

    for card in [f"c{n}" for n in range(40)] * 3:
        response = await mesh.table.infer(ask("fraud"), Call(metadata={"x-card": card}))
        answered.setdefault(card, set()).add(response.model_version)
    await mesh.table.infer(ask("fraud"), Call())

    assert all(len(versions) == 1 for versions in answered.values())
    assert {version for versions in answered.values() for version in versions} == {"1", "2"}
    assert mesh.value("infermesh_gateway_sticky_misses_total", model="fraud") == 1
    assert mesh.picks("fraud", "stable", "sticky") + mesh.picks("fraud", "canary", "sticky") == 120


async def test_an_explanation_is_of_the_variant_that_the_card_gets(make_mesh: Any, ask: Any) -> None:
    """The explainer uses the model's route and sticky key, and another backend where the route names one."""
    mesh = make_mesh([STICKY | {"explanations": {"backend": "explainer"}}])

    for card in [f"c{n}" for n in range(30)]:
        call = Call(metadata={"x-card": card})
        predicted = await mesh.table.infer(ask("fraud"), call)
        explained = await mesh.table.infer(ask("fraud-explainer"), call)
        assert explained.model_version == predicted.model_version
        assert explained.parameters["infermesh_variant"] == predicted.parameters["infermesh_variant"]

    assert {model for model, _, _ in mesh.backends["explainer"].asked} == {"fraud-explainer"}
    assert len(mesh.backends["explainer"].asked) == 30


async def test_without_a_backend_of_its_own_the_variants_backend_explains(make_mesh: Any, ask: Any) -> None:
    """A route through the transformer sends explanations there too."""
    mesh = make_mesh([FRAUD])

    await mesh.table.infer(ask("fraud-explainer"), Call())

    assert [model for model, _, _ in mesh.backends["one"].asked] == ["fraud-explainer"]


@pytest.mark.parametrize(("version", "variant"), [("1", "stable"), ("02", "canary"), ("3", "next")])
async def test_a_version_that_is_asked_for_bypasses_the_split(
    make_mesh: Any, ask: Any, version: str, variant: str
) -> None:
    """A listed version is answered by its variant, with or without weight, and counted apart."""
    mesh = make_mesh([STICKY])

    response = await mesh.table.infer(ask("fraud", version), Call(metadata={"x-card": "c1"}))

    assert response.model_version == str(int(version))
    assert mesh.picks("fraud", variant, "version") == 1
    assert mesh.picks("fraud", variant, "sticky") == 0


@pytest.mark.parametrize(
    ("version", "error", "words"),
    [
        ("9", NotFound, "no version 9, its route lists 1, 2, 3"),
        ("latest", InvalidRequest, "expected a number"),
        ("1.0", InvalidRequest, "expected a number"),
        ("-1", InvalidRequest, "expected a number"),
    ],
)
async def test_a_version_that_the_route_does_not_list_is_refused(
    make_mesh: Any, ask: Any, version: str, error: type[Exception], words: str
) -> None:
    """What is not listed is NOT_FOUND, what is no number INVALID_ARGUMENT, in every RPC that names a version."""
    mesh = make_mesh([FRAUD])

    for asking in (
        mesh.table.infer(ask("fraud", version), Call()),
        mesh.table.metadata(pb.ModelMetadataRequest(name="fraud", version=version), Call()),
        mesh.table.ready("fraud", version),
        mesh.table.infer(ask("fraud-explainer", version), Call()),
    ):
        with pytest.raises(error, match=words):
            await asking


@pytest.mark.parametrize("version", ["5", "latest"])
async def test_a_route_without_versions_passes_any_on(make_mesh: Any, ask: Any, version: str) -> None:
    """Where no version is listed the backend says whether there is one: it alone can check the model first."""
    mesh = make_mesh([{"prefix": "", "backend": "one"}])

    await mesh.table.infer(ask("anything", version), Call())

    assert mesh.backends["one"].asked[0][:2] == ("anything", version)
    assert mesh.picks("*", "default", "version") == 1


LABELLED = {
    "model": "fraud",
    "backend": "one",
    "variants": [
        {"name": "a", "version": "stable", "weight": 1},
        {"name": "b", "version": 2, "weight": 0, "backend": "two"},
        {"name": "c", "version": 10, "weight": 0, "backend": "two"},
    ],
}


async def test_a_label_that_the_route_lists_may_be_asked_for(make_mesh: Any, ask: Any) -> None:
    """A variant's version may be a label: the backend is asked for it, callers may be too, and metadata lists it."""
    mesh = make_mesh([LABELLED])

    await mesh.table.infer(ask("fraud"), Call())
    await mesh.table.infer(ask("fraud", "stable"), Call())
    await mesh.table.infer(ask("fraud", "002"), Call())
    metadata = await mesh.table.metadata(pb.ModelMetadataRequest(name="fraud", version="stable"), Call())

    assert [asked[:2] for asked in mesh.backends["one"].asked[:2]] == [("fraud", "stable")] * 2
    assert mesh.backends["two"].asked[0][:2] == ("fraud", "2")
    assert mesh.picks("fraud", "a", "version") == 1
    assert list(metadata.versions) == ["2", "10", "stable"]


async def test_a_label_that_the_route_does_not_list_is_no_version(make_mesh: Any, ask: Any) -> None:
    """The refusal names the labels that the route lists; a number that it does not list is NOT_FOUND as ever."""
    mesh = make_mesh([LABELLED])

    with pytest.raises(InvalidRequest, match='expected a number or one of its labels stable, got "canary"'):
        await mesh.table.infer(ask("fraud", "canary"), Call())
    with pytest.raises(NotFound, match="no version 3, its route lists 2, 10, stable"):
        await mesh.table.infer(ask("fraud", "3"), Call())
    with pytest.raises(InvalidRequest, match="the variant a is version stable, and version 2 was asked for"):
        await mesh.table.infer(ask("fraud", "2"), Call(metadata={OVERRIDE: "a"}))


async def test_a_variant_may_be_asked_for_by_its_name(make_mesh: Any, ask: Any) -> None:
    """The variant header chooses past the split; one that does not exist is NOT_FOUND, one at odds with a version refused."""
    mesh = make_mesh([FRAUD])
    canary = Call(metadata={OVERRIDE: "canary"})

    assert (await mesh.table.infer(ask("fraud"), canary)).model_version == "2"
    assert (await mesh.table.infer(ask("fraud", "2"), canary)).model_version == "2"
    assert mesh.picks("fraud", "canary", "header") == 2
    with pytest.raises(NotFound, match='no variant "none", it has stable, canary, next'):
        await mesh.table.infer(ask("fraud"), Call(metadata={OVERRIDE: "none"}))
    with pytest.raises(InvalidRequest, match="leave one of them out"):
        await mesh.table.infer(ask("fraud", "1"), canary)


async def test_a_model_may_have_another_name_below(make_mesh: Any, ask: Any) -> None:
    """The backend is asked for its own name, its explainer likewise; the caller sees the name it asked for, and is told."""
    variants = [{"name": "a", "weight": 1, "version": 4, "model": "fraud-v4"}]
    mesh = make_mesh([{"model": "fraud", "backend": "one", "variants": variants}])

    response = await mesh.table.infer(ask("fraud"), Call())
    explained = await mesh.table.infer(ask("fraud-explainer"), Call())
    metadata = await mesh.table.metadata(pb.ModelMetadataRequest(name="fraud"), Call())

    assert [model for model, _, _ in mesh.backends["one"].asked] == ["fraud-v4", "fraud-v4-explainer"]
    assert (response.model_name, explained.model_name, metadata.name) == ("fraud", "fraud-explainer", "fraud")
    assert response.parameters["infermesh_model"].string_param == "fraud-v4"


async def test_metadata_is_of_the_heaviest_that_can_tell(make_mesh: Any) -> None:
    """The heaviest variant describes the model, the next one while it is away; the versions are those that the route lists."""
    mesh = make_mesh([FRAUD])
    asked = pb.ModelMetadataRequest(name="fraud")

    heaviest = await mesh.table.metadata(asked, Call())
    mesh.backends["one"].state["error"] = Unavailable("away")
    next_one = await mesh.table.metadata(asked, Call())
    mesh.backends["two"].state["error"] = Unavailable("away too")

    assert (heaviest.platform, next_one.platform) == ("one 1", "two 2")
    assert list(heaviest.versions) == ["1", "2", "3"]
    with pytest.raises(Unavailable, match=r"^away$"):
        await mesh.table.metadata(asked, Call())


async def test_a_model_is_ready_when_one_variant_is(make_mesh: Any) -> None:
    """Any variant with weight is enough; when none can be asked, the error is the answer; the gateway itself is ready."""
    mesh = make_mesh([FRAUD])
    one, two = mesh.backends["one"].state, mesh.backends["two"].state

    one["ready"] = False
    assert await mesh.table.ready("fraud")
    assert not await mesh.table.ready("fraud", "1")
    two["ready"] = False
    assert not await mesh.table.ready("fraud")
    one["error"] = two["error"] = NotFound("no such model")
    with pytest.raises(NotFound):
        await mesh.table.ready("fraud")
    assert await mesh.table.ready()


async def test_a_stream_is_signed_like_a_single_answer(make_mesh: Any, ask: Any) -> None:
    """Each answer of a stream names the variant, which is picked once."""
    mesh = make_mesh([FRAUD], draw=lambda: 0.95)

    answers = [response async for response in mesh.table.stream(ask("fraud"), Call())]

    assert [a.parameters["infermesh_variant"].string_param for a in answers] == ["canary"]
    assert mesh.picks("fraud", "canary", "weight") == 1

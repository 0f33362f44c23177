"""What the filter hands over, and when."""

from __future__ import annotations

import asyncio
import json

import pytest

from infermesh.call import Call
from infermesh.errors import Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from services.gateway.payload.frames import CALL, SHAPES
from services.gateway.payload.logged import PayloadLogged


class Offered(list):
    def __call__(self, kind, *parts):
        self.append((kind, parts))
        return True


def request_of(model="fraud", size=4):
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[b"x" * size])
    request.inputs.add(name="x", datatype="UINT8", shape=[1, size])
    return request


async def answering(request, call):
    response = pb.ModelInferResponse(model_name=request.model_name, model_version="3")
    response.parameters["infermesh_variant"].string_param = "stable"
    response.outputs.add(name="y", datatype="FP32", shape=[1]).contents.fp32_contents.append(0.5)
    return response


def logging_all(offered, **changed):
    options = {"label": lambda model: model, "share": 1.0, "wall": lambda: 1_700_000_000.25}
    return PayloadLogged(offer=offered, **{**options, **changed})


async def test_nothing_is_done_before_the_answer_is_back():
    """The call has its answer when the messages are serialised."""
    offered = Offered()
    request = request_of()

    response = await logging_all(offered)(request, Call(request_id="r1"), answering)
    assert offered == []
    await asyncio.sleep(0)

    ((kind, (head, asked, answered)),) = offered
    assert kind == CALL
    assert pb.ModelInferRequest.FromString(asked) == request
    assert pb.ModelInferResponse.FromString(answered) == response
    assert json.loads(head) == {
        "time": 1_700_000_000.25,
        "request_id": "r1",
        "model": "fraud",
        "route": "fraud",
        "answered": "fraud",
        "version": "3",
        "variant": "stable",
        "bytes": [len(asked), len(answered)],
    }


async def test_a_call_that_fails_is_not_logged():
    offered = Offered()

    async def failing(request, call):
        raise Unavailable("away")

    with pytest.raises(Unavailable):
        await logging_all(offered)(request_of(), Call(), failing)
    await asyncio.sleep(0)

    assert offered == []


async def test_of_a_large_call_the_shapes_are_handed_over():
    """One byte over the bound, and no value of a tensor is in it."""
    request, offered = request_of(size=1000), Offered()
    size = request.ByteSize() + (await answering(request, Call())).ByteSize()

    await logging_all(offered, max_call=size)(request, Call(), answering)
    await logging_all(offered, max_call=size - 1)(request, Call(), answering)
    await asyncio.sleep(0)

    (whole, _), (kind, parts) = offered
    assert (whole, kind) == (CALL, SHAPES)
    (head,) = parts
    assert json.loads(head)["inputs"] == [{"name": "x", "datatype": "UINT8", "shape": [1, 1000]}]
    assert json.loads(head)["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [1]}]
    assert b"xxxx" not in head


async def test_what_is_handed_over_of_a_large_call_is_bounded():
    """Names, ranks and numbers of tensors are the caller's own."""
    request, offered = pb.ModelInferRequest(model_name="m" * 10_000), Offered()
    for number in range(1000):
        request.inputs.add(name=f"{number}" * 1000, datatype="FP32" * 1000, shape=[1] * 1000)

    await logging_all(offered, max_call=0)(request, Call(request_id="r" * 10_000), answering)
    await asyncio.sleep(0)

    ((_, (head,)),) = offered
    assert len(json.loads(head)["inputs"]) == 64
    assert len(head) < 64 * 1024


async def test_models_have_their_own_shares():
    """An exact name before globs, those in their order, then the share of all others; 100,000 ids need no memory."""
    offered = Offered()
    log = logging_all(offered, share=0.0, models={"*-explainer": 0.0, "fraud*": 1.0, "fraud-explainer": 1.0})

    for model in ("fraud", "fraud-2", "iris", "iris-explainer", "fraud-explainer", "fraud-2-explainer"):
        await log(request_of(model), Call(request_id="r"), answering)
    await asyncio.sleep(0)

    assert [json.loads(parts[0])["model"] for _, parts in offered] == ["fraud", "fraud-2", "fraud-explainer"]


async def test_routes_that_come_and_go_do_not_grow_it():
    log = logging_all(Offered(), share=0.0)

    for number in range(25_000):
        await log(request_of(f"model-{number}"), Call(request_id=str(number)), answering)

    assert len(log._shares) <= 10_000

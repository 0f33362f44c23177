"""A caller that is no hop of the mesh."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from infermesh.call import Call
from infermesh.config import ServerConfig
from infermesh.errors import DeadlineExceeded, ResourceExhausted, Unavailable, Unimplemented
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService, stack
from infermesh.transport import Server
from infermesh.transport.outside import OutsideCaller


class Echo(InferenceService):
    """Answers with what came beside the message; some models fail."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()  # of a stream

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        if request.model_name == "busy":
            raise ResourceExhausted("come back", retry_after_s=1.5)
        if request.model_name == "slow":
            await asyncio.Event().wait()
        response = pb.ModelInferResponse(model_name=request.model_name)
        for key, value in call.metadata.items():
            response.parameters[key].string_param = value
        return response

    async def stream(self, request: pb.ModelInferRequest, call: Call) -> AsyncIterator[pb.ModelInferResponse]:
        try:
            for number in range(3):
                if request.model_name == "breaks" and number == 2:
                    raise ResourceExhausted("come back", retry_after_s=1.5)
                response = pb.ModelInferResponse(model_name=request.model_name)
                response.outputs.add(name=f"{number} {call.metadata['x-api-key']}")
                yield response
            if request.model_name == "waits":
                await asyncio.Event().wait()
        finally:
            self.ended.set()

    async def ready(self, model: str = "", version: str = "") -> bool:
        return True


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def target(echo: Echo) -> AsyncIterator[str]:
    server = Server("echo", ServerConfig(host="127.0.0.1", grpc_port=0), inside_mesh=False)
    server.mount(stack(service=echo))
    await server.start()
    await server.set_ready(True)
    yield f"127.0.0.1:{server.port}"
    await server.stop(0)


async def test_key_and_metadata_go_with_the_call(target: str):
    """The key travels as x-api-key, beside what the call itself adds."""
    with OutsideCaller(target, "secret", metadata=[("x-user-id", "7")]) as caller:
        request = pb.ModelInferRequest(model_name="m")

        response = await asyncio.to_thread(caller.infer, request, [("x-more", "1")])

    sent = {key: parameter.string_param for key, parameter in response.parameters.items()}
    assert (sent["x-api-key"], sent["x-user-id"], sent["x-more"]) == ("secret", "7", "1")


async def test_a_status_becomes_our_error(target: str):
    """Code, text and pushback arrive as the error of the mesh that they are."""
    with OutsideCaller(target) as caller, pytest.raises(ResourceExhausted, match="come back") as refused:
        await asyncio.to_thread(caller.infer, pb.ModelInferRequest(model_name="busy"))

    assert refused.value.retry_after_s == 1.5


async def test_every_call_has_an_end(target: str):
    """The deadline of the caller holds for each call."""
    with OutsideCaller(target, timeout_s=0.1) as caller, pytest.raises(DeadlineExceeded):
        await asyncio.to_thread(caller.infer, pb.ModelInferRequest(model_name="slow"))


async def test_server_rpcs(target: str):
    """Readiness and name of the server."""
    with OutsideCaller(target) as caller:
        assert await asyncio.to_thread(caller.is_ready)
        assert (await asyncio.to_thread(caller.server)).name == "infermesh-echo"


def test_nobody_there():
    """A target where nobody listens is UNAVAILABLE, named in the text."""
    with OutsideCaller("127.0.0.1:1") as caller, pytest.raises(Unavailable, match=r"127\.0\.0\.1:1: ") as refused:
        caller.is_ready()

    assert refused.value.rejected


async def test_an_rpc_beside_oip_is_asked_by_its_name(target: str):
    """The key goes along, the answer is of the type asked for, and one that is not offered is UNIMPLEMENTED."""
    with OutsideCaller(target, "secret") as caller:
        request = pb.ModelInferRequest(model_name="m")

        answer = await asyncio.to_thread(
            caller.call, "inference.GRPCInferenceService/ModelInfer", request, pb.ModelInferResponse
        )
        with pytest.raises(Unimplemented):
            await asyncio.to_thread(caller.call, "some.Service/Method", request, pb.ModelInferResponse)

    assert (answer.model_name, answer.parameters["x-api-key"].string_param) == ("m", "secret")


async def test_a_stream_of_answers(target: str):
    """They come in their order, with the caller's key, and no mark of an end among them."""
    with OutsideCaller(target, "secret") as caller:
        answers = await asyncio.to_thread(lambda: list(caller.stream(pb.ModelInferRequest(model_name="m"))))

    assert [answer.outputs[0].name for answer in answers] == ["0 secret", "1 secret", "2 secret"]


async def test_an_error_within_a_stream(target: str):
    """It is raised as if it were a status, after the answers before it."""
    with OutsideCaller(target, "secret") as caller:
        answers = caller.stream(pb.ModelInferRequest(model_name="breaks"))
        first = [await asyncio.to_thread(next, answers) for _ in range(2)]
        with pytest.raises(ResourceExhausted, match="come back") as refused:
            await asyncio.to_thread(next, answers)

    assert [answer.outputs[0].name for answer in first] == ["0 secret", "1 secret"]
    assert refused.value.retry_after_s == 1.5


async def test_who_goes_away_ends_the_stream(target: str, echo: Echo):
    """No work goes on for somebody who reads no further."""
    with OutsideCaller(target, "secret") as caller:
        answers = caller.stream(pb.ModelInferRequest(model_name="waits"))
        await asyncio.to_thread(next, answers)
        await asyncio.to_thread(answers.close)

        async with asyncio.timeout(10):
            await echo.ended.wait()


async def test_a_stream_from_nobody():
    """As a call to nobody."""
    with OutsideCaller("127.0.0.1:1", timeout_s=5) as caller, pytest.raises(Unavailable):
        await asyncio.to_thread(next, caller.stream(pb.ModelInferRequest(model_name="m")))

"""Whether a service is in this process or behind a channel makes no difference to who asks it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from infermesh import errors
from infermesh.call import Call, Caller
from infermesh.deadline import Deadline
from infermesh.errors import DeadlineExceeded, ForeignStatus, Internal, InvalidRequest, MeshError, NotFound
from infermesh.filters import WithinDeadline
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import OPENING, stack
from infermesh.transport import RemoteService

NAMED = [getattr(errors, name) for name in errors.__all__]
KINDS = [kind for kind in NAMED if isinstance(kind, type) and issubclass(kind, MeshError)]
ERRORS: list[MeshError] = [
    kind("gone: ä", reason="R", rejected=True, hop="below", retry_after_s=1.5)
    for kind in KINDS
    if kind not in (MeshError, ForeignStatus)
]
ERRORS += [
    ForeignStatus("ABORTED", "x", reason="R", hop="below"),
    ForeignStatus("ALREADY_EXISTS", "x"),
    NotFound("only a text"),
    errors.Unavailable("failed to connect to all addresses"),  # words of grpc's, said by a service
]


def request(**fields: Any) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(**{"model_name": "m", "model_version": "2", "id": "7", **fields})


RPCS: dict[str, Callable[[Any, Call], Awaitable[Any]]] = {
    "ModelInfer": lambda s, c: s.infer(request(), c),
    "ModelStreamInfer": lambda s, c: anext(s.stream(request(), c)),
    "ModelMetadata": lambda s, c: s.metadata(pb.ModelMetadataRequest(name="m", version="2"), c),
    "RepositoryIndex": lambda s, c: s.index(pb.RepositoryIndexRequest(ready=True), c),
    "RepositoryModelLoad": lambda s, c: s.load(pb.RepositoryModelLoadRequest(model_name="m"), c),
    "RepositoryModelUnload": lambda s, c: s.unload(pb.RepositoryModelUnloadRequest(model_name="m"), c),
    "ModelConfig": lambda s, c: s.config(pb.ModelConfigRequest(name="m", version="2"), c),
    "ModelStatistics": lambda s, c: s.statistics(pb.ModelStatisticsRequest(name="m", version="2"), c),
}


@pytest.mark.parametrize("rpc", RPCS)
async def test_every_rpc_brings_the_request_and_its_answer(service: Any, fake: Any, rpc: str) -> None:
    """The service sees the message as it was sent, and the caller its answer."""
    answer = await RPCS[rpc](service, Call(deadline=Deadline.after(5)))

    expected = {
        "ModelInfer": pb.ModelInferResponse(model_name="m", model_version="0", id="7"),
        "ModelStreamInfer": pb.ModelInferResponse(model_name="m", model_version="0", id="7"),
        "ModelMetadata": pb.ModelMetadataResponse(name="m", versions=["2"], platform="fake"),
        "RepositoryIndex": pb.RepositoryIndexResponse(
            models=[pb.RepositoryIndexResponse.ModelIndex(name="m", reason="r")]
        ),
        "RepositoryModelLoad": pb.RepositoryModelLoadResponse(),
        "RepositoryModelUnload": pb.RepositoryModelUnloadResponse(),
        "ModelConfig": pb.ModelConfigResponse(config=pb.ModelConfig(name="m")),
        "ModelStatistics": pb.ModelStatisticsResponse(model_stats=[pb.ModelStatistics(name="m")]),
    }[rpc]
    if rpc == "ModelStreamInfer":
        answer.parameters.clear()  # the mark of the last answer belongs to the stream on the wire
    assert answer == expected
    assert len(fake.requests) == 1


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: f"{e.code}{'' if e.hop else '-plain'}")
@pytest.mark.parametrize("rpc", ["ModelInfer", "ModelStreamInfer", "ModelMetadata", "RepositoryModelLoad"])
async def test_an_error_arrives_as_it_was_raised(
    service: Any, fake: Any, told: Any, is_remote: bool, error: MeshError, rpc: str
) -> None:
    """Class, code, text, reason, rejection and pushback pass every hop; the hop named is the lowest that failed."""
    fake.error = error

    with pytest.raises(MeshError) as raised:
        await RPCS[rpc](service, Call())

    assert told(raised.value) == told(error)
    assert raised.value.hop == (error.hop or ("hop" if is_remote else ""))


async def test_a_defect_is_never_the_callers_to_read(service: Any, fake: Any, is_remote: bool) -> None:
    """In process it is the exception itself; on the wire INTERNAL with an id, and not one word of it."""
    fake.error = KeyError("secret")

    for rpc in ("ModelInfer", "ModelStreamInfer", "ModelMetadata"):
        with pytest.raises(Internal if is_remote else KeyError) as raised:
            await RPCS[rpc](service, Call())
        assert ("secret" in str(raised.value)) is not is_remote


async def test_after_an_error_the_next_call_is_served(service: Any, fake: Any) -> None:
    """An error costs the call that it belongs to, and no other."""
    fake.error = NotFound("gone")
    with pytest.raises(NotFound):
        await service.infer(request(), Call())

    fake.error = None

    assert (await service.infer(request(id="8"), Call())).id == "8"


@pytest.mark.parametrize("rpc", RPCS)
async def test_the_deadline_is_seen_below(service: Any, fake: Any, is_remote: bool, rpc: str) -> None:
    """Every hop sees what is left, less a margin on the wire, for every RPC."""
    await RPCS[rpc](service, Call(deadline=Deadline.after(5)))

    left = fake.calls[0].deadline.remaining()
    assert 4.0 < left <= (4.85 if is_remote else 5.0)  # gRPC rounds a timeout up to two digits of a second


async def test_without_a_deadline_there_is_none_below(service: Any, fake: Any) -> None:
    """No hop invents one."""
    await service.infer(request(), Call())

    assert fake.calls[0].deadline.remaining() == float("inf")


@pytest.mark.parametrize("rpc", ["ModelInfer", "ModelStreamInfer", "ModelMetadata"])
async def test_at_the_deadline_the_caller_is_told_and_the_work_ends(placed: Any, fake: Any, rpc: str) -> None:
    """DEADLINE_EXCEEDED in time, and nothing goes on below."""
    fake.gate = asyncio.Event()
    service = await placed(fake)
    limited = stack(WithinDeadline(30), service=service) if rpc != "ModelMetadata" else service

    async with asyncio.timeout(8):
        if rpc == "ModelMetadata" and not isinstance(service.service, RemoteService):
            with pytest.raises(TimeoutError):  # in process only filters watch the time, and they stand round ModelInfer
                await asyncio.wait_for(RPCS[rpc](limited, Call()), 0.05)
        else:
            with pytest.raises(DeadlineExceeded):
                await RPCS[rpc](limited, Call(deadline=Deadline.after(0.3)))
        while not fake.cancelled:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("rpc", RPCS)
async def test_cancelling_the_caller_cancels_the_work(service: Any, fake: Any, rpc: str) -> None:
    """A caller who goes away ends the work in the service, for every RPC."""
    fake.gate = asyncio.Event()
    task = asyncio.ensure_future(RPCS[rpc](service, Call()))
    async with asyncio.timeout(8):
        while not fake.calls:
            await asyncio.sleep(0.001)

        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        while not fake.cancelled:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("rpc", RPCS)
async def test_what_hops_tell_each_other_passes(service: Any, fake: Any, rpc: str) -> None:
    """Request id, tenant, variant, shadow, attempt and trace reach the service, for every RPC."""
    trace = {"traceparent": "00-1-2-01", "tracestate": "a=b", "baggage": "k=v"}

    await RPCS[rpc](
        service,
        Call(caller=Caller("ann", "blue"), request_id="r1", variant="canary", shadow=True, attempt=2, trace=trace),
    )

    seen = fake.calls[0]
    assert (seen.request_id, seen.caller.tenant, seen.variant, seen.shadow, seen.attempt) == (
        "r1",
        "blue",
        "canary",
        True,
        2,
    )
    assert dict(seen.trace) == trace


@pytest.mark.parametrize("rpc", RPCS)
async def test_credentials_and_unknown_metadata_do_not_pass(service: Any, fake: Any, is_remote: bool, rpc: str) -> None:
    """Over a channel nothing of the caller's metadata goes on but what the mesh knows."""
    await RPCS[rpc](
        service, Call(request_id="r1", metadata={"authorization": "Bearer k", "x-api-key": "k", "cookie": "c"})
    )

    if is_remote:
        assert not {"authorization", "x-api-key", "cookie"} & set(fake.calls[0].metadata)
    assert "k" not in str([v for k, v in fake.calls[0].metadata.items() if is_remote and k != "user-agent"])


async def test_metadata_never_crosses_between_calls(service: Any, fake: Any) -> None:
    """A hundred calls at once keep their ids, tenants and variants apart."""
    calls = [Call(caller=Caller(tenant=f"t{n}"), request_id=f"r{n}", variant=f"v{n}") for n in range(100)]

    answers = await asyncio.gather(*(service.infer(request(id=str(n)), c) for n, c in enumerate(calls)))

    assert [a.id for a in answers] == [str(n) for n in range(100)]
    seen = {r.id: (c.request_id, c.caller.tenant, c.variant) for r, c in zip(fake.requests, fake.calls, strict=True)}
    assert seen == {str(n): (f"r{n}", f"t{n}", f"v{n}") for n in range(100)}


async def test_a_stream_brings_all_answers_in_order(service: Any, fake: Any) -> None:
    """Several answers to one request arrive as they were given, and the service's stream is finished."""
    fake.answers = 5

    versions = [a.model_version async for a in service.stream(request(), Call())]

    assert versions == ["0", "1", "2", "3", "4"]
    assert fake.finished == 1


async def test_an_error_in_the_middle_of_a_stream_comes_after_its_answers(service: Any, fake: Any, told: Any) -> None:
    """What was answered before is not lost."""
    fake.answers, seen = 3, []

    with pytest.raises(NotFound, match="gone in the middle") as error:
        async for answer in service.stream(request(model_name="fails late"), Call()):
            seen += [answer.model_version]

    assert seen == ["0", "1", "2"]
    assert told(error.value) == told(NotFound("gone in the middle"))


async def test_a_stream_that_is_left_ends_below(service: Any, fake: Any) -> None:
    """Who stops listening ends the work."""
    fake.answers = 100_000
    answers = service.stream(request(), Call())
    await anext(answers)

    await answers.aclose()

    async with asyncio.timeout(8):
        while not fake.finished:
            await asyncio.sleep(0.001)
    assert len(fake.requests) < 100_000


@pytest.mark.parametrize("rpc", RPCS)
async def test_every_rpc_is_admitted_where_the_filters_are(service: Any, fake: Any, refuse: Any, rpc: str) -> None:
    """A refusal comes back as it is, and the service behind the filter hears nothing."""
    refuse.rpcs.add(rpc)

    with pytest.raises(InvalidRequest, match=f"not admitted: {rpc}"):
        await RPCS[rpc](service, Call())

    assert not fake.calls
    assert next(name for name, *_ in refuse.asked if name != OPENING) == rpc


async def test_readiness_is_told_as_it_is(service: Any, fake: Any) -> None:
    """Ready, not ready and not there are three different answers."""
    assert await service.ready()
    assert await service.ready("m", "1")
    assert not await service.ready("away")

    fake.error = NotFound("no such model")
    with pytest.raises(NotFound, match="no such model"):
        await service.ready("m")


async def test_fields_that_nobody_knows_survive(service: Any, fake: Any) -> None:
    """A field of a later protocol reaches the service in the request, and the caller in the answer."""
    unknown = b"\xfa\x3e\x04next"  # field 1007, four letters
    sent = request(id="unknown")
    sent.MergeFromString(unknown)
    inner = sent.inputs.add(name="x")
    inner.MergeFromString(unknown)

    answer = await service.infer(sent, Call())

    assert fake.requests[0].SerializeToString() == sent.SerializeToString()
    assert fake.requests[0].SerializeToString().endswith(unknown)
    assert answer.SerializeToString().endswith(unknown)


async def test_a_request_belongs_to_its_sender(service: Any, fake: Any) -> None:
    """It is the same after the call as before, whoever answered."""
    sent = request(raw_input_contents=[b"abc"])
    before = sent.SerializeToString()

    answer = await service.infer(sent, Call())
    async for _ in service.stream(sent, Call()):
        pass

    assert sent.SerializeToString() == before
    assert list(answer.raw_output_contents) == [b"abc"]


@pytest.mark.parametrize("placed", ["over a channel", "over two channels"], indirect=True)
async def test_a_version_chosen_on_the_way_does_not_change_the_request(placed: Any, fake: Any) -> None:
    """A router's choice goes out with the message; the caller's message, and other choices at the same time, don't see it."""
    service = await placed(fake)
    sent = request(model_version="")
    variants = [service.service.variant(version=str(n)) for n in range(20)]

    await asyncio.gather(*(v.infer(sent, Call()) for v in variants), service.infer(sent, Call()))
    async for _ in variants[3].stream(sent, Call()):
        pass

    assert sorted(r.model_version for r in fake.requests[:21]) == sorted(["", *map(str, range(20))])
    assert fake.requests[21].model_version == "3"
    assert sent == request(model_version="")

"""TLS between a real server and a real channel: who gets through, who is believed, and certificates that change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from infermesh.call import Call, Caller
from infermesh.config import BackendConfig, BackendTlsConfig, ConfigError, ServerConfig, ServerTlsConfig
from infermesh.deadline import Deadline
from infermesh.errors import Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService, stack
from infermesh.transport import RemoteService, Server
from tests.certificates import Authority, Pair

REQUEST = pb.ModelInferRequest(model_name="m", id="7")
QUICK: Any = "1ms"


@dataclass
class Ground:
    """An authority, a server's pair, and ways to start servers and channels that end with the test."""

    authority: Authority
    pair: Pair
    resources: AsyncExitStack

    async def serve(
        self, service: InferenceService, *, mutual: bool = False, inside_mesh: bool = True, **rest: Any
    ) -> Server:
        observe = rest.pop("observe", lambda *_: None)
        ca = rest.pop("client_ca", self.authority.file if mutual else None)
        tls = ServerTlsConfig(cert=self.pair.cert, key=self.pair.key, client_ca=ca, look_every=QUICK)
        config = ServerConfig(host="127.0.0.1", grpc_port=0, tls=tls, **rest)
        server = Server("tested", config, inside_mesh=inside_mesh, observe_tls=observe)
        await server.start()
        self.resources.push_async_callback(server.stop, 0)
        server.mount(stack(service=service))
        await server.set_ready(True)
        return server

    def remote(self, server: Server, pair: Pair | None = None, **rest: Any) -> RemoteService:
        observe = rest.pop("observe", lambda *_: None)
        pairs = {"cert": pair.cert, "key": pair.key} if pair else {}
        tls = BackendTlsConfig(**{"ca": self.authority.file, "look_every": QUICK, **pairs, **rest})
        remote = RemoteService(BackendConfig(target=f"localhost:{server.port}", tls=tls), "b", observe_tls=observe)
        self.resources.push_async_callback(remote.close)
        return remote


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    authority = Authority(tmp_path)
    async with AsyncExitStack() as resources:
        yield Ground(authority, authority.pair(dns=["localhost"]), resources)


def _soon() -> Call:
    return Call(deadline=Deadline.after(5.0))


async def test_a_call_goes_over_tls(ground: Ground, scripted: Any) -> None:
    """Inference, readiness and the certificate's end are there; a peer without a certificate has no names."""
    seen: list[Any] = []
    service = scripted()
    server = await ground.serve(service, observe=lambda *each: seen.append(each))
    remote = ground.remote(server)

    answer = await remote.infer(REQUEST, _soon())

    assert answer.id == "7"
    assert await remote.ready()
    assert [good for good, _ in seen] == [True]
    assert service.calls[0].identities == ()


async def test_the_names_of_a_client_s_certificate_travel_with_the_call(ground: Ground, scripted: Any) -> None:
    """With mutual TLS a filter sees who is on the other side, also for each message of a stream."""
    service = scripted()
    server = await ground.serve(service, mutual=True, inside_mesh=False)
    remote = ground.remote(server, ground.authority.pair("gw", dns=["gw.mesh"], uri=["spiffe://mesh/gw"]))

    await remote.infer(REQUEST, _soon())
    async for _ in remote.stream(REQUEST, _soon()):
        pass

    names = ("uri:spiffe://mesh/gw", "dns:gw.mesh", "cn:gw")
    assert [call.identities for call in service.calls] == [names, names]
    assert service.calls[0].derive(attempt=2).identities == names


@pytest.mark.parametrize(
    "client",
    [
        lambda ground, other: {"pair": None},
        lambda ground, other: {"pair": other.pair("gw")},
        lambda ground, other: {"pair": ground.authority.pair("gw"), "ca": other.file},
        lambda ground, other: {"pair": ground.authority.pair("gw"), "server_name": "other.example"},
        lambda ground, other: {"pair": ground.authority.pair("gw"), "ca": None},
    ],
    ids=["no certificate", "of another root", "does not know our root", "another name", "the system's roots"],
)
async def test_whoever_does_not_fit_gets_no_connection(
    ground: Ground, tmp_path: Path, scripted: Any, client: Callable[..., dict[str, Any]]
) -> None:
    """A client without a good certificate, and one that does not trust the server, end UNAVAILABLE, as not started."""
    service = scripted()
    server = await ground.serve(service, mutual=True)
    remote = ground.remote(server, **client(ground, Authority(tmp_path, "other")))

    with pytest.raises(Unavailable) as refused:
        await remote.infer(REQUEST, _soon())

    assert refused.value.rejected
    assert not await remote.ready()
    assert not service.calls


async def test_plain_text_and_tls_do_not_meet(ground: Ground, scripted: Any) -> None:
    """A client that forgot TLS reaches nothing."""
    service = scripted()
    server = await ground.serve(service)

    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"", timeout=5)

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not service.calls


@pytest.mark.parametrize(
    ("identities", "believed"),
    [(["dns:gw.mesh"], True), (["uri:spiffe://mesh/*"], True), (["dns:other.mesh"], False), ([], False)],
)
async def test_keys_of_the_mesh_are_taken_from_hops_alone(
    ground: Ground, scripted: Any, identities: list[str], believed: bool
) -> None:
    """Tenant, variant, shadow and attempt of a peer that is no hop are dropped, as at the edge."""
    service = scripted()
    server = await ground.serve(service, mutual=True, mesh_identities=identities)
    remote = ground.remote(server, ground.authority.pair("gw", dns=["gw.mesh"], uri=["spiffe://mesh/gw"]))
    told = Call(
        deadline=Deadline.after(5),
        caller=Caller(tenant="forged"),
        variant="canary",
        shadow=True,
        attempt=3,
        request_id="r",
    )

    await remote.infer(REQUEST, told)

    (call,) = service.calls
    heard = (call.caller.tenant, call.variant, call.shadow, call.attempt)
    assert heard == (("forged", "canary", True, 3) if believed else ("", "", False, 1))
    assert call.request_id == "r"
    assert believed or not [key for key in call.metadata if key == "x-infermesh-tenant"]


async def test_without_client_certificates_hops_are_believed_as_before(ground: Ground, scripted: Any) -> None:
    """TLS alone says nothing about the client: the network decides who is inside."""
    service = scripted()
    remote = ground.remote(await ground.serve(service))

    await remote.infer(REQUEST, Call(deadline=Deadline.after(5), caller=Caller(tenant="t")))

    assert service.calls[0].caller.tenant == "t"


async def test_a_server_with_bad_files_does_not_start(ground: Ground, scripted: Any) -> None:
    """It says what is wrong, before it listens."""
    ground.pair.cert.write_text("nothing")

    with pytest.raises(ConfigError, match=r"server\.tls"):
        await ground.serve(scripted())


async def test_the_server_s_certificate_changes_while_calls_run(ground: Ground, scripted: Any, eventually: Any) -> None:
    """New connections get the new certificate, a bad file changes nothing, and no call is lost."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def answer(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        if request.id == "waits":
            begun.set()
            await go.wait()
        return pb.ModelInferResponse(id=request.id)

    seen: list[bool] = []
    server = await ground.serve(scripted(answer), observe=lambda good, _: seen.append(good))
    before = ground.remote(server)
    waiting = asyncio.ensure_future(before.infer(pb.ModelInferRequest(model_name="m", id="waits"), _soon()))
    await begun.wait()

    ground.pair.become(ground.authority.pair(dns=["renamed.example"]))
    await eventually(lambda: seen[-1:] == [True] and len(seen) > 1)
    after = ground.remote(server, server_name="renamed.example")
    assert (await after.infer(REQUEST, _soon())).id == "7"
    assert (await before.infer(REQUEST, _soon())).id == "7"

    ground.pair.cert.write_text("half")
    await eventually(lambda: seen[-1] is False)
    again = ground.remote(server, server_name="renamed.example")
    assert (await again.infer(REQUEST, _soon())).id == "7"

    go.set()
    assert (await waiting).id == "waits"


async def test_a_client_s_certificate_changes_while_calls_run(ground: Ground, scripted: Any, eventually: Any) -> None:
    """Calls go over to a new channel, none is lost, and a call under way ends on the old one."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def answer(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        if request.id == "waits":
            begun.set()
            await go.wait()
        return pb.ModelInferResponse(id=request.id)

    service, pair = scripted(answer), ground.authority.pair("old")
    server = await ground.serve(service, mutual=True)
    remote = ground.remote(server, pair)
    variant = remote.variant(version="2")
    waiting = [asyncio.ensure_future(variant.infer(pb.ModelInferRequest(id="waits"), _soon()))]
    stream = remote.stream(pb.ModelInferRequest(id="waits"), _soon())
    waiting.append(asyncio.ensure_future(anext(stream)))  # type: ignore[arg-type]
    await begun.wait()

    pair.become(ground.authority.pair("new"))
    answered = 0
    while service.calls[-1].identities != ("cn:new",):
        answered += (await remote.infer(REQUEST, _soon())).id == "7"
        await variant.infer(REQUEST, _soon())
        await asyncio.sleep(0.001)

    assert answered
    assert not any(each.done() for each in waiting)
    go.set()
    assert [each.id for each in await asyncio.gather(*waiting)] == ["waits", "waits"]
    await stream.aclose()


async def test_new_certificates_that_the_server_refuses_are_not_used(
    ground: Ground, scripted: Any, tmp_path: Path, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the old ones still work, a pair of a root that nobody knows stays out of use, and is counted as bad."""
    monkeypatch.setattr("infermesh.transport.channel.SWAP_TIMEOUT_S", 0.3)
    seen: list[bool] = []
    service, pair = scripted(), ground.authority.pair("old")
    server = await ground.serve(service, mutual=True)
    remote = ground.remote(server, pair, observe=lambda good, _: seen.append(good))
    await remote.infer(REQUEST, _soon())

    pair.become(Authority(tmp_path, "other").pair("new"))
    await eventually(lambda: False in seen)

    await remote.infer(REQUEST, _soon())
    assert service.calls[-1].identities == ("cn:old",)


async def test_roots_change_on_both_sides_without_a_lost_call(ground: Ground, scripted: Any, tmp_path: Path) -> None:
    """A new root comes in beside the old one, then the pairs change, then the old root goes; calls run all the while."""
    service, other = scripted(), Authority(tmp_path, "other")
    old_root, roots, pair = ground.authority.file.read_bytes(), tmp_path / "roots.pem", ground.authority.pair("old")
    roots.write_bytes(old_root)
    server = await ground.serve(service, client_ca=roots)
    remote = ground.remote(server, pair, ca=roots)
    answered = 0

    async def call() -> None:
        nonlocal answered
        while True:
            assert (await remote.infer(REQUEST, _soon())).id == "7"
            answered += 1
            await asyncio.sleep(0.001)

    calling = asyncio.ensure_future(call())
    for change in (
        lambda: roots.write_bytes(old_root + other.file.read_bytes()),
        lambda: ground.pair.become(other.pair(dns=["localhost"])),
        lambda: pair.become(other.pair("new")),
        lambda: roots.write_bytes(other.file.read_bytes()),
    ):
        change()
        count = answered
        while answered < count + 30 and not calling.done():
            await asyncio.sleep(0.005)

    assert not calling.done(), calling.result()
    async with asyncio.timeout(5):
        while service.calls[-1].identities != ("cn:new",):
            await asyncio.sleep(0.001)
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)

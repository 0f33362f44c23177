"""Mutual TLS at the port of a service that is a process of its own: who calls, by the certificate of the connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from e2e_gateway import Backend, Gateway, serving

from infermesh.cli.ports import free_port
from infermesh.cli.service_process import ServiceProcess
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.transport.probe import ClientTls, wait_until_serving
from tests.certificates import Authority, Pair

START_S = 60.0
NAME = "door.example"
REQUEST = pb.ModelInferRequest(model_name="m", id="1")
# What a caller writes who would like to be somebody else: Envoy's own header, and the mesh's.
FORGED = [("x-forwarded-client-cert", 'By=x;Hash=0;Subject="CN=bob";DNS=bob.example'), ("x-infermesh-tenant", "forged")]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def infer(address: str, authority: Authority, pair: Pair | None, metadata: Any = ()) -> pb.ModelInferResponse:
    """A call on a connection of its own."""
    parts = (None, None) if pair is None else (pair.key.read_bytes(), pair.cert.read_bytes())
    credentials = grpc.ssl_channel_credentials(authority.file.read_bytes(), *parts)
    options = [("grpc.ssl_target_name_override", NAME), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        method = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelInferResponse.FromString,
        )
        answer: pb.ModelInferResponse = await method(REQUEST, metadata=metadata, timeout=START_S)
        return answer


async def refusal(address: str, authority: Authority, pair: Pair | None, metadata: Any = ()) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await infer(address, authority, pair, metadata)
    return refused.value.code()


def server_tls(authority: Authority) -> dict[str, str]:
    pair = authority.pair(dns=[NAME])
    return {"cert": str(pair.cert), "key": str(pair.key), "client_ca": str(authority.file)}


async def test_a_certificate_says_who_calls(tmp_path: Path, authority: Authority) -> None:
    """Bob's certificate is his key; another one of the same authority, one of another authority and none are not, whatever
    their callers write."""
    bob, stranger = authority.pair(dns=["bob.example"]), authority.pair(dns=["mallory.example"])
    foreign = Authority(tmp_path, "foreign").pair(dns=["bob.example"])
    seen = ClientTls(str(authority.file), str(stranger.cert), str(stranger.key), NAME)
    backend = Backend()
    async with serving(backend) as below:
        routes = [{"model": "m", "variants": [{"name": "v", "backend": "one", "weight": 100}]}]
        door = Gateway(tmp_path / "door", {"one": below}, routes, tls=seen, server={"tls": server_tls(authority)})
        keys = yaml.safe_load((tmp_path / "door" / "keys.yaml").read_text())
        keys["certificates"] = [{"identity": "dns:bob.example", "caller": "bob", "tenant": "bobs"}]
        (tmp_path / "door" / "keys.yaml").write_text(yaml.safe_dump(keys, explicit_end=True))
        async with door:
            answer = await infer(door.address, authority, bob, FORGED)
            codes = [await refusal(door.address, authority, stranger, sent) for sent in ((), FORGED)]
            unknown = [await refusal(door.address, authority, each, FORGED) for each in (foreign, None)]

    assert answer.id == "1"
    assert codes == [grpc.StatusCode.UNAUTHENTICATED] * 2
    assert unknown == [grpc.StatusCode.UNAVAILABLE] * 2  # no connection comes about
    assert [call.caller.tenant for call in backend.calls] == ["bobs"]


async def test_what_a_hop_says_counts_from_the_mesh_alone(tmp_path: Path, authority: Authority) -> None:
    """A transformer believes tenant and variant of a caller with the gateway's certificate, and of nobody else."""
    gateway, stranger = authority.pair(dns=["gateway.mesh"]), authority.pair(dns=["mallory.example"])
    seen = ClientTls(str(authority.file), str(stranger.cert), str(stranger.key), NAME)
    told = [("x-infermesh-tenant", "alices"), ("x-infermesh-variant", "canary")]
    backend = Backend()
    async with (
        serving(backend) as below,
        transformer(tmp_path / "transformer", below, seen, server_tls(authority)) as address,
    ):
        await infer(address, authority, gateway, told)
        await infer(address, authority, stranger, [*told, *FORGED[:1]])

    heard = [(call.caller.tenant, call.variant) for call in backend.calls]
    assert heard == [("alices", "canary"), ("", "")]


def configured(folder: Path, backend: str, port: int, tls: dict[str, str]) -> Path:
    """The file of a transformer that listens on `port` and believes what the gateway says."""
    folder.mkdir()
    view = {"entity": {"name": "id", "type": "string"}, "features": [{"name": "a", "datatype": "FP32"}]}
    features = {"views": {"thing": view}, "services": {"other": {"inputs": {"x": {"columns": ["thing.*"]}}}}}
    config = {
        "server": {
            "host": "127.0.0.1",
            "grpc_port": port,
            "http_port": 0,
            "drain": "0",
            "tls": tls,
            "mesh_identities": ["dns:gateway.mesh"],
        },
        "features": "features.yaml",
        "redis": {"url": f"redis://127.0.0.1:{free_port()}"},  # nobody is there, and nobody is asked
        "backends": {"predictor": {"target": backend}, "explainer": {"target": backend}},
    }
    (folder / "features.yaml").write_text(yaml.safe_dump(features))
    (folder / "transformer.yaml").write_text(yaml.safe_dump(config))
    return folder / "transformer.yaml"


@asynccontextmanager
async def transformer(folder: Path, backend: str, seen: ClientTls, tls: dict[str, str]) -> AsyncIterator[str]:
    """The address of one that looks nothing up for the model that is asked for, in front of `backend`."""
    port = free_port()
    process = ServiceProcess("transformer", configured(folder, backend, port, tls), {})
    try:
        address = f"127.0.0.1:{port}"
        serves = await asyncio.to_thread(
            wait_until_serving, address, START_S, give_up=lambda: process.status is not None, tls=seen
        )
        assert serves, process.last_words()
        yield address
    finally:
        process.terminate()
        if not await asyncio.to_thread(process.wait, START_S):
            process.kill()

"""Who calls: keys, tokens and certificates at the port of a gateway, and what of them goes on to a backend and into the log."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from infermesh.call import Call
from infermesh.config import ConfigError, ServerConfig, TelemetryConfig, load
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.runtime import Telemetry
from infermesh.service import InferenceService, stack
from infermesh.telemetry import Metrics, Tracing
from infermesh.transport import Server
from services.gateway.app import build
from services.gateway.config import GatewayConfig
from services.gateway.identity import presented
from tests.certificates import Authority, Pair
from tests.issuer import AUDIENCE, ISSUER, forged, jwk, jwks, token

NAMES = ["uri:spiffe://mesh/alice", "dns:bob.example", "cn:carol"]


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ({}, ("nothing", "")),
        ({"x-api-key": "k"}, ("key", "k")),
        ({"x-api-key": "a.b.c"}, ("key", "a.b.c")),
        ({"x-api-key": "k", "authorization": "Bearer a.b.c"}, ("key", "k")),
        ({"x-api-key": "", "authorization": "Bearer a.b.c"}, ("token", "a.b.c")),
        ({"authorization": "bearer  a.b.c "}, ("token", "a.b.c")),
        ({"authorization": "Bearer a.b"}, ("key", "a.b")),
        ({"authorization": "Bearer "}, ("nothing", "")),
        ({"authorization": "Basic a.b.c"}, ("nothing", "")),
    ],
)
def test_one_credential_counts(metadata: dict[str, str], found: tuple[str, str]) -> None:
    """An API key before a token, a token by its two dots; where no tokens are taken, all that is a bearer's is a key."""
    assert presented(metadata, tokens=True) == found
    assert presented(metadata, tokens=False) == (("key", found[1]) if found[0] == "token" else found)


@dataclass
class Recorder(InferenceService):
    """A backend that keeps what reached it."""

    calls: list[Call] = field(default_factory=list)
    wait: asyncio.Event | None = None

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        self.calls.append(call)
        if self.wait is not None:
            await self.wait.wait()
        return pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)

    async def ready(self, model: str = "", version: str = "") -> bool:
        return True


@dataclass
class Door:
    """A gateway with mutual TLS on both sides, and ways through it."""

    folder: Path
    authority: Authority
    backend: Recorder
    metrics: Metrics
    target: str
    resources: AsyncExitStack

    def channel(self, pair: Pair) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(
            self.authority.file.read_bytes(), pair.key.read_bytes(), pair.cert.read_bytes()
        )
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.aio.secure_channel(self.target, credentials, options=options)
        self.resources.push_async_callback(channel.close)
        return channel

    async def infer(self, channel: grpc.aio.Channel, model: str = "m", **metadata: str) -> Any:
        method = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", pb.ModelInferRequest.SerializeToString, None
        )
        sent = [(name.replace("_", "-"), value) for name, value in metadata.items()]
        return await method(pb.ModelInferRequest(model_name=model), metadata=sent, timeout=10)

    async def refusal(self, channel: grpc.aio.Channel, model: str = "m", **metadata: str) -> tuple[str, str]:
        """Code, and the reason by which it was counted."""
        name = "infermesh_gateway_auth_refusals_total"
        before = self._counts(name)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await self.infer(channel, model, **metadata)
        assert not any(value in (refused.value.details() or "") for value in metadata.values())
        after = self._counts(name)
        (reason,) = [each for each in after if after[each] != before.get(each, 0)]
        return refused.value.code().name, reason

    def _counts(self, name: str) -> dict[str, float]:
        return {
            s.labels["reason"]: s.value for m in self.metrics.registry.collect() for s in m.samples if s.name == name
        }


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """`await door(mode="observe")`: keys `k` for dora, certificates for alice, bob and carol, tokens of the issuer."""
    authority = Authority(tmp_path)

    def tls(pair: Pair, ca: str) -> dict[str, str]:
        return {"cert": str(pair.cert), "key": str(pair.key), ca: str(authority.file)}

    async with AsyncExitStack() as resources:

        async def start(mode: str = "enforce", **source: str) -> Door:
            recorder = Recorder()
            settings = {
                "host": "127.0.0.1",
                "grpc_port": 0,
                "tls": tls(authority.pair(dns=["localhost"]), "client_ca"),
                "mesh_identities": ["dns:gateway.mesh"],
            }
            below = Server("backend", ServerConfig.model_validate(settings), inside_mesh=True)
            await below.start()
            resources.push_async_callback(below.stop, 0)
            below.mount(stack(service=recorder))
            await below.set_ready(True)
            (tmp_path / "jwks.json").write_bytes(jwks(jwk(), jwk("ES256", kid="ec")))
            keys = {
                "keys": [{"sha256": hashlib.sha256(b"k").hexdigest(), "caller": "dora"}],
                "certificates": [{"identity": name, "caller": name, "tenant": f"t{n}"} for n, name in enumerate(NAMES)],
            }
            keys["certificates"][2]["models"] = ["iris"]  # type: ignore[assignment]
            (tmp_path / "keys.yaml").write_text(yaml.safe_dump(keys, explicit_end=True))
            route = {"model": "m", "variants": [{"name": "v", "backend": "below", "weight": 100}]}
            (tmp_path / "routes.yaml").write_text(yaml.safe_dump({"routes": [route]}))
            config = {
                "routes": "routes.yaml",
                "rate_limit": {"mode": "off"},
                "look_every": "10ms",
                "auth": {
                    "mode": mode,
                    "keys": "keys.yaml",
                    "jwt": {"issuer": ISSUER, "audience": AUDIENCE, **(source or {"jwks_file": "jwks.json"})},
                },
                "backends": {
                    "below": {
                        "target": f"localhost:{below.port}",
                        "tls": tls(authority.pair(dns=["gateway.mesh"]), "ca"),
                    }
                },
            }
            (tmp_path / "gateway.yaml").write_text(yaml.safe_dump(config))
            metrics = Metrics("gateway")
            telemetry = Telemetry(metrics, Tracing("gateway", TelemetryConfig()))
            built = await resources.enter_async_context(
                build(load(GatewayConfig, tmp_path / "gateway.yaml", {}), telemetry)
            )
            settings = {**settings, "mesh_identities": [], "tls": tls(authority.pair(dns=["localhost"]), "client_ca")}
            server = Server("gateway", ServerConfig.model_validate(settings), inside_mesh=False)
            await server.start()
            resources.push_async_callback(server.stop, 0)
            server.mount(built)
            await server.set_ready(True)
            inner = await resources.enter_async_context(AsyncExitStack())
            return Door(tmp_path, authority, recorder, metrics, f"localhost:{server.port}", inner)

        yield start


def _good(**rest: Any) -> str:
    return token(**{"iat": time.time() - 5, "exp": time.time() + 600, **rest})


async def test_each_kind_of_credential_names_its_caller(door: Any) -> None:
    """By the name in a certificate, by a key before a certificate, and by a token before a certificate; a tenant follows."""
    gate = await door()
    alice = gate.channel(gate.authority.pair(uri=["spiffe://mesh/alice"], dns=["bob.example"]))
    bob = gate.channel(gate.authority.pair("carol", dns=["BOB.example"]))

    await gate.infer(alice)
    await gate.infer(bob)
    await gate.infer(alice, x_api_key="k")
    await gate.infer(alice, authorization="Bearer k")
    await gate.infer(alice, authorization=f"Bearer {_good()}")
    await gate.infer(alice, authorization=f"Bearer {_good(algorithm='ES256', kid='ec', sub='eve')}")

    tenants = [call.caller.tenant for call in gate.backend.calls]
    assert tenants == ["t0", "t1", "dora", "dora", "jwt:alice", "jwt:eve"]
    assert {call.identities for call in gate.backend.calls} == {("dns:gateway.mesh", "cn:leaf")}


async def test_whoever_is_not_known_is_refused_by_what_was_wrong(door: Any) -> None:
    """A bad credential is refused, though the certificate beside it is good; names that are not known are no identity."""
    gate = await door()
    alice = gate.channel(gate.authority.pair(uri=["spiffe://mesh/alice"]))
    carol = gate.channel(gate.authority.pair("carol"))
    stranger = gate.channel(
        gate.authority.pair("bob.example", dns=["cn:carol", "carol"], uri=["spiffe://mesh/alice/x"], email=["a@carol"])
    )

    assert await gate.refusal(stranger) == ("UNAUTHENTICATED", "CERTIFICATE_UNKNOWN")
    assert await gate.refusal(carol) == ("PERMISSION_DENIED", "MODEL_FORBIDDEN")
    assert await gate.refusal(alice, x_api_key="wrong") == ("UNAUTHENTICATED", "KEY_UNKNOWN")
    expired = _good(iat=time.time() - 100, exp=time.time() - 50)
    assert await gate.refusal(alice, authorization=f"Bearer {expired}") == ("UNAUTHENTICATED", "TOKEN_EXPIRED")
    none = forged({"alg": "none", "kid": "one"}, json.dumps({"sub": "alice"}).encode())
    assert await gate.refusal(alice, authorization=f"Bearer {none}") == ("UNAUTHENTICATED", "TOKEN_ALGORITHM")
    assert not gate.backend.calls


async def test_observe_refuses_nobody_and_counts(door: Any) -> None:
    """A token that would be refused passes, without a name."""
    gate = await door("observe")
    channel = gate.channel(gate.authority.pair("nobody"))

    await gate.infer(channel, authorization=f"Bearer {_good(iss='other')}")
    await gate.infer(channel)

    assert [call.caller.tenant for call in gate.backend.calls] == ["", ""]
    counted = gate._counts("infermesh_gateway_auth_refusals_total")
    assert counted == {"TOKEN_ISSUER": 1, "CERTIFICATE_UNKNOWN": 1}


async def test_credentials_and_forged_keys_stop_at_the_gateway(door: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Neither backend nor log sees a key or a token, good or bad; what a caller says for the mesh is dropped."""
    caplog.set_level(logging.DEBUG)
    gate = await door()
    channel = gate.channel(gate.authority.pair(uri=["spiffe://mesh/alice"]))
    good, bad = _good(), _good(number=1)
    forging = {"x_infermesh_tenant": "forged", "x_infermesh_shadow": "1", "x_infermesh_attempt": "3"}

    await gate.infer(channel, authorization=f"Bearer {good}", **forging)
    await gate.infer(channel, x_api_key="k", cookie="session", **forging)
    await gate.refusal(channel, authorization=f"Bearer {bad}")
    await gate.refusal(channel, x_api_key="imk_very-secret")

    for call, tenant in zip(gate.backend.calls, ["jwt:alice", "dora"], strict=True):
        assert (call.caller.tenant, call.shadow, call.attempt) == (tenant, False, 1)
        mesh = {"x-infermesh-tenant", "x-infermesh-variant", "x-infermesh-gateways"}
        assert set(call.metadata) <= {"user-agent", "x-request-id", *mesh}
        assert "forged" not in call.metadata.values()
    written = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    for secret in (good.split(".")[2], bad.split(".")[2], good.split(".")[1], "imk_very-secret"):
        assert secret not in written
    assert "TOKEN_SIGNATURE" in written


async def test_keys_of_tokens_and_callers_change_while_calls_run(door: Any) -> None:
    """A new key is taken over from its file, tokens by the old one end, and a call that was admitted is answered."""
    gate = await door()
    channel = gate.channel(gate.authority.pair("nobody"))
    old, new = f"Bearer {_good()}", f"Bearer {_good(kid='new', number=1)}"
    await gate.infer(channel, authorization=old)
    gate.backend.wait = asyncio.Event()
    waiting = asyncio.ensure_future(gate.infer(channel, authorization=old))
    async with asyncio.timeout(5):
        while len(gate.backend.calls) < 2:
            await asyncio.sleep(0.001)
    assert await gate.refusal(channel, authorization=new) == ("UNAUTHENTICATED", "TOKEN_KEY_UNKNOWN")

    (gate.folder / "jwks.json").write_bytes(b"half wri")
    (gate.folder / "jwks.new").write_bytes(jwks(jwk(kid="new", number=1)))
    (gate.folder / "jwks.new").replace(gate.folder / "jwks.json")
    gate.backend.wait.set()
    async with asyncio.timeout(10):
        while True:
            try:
                await gate.infer(channel, authorization=new)
                break
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAUTHENTICATED
                await asyncio.sleep(0.01)

    await waiting
    assert (await gate.refusal(channel, authorization=old))[1] == "TOKEN_KEY_UNKNOWN"


async def test_keys_that_are_away_at_the_start_are_taken_when_they_come(door: Any, unused_tcp_port: int) -> None:
    """The gateway serves API keys at once; tokens end UNAVAILABLE until their keys could be fetched, and then they are good."""
    gate = await door(jwks_url=f"http://127.0.0.1:{unused_tcp_port}/keys", refetch="1s")
    channel = gate.channel(gate.authority.pair("nobody"))
    bearer = f"Bearer {_good()}"

    await gate.infer(channel, x_api_key="k")
    assert await gate.refusal(channel, authorization=bearer) == ("UNAVAILABLE", "JWKS_UNAVAILABLE")
    assert gate.metrics.registry.get_sample_value("infermesh_gateway_file_bad", {"service": "gateway", "file": "jwks"})

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + jwks(jwk()))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", unused_tcp_port), asyncio.timeout(15):
        while True:
            try:
                await gate.infer(channel, authorization=bearer)
                break
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                await asyncio.sleep(0.05)
    assert gate.backend.calls[-1].caller.tenant == "jwt:alice"


def _settings(folder: Path, content: str, **auth: Any) -> GatewayConfig:
    (folder / "keys.yaml").write_text(content)
    (folder / "routes.yaml").write_text(
        "routes: [{model: m, variants: [{name: v, backend: predictor, weight: 100}]}]\n"
    )
    (folder / "gateway.yaml").write_text(
        yaml.safe_dump({"routes": "routes.yaml", "auth": {"keys": "keys.yaml", **auth}})
    )
    return load(GatewayConfig, folder / "gateway.yaml", {})


@pytest.mark.parametrize(
    ("keys", "auth", "words"),
    [
        ("{keys: [], certificates: [{identity: alice, caller: a}]}", {}, "certificates.0.identity"),
        (
            "{keys: [], certificates: [{identity: 'dns:a', caller: a}, {identity: 'dns:A', caller: b}]}",
            {},
            "every identity once",
        ),
        ("keys: []", {"jwt": {"issuer": "i", "audience": "a", "jwks_file": "none.json"}}, "none.json"),
        ("keys: []", {"jwt": {"audience": "a", "jwks_url": "https://i/"}}, "auth.jwt.issuer: required"),
    ],
)
def test_faults_are_found_before_the_gateway_starts(
    tmp_path: Path, keys: str, auth: dict[str, Any], words: str
) -> None:
    """Names without a kind, one name for two callers, keys that are not there."""
    with pytest.raises(ConfigError, match=words):
        _settings(tmp_path, keys, **auth)


def test_a_gateway_needs_no_keys_file(tmp_path: Path) -> None:
    """Where all callers have tokens there is nothing to put into it."""
    (tmp_path / "jwks.json").write_bytes(jwks(jwk()))

    config = _settings(
        tmp_path, "", **{"keys": None, "jwt": {"issuer": "i", "audience": "a", "jwks_file": "jwks.json"}}
    )

    assert not config.keys_file().keys
    assert len(config.token_keys()) == 1

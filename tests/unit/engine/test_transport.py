"""What Envoy does for the transport, with a real one: refusals, metadata, TLS, who the caller is."""

from __future__ import annotations

import asyncio
import json
import ssl
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc
import pytest
from cryptography import x509
from e2e_wire import DATA, HEADERS, frame, packed

from tests.certificates import Authority

from .conftest import call, channel

GRPC = [("content-type", "application/grpc"), ("te", "trailers")]
SETTINGS, END_STREAM, END_HEADERS = 4, 1, 4
ID = "a121b5c2-6b9c-4d70-9a9b-1d0b0b6b7f11"


@pytest.mark.parametrize("path", ["/%ff/x", "/test.Engine/Pid/more", "/test.Engine/Pid?q=1", "/", "/test.Engine/"])
async def test_a_path_that_is_no_method_is_unimplemented(supervised: Callable[..., Any], path: str) -> None:
    """It never reaches Python, where the first of them hangs."""
    async with supervised() as it, channel(it.target) as opened:
        await it.until_ready()

        with pytest.raises(grpc.RpcError) as refused:
            await call(opened, "", path=path)

        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


NO_CALLS = {
    "no te": ("POST", GRPC[:1], 200, 12),
    "GET": ("GET", GRPC, 200, 12),
    "another content": ("POST", [("content-type", "application/json"), GRPC[1]], 415, None),
    "grpc-web": ("POST", [("content-type", "application/grpc-web"), GRPC[1]], 415, None),
    "nothing": ("GET", [], 415, None),
}


@pytest.mark.parametrize("case", NO_CALLS)
async def test_what_is_no_grpc_call_is_refused(supervised: Callable[..., Any], case: str) -> None:
    """Answered at once, as gRPC (UNIMPLEMENTED) where gRPC was meant; Python never sees it. The access log has the statuses."""
    method, headers, http_status, grpc_status = NO_CALLS[case]
    async with supervised(access_log=True) as it:
        await it.until_ready()

        await ask(it.grpc_port, method, headers)

        (line,) = await it.says("/test.Engine/Pid")
        assert (line["http_status"], line["grpc_status"]) == (http_status, grpc_status)
        assert "calls_total 0" in (await it.http("/metrics"))[1]


async def ask(port: int, method: str, headers: list[tuple[str, str]]) -> None:
    """One request as it is written here, until its stream ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    pseudo = [(":method", method), (":scheme", "http"), (":path", "/test.Engine/Pid"), (":authority", "engine")]
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0))
    writer.write(frame(HEADERS, END_HEADERS, 1, packed([*pseudo, *headers])))
    writer.write(frame(DATA, END_STREAM, 1, bytes(5)))
    async with asyncio.timeout(10):
        while True:
            head = await reader.readexactly(9)
            await reader.readexactly(int.from_bytes(head[:3], "big"))
            kind, flags, stream = struct.unpack(">BBI", head[3:])
            if stream == 1 and kind in (DATA, HEADERS) and flags & END_STREAM:
                writer.close()
                return


async def test_metadata_arrives_as_it_was_sent(supervised: Callable[..., Any]) -> None:
    """The request id too, and nothing is added to it; a forged identity does not arrive."""
    sent = [("x-request-id", ID), ("x-forwarded-client-cert", "Cert=evil"), ("x-forwarded-for", "1.2.3.4"), ("a", "b")]
    async with supervised() as it, channel(it.target) as opened:
        await it.until_ready()

        plain = dict(json.loads(await call(opened, "Headers")))
        got = [tuple(each) for each in json.loads(await call(opened, "Headers", metadata=sent))]

        assert ("x-request-id", ID) in got and ("a", "b") in got and ("x-forwarded-for", "1.2.3.4") in got
        assert not [name for name, _ in got if name == "x-forwarded-client-cert"]
        known = {"host", "content-type", "te", "grpc-accept-encoding", "grpc-timeout", "user-agent", "accept-encoding"}
        assert {name for name, _ in got} - known == {"x-request-id", "x-forwarded-for", "a"}
        assert set(plain) <= known


async def test_connections_have_a_bound(supervised: Callable[..., Any]) -> None:
    """One more is closed; those that are there go on."""
    async with supervised(max_connections=1) as it, channel(it.target) as first, channel(it.target) as second:
        await it.until_ready()
        await call(first, "Pid")

        with pytest.raises(grpc.RpcError):
            await call(second, "Pid", wait=False)

        await call(first, "Pid")


async def test_a_connection_has_an_age(supervised: Callable[..., Any]) -> None:
    """At its end the client is told to go, and what it calls meanwhile is answered."""
    async with supervised(max_connection_age_s=0.3) as it, channel(it.target) as opened:
        await it.until_ready()
        await call(opened, "Pid")

        async with asyncio.timeout(10):
            while (state := opened.get_state()) is grpc.ChannelConnectivity.READY:
                await opened.wait_for_state_change(state)

        assert state is grpc.ChannelConnectivity.IDLE
        await call(opened, "Pid")


async def test_an_exit_in_one_call_leaves_no_success(supervised: Callable[..., Any]) -> None:
    """A process that dies under a call ends it with an error, never with an empty answer."""
    async with supervised() as it, channel(it.target) as opened:
        await it.until_ready()

        with pytest.raises(grpc.RpcError) as lost:
            await call(opened, "Kill")

        assert lost.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_certificates_are_followed(supervised: Callable[..., Any], tmp_path: Path) -> None:
    """New files are shown to new connections without a restart; bad ones change nothing, and are told."""
    root = Authority(tmp_path)
    first, second = root.pair("first", dns=["engine"]), root.pair("second", dns=["engine"])
    tls = {"cert": str(first.cert), "key": str(first.key), "look_every": "50ms"}
    async with supervised(tls=tls) as it:
        await it.until_ready()
        shown = Shown(it.grpc_port, root.file)
        assert await shown.name() == "first"

        good = first.cert.read_bytes(), first.key.read_bytes()
        first.key.write_bytes(second.key.read_bytes())  # no pair
        await it.says("the last good certificates stay in use")
        assert await shown.name() == "first"
        assert 'infermesh_tls_bad{of="server",service="engine"} 1.0' in (await it.http("/metrics"))[1]

        assert good[0] != second.cert.read_bytes()
        first.cert.write_bytes(second.cert.read_bytes())
        await it.says("new certificates are in use")

        async def renewed() -> bool:
            return await shown.name() == "second"

        await it.until(renewed)
        assert len(it.pids()) == 1


async def test_a_caller_is_who_its_certificate_says(supervised: Callable[..., Any], tmp_path: Path) -> None:
    """With mutual TLS the program gets the whole certificate, whatever the caller writes; without one nobody gets in."""
    root = Authority(tmp_path)
    server, client = root.pair("server", dns=["engine"]), root.pair("client", uri=["spiffe://mesh/gateway"])
    tls = {"cert": str(server.cert), "key": str(server.key), "client_ca": str(root.file)}
    roots, key, cert = root.file.read_bytes(), client.key.read_bytes(), client.cert.read_bytes()
    async with supervised(tls=tls) as it:
        await it.until_ready()
        async with channel(it.target, grpc.ssl_channel_credentials(roots, key, cert)) as opened:
            forged = [("x-forwarded-client-cert", "Cert=evil")]

            headers = dict(json.loads(await call(opened, "Headers", metadata=forged)))

        (value,) = [part for part in headers["x-forwarded-client-cert"].split(";") if part.startswith("Cert=")]
        shown = x509.load_pem_x509_certificate(unquote(value.removeprefix("Cert=").strip('"')).encode())
        assert shown == x509.load_pem_x509_certificate(cert)
        async with channel(it.target, grpc.ssl_channel_credentials(roots)) as stranger:
            with pytest.raises(grpc.RpcError):
                await call(stranger, "Pid", wait=False)


class Shown:
    """Which certificate a new connection is shown."""

    def __init__(self, port: int, roots: Path) -> None:
        self._port = port
        self._context = ssl.create_default_context(cafile=str(roots))
        self._context.set_alpn_protocols(["h2"])

    async def name(self) -> str:
        _, writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._context, server_hostname="engine")
        subject = dict(each[0] for each in writer.get_extra_info("peercert")["subject"])
        writer.close()
        return str(subject["commonName"])

"""Servers that the tests of shared limits stand before: Sentinels, and a relay that speaks TLS as the servers here can't."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from infermesh.cli.ports import HOST, free_port
from infermesh.cli.valkey import Valkey, _binary
from tests.certificates import Pair

__all__ = ["Sentinel", "tls_relay"]


class Sentinel(Valkey):
    """A Sentinel that watches a primary under a name; its configuration is a file, which it writes to."""

    def __init__(self, primary: Valkey, name: str, password: str = "") -> None:
        super().__init__()
        self._lines = [
            f"sentinel monitor {name} {HOST} {primary.port} 1",
            f"sentinel down-after-milliseconds {name} 300",
            f"sentinel failover-timeout {name} 3000",
            *([f"requirepass {password}"] if password else []),
        ]

    def _command(self) -> list[str]:
        assert self._folder is not None
        file = self._folder / "sentinel.conf"
        file.write_text("\n".join([f"port {self.port}", f"bind {HOST}", f"dir {self._folder}", *self._lines, ""]))
        return [str(_binary()), str(file), "--sentinel"]


@asynccontextmanager
async def tls_relay(port: int, shown: Pair, clients: Path | None = None) -> AsyncIterator[int]:
    """Passes what comes by TLS on to a server of this machine; its own port. With `clients` it asks for a
    certificate of theirs."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(shown.cert, shown.key)
    if clients is not None:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_upstream = await asyncio.open_connection(HOST, port)
        await asyncio.gather(pump(reader, to_upstream), pump(upstream, writer))

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(serve(reader, writer)))

    server = await asyncio.start_server(accepted, HOST, own := free_port(), ssl=context)
    try:
        yield own
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

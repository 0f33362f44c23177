"""The server's certificates, where Envoy reads them: followed, and taken over without a restart."""

from __future__ import annotations

import asyncio
import functools
import json
import os
from pathlib import Path

from infermesh.config import ServerTlsConfig
from infermesh.engine.envoy_config import certificates
from infermesh.transport.tls import Observe, Pem, follow, read_server

__all__ = ["KeptCertificates"]


class KeptCertificates:
    """A folder of Envoy's secrets, which have what the configured files last had that was good.

    They are checked here as on the other engine, so that a pair which is none, or is half written, changes nothing, and is told.
    """

    def __init__(self, folder: Path, tls: ServerTlsConfig | None, observe: Observe) -> None:
        self._folder = folder
        self._tls = tls
        self._observe = observe
        self._following: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Write the files and follow from now on; nothing without TLS. Raises ConfigError for certificates that can't be used."""
        if self._tls is None:
            return
        read = functools.partial(read_server, self._tls)
        pem = await asyncio.to_thread(read)
        self._write(pem)
        self._observe(True, pem.expires_at)
        self._following = asyncio.ensure_future(follow(pem, read, self._adopt, self._observe, self._tls.look_every))

    def close(self) -> None:
        if self._following is not None:
            self._following.cancel()

    async def _adopt(self, pem: Pem) -> bool:
        self._write(pem)
        return True

    def _write(self, pem: Pem) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for name, content in certificates(pem).items():
            new = self._folder / f"{name}.new"
            opened = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(opened, "w") as file:  # noqa: PTH123  # a descriptor
                json.dump(content, file)
            new.replace(self._folder / name)  # which is what Envoy looks for

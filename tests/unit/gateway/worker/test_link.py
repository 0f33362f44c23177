"""The gateway's end of the socket to a worker."""

from __future__ import annotations

import asyncio
import socket

from services.gateway.worker.frames import ASK
from services.gateway.worker.link import Link

OWN = 1  # a kind of the worker's


async def test_what_is_sent_to_one_that_has_hung_up_is_not_taken():
    """It counts as sent, and questions do not: so that the difference to what was taken is what was lost."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    _, link = await asyncio.get_running_loop().create_unix_connection(lambda: Link(lambda *_: None), sock=ours)
    link.send(OWN, (b"a",))
    theirs.close()
    async with asyncio.timeout(20):
        while not link.lost:
            await asyncio.sleep(0)

    link.send(OWN, (b"b", b"c"))
    link.send(ASK, (b"d",))

    assert (link.sent, link.taken, link.waiting_bytes) == (2, 0, 0)
    link.close()

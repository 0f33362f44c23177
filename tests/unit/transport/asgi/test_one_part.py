"""An answer with trailing metadata is as cheap to send as one without."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from infermesh.transport.asgi.application import Application

HEADERS = [(b"te", b"trailers"), (b"content-type", b"application/grpc")]


@pytest.mark.parametrize("told", [(), (("x-told", "1"),)])
async def test_the_answer_is_one_part_and_its_trailers(told: tuple[tuple[str, str], ...]) -> None:
    """Each further part would be a write of its own, and wake the host's thread once more."""
    sent: list[Any] = []

    async def behaviour(request: bytes, context: Any) -> bytes:
        if told:
            context.set_trailing_metadata(told)
        return b"answer"

    async def receive() -> Any:
        return {"type": "http.request", "body": bytes(5), "more_body": False}

    async def send(event: Any) -> None:
        sent.append(event)

    application = Application()
    application.add_registered_method_handlers("a.B", {"C": grpc.unary_unary_rpc_method_handler(behaviour)})

    await application({"type": "http", "path": "/a.B/C", "headers": HEADERS}, receive, send)

    assert [event["type"].rpartition(".")[2] for event in sent] == ["start", "body", "trailers"]
    assert sent[1]["body"] == b"\x00\x00\x00\x00\x06answer"
    assert sent[2]["headers"] == [(b"grpc-status", b"0"), *((k.encode(), v.encode()) for k, v in told)]

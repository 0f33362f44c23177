"""The HTTP port for machines."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from infermesh.config import PortTaken
from infermesh.telemetry import Metrics, TelemetryServer, http
from infermesh.telemetry.http import MAX_CONNECTIONS


@pytest.fixture
def ready() -> list[bool]:
    return [True]


@pytest.fixture
def server(ready: list[bool]) -> Iterator[TelemetryServer]:
    server = TelemetryServer("127.0.0.1", 0, Metrics("tested").registry, lambda: ready[0])
    yield server
    server.close()


def get(server: TelemetryServer, path: str) -> tuple[int, str]:
    try:
        with urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def test_metrics_are_in_prometheus_form(server: TelemetryServer) -> None:
    """`/metrics` shows the registry."""
    status, text = get(server, "/metrics")

    assert status == 200
    assert 'infermesh_build_info{service="tested"' in text


def test_readiness_follows_and_the_process_is_live(server: TelemetryServer, ready: list[bool]) -> None:
    """`/ready` is 503 while the service is not; `/live` is 200 as long as somebody answers."""
    assert get(server, "/ready") == (200, "ok\n")

    ready[0] = False

    assert get(server, "/ready") == (503, "not ready\n")
    assert get(server, "/live") == (200, "ok\n")


def test_another_path_says_what_there_is(server: TelemetryServer) -> None:
    """Nothing else is served."""
    assert get(server, "/") == (404, "here are /metrics, /live and /ready\n")


def test_one_who_connects_and_says_nothing_holds_up_nobody(server: TelemetryServer) -> None:
    """Each connection has a thread of its own."""
    with socket.create_connection(("127.0.0.1", server.port)):
        assert get(server, "/live")[0] == 200


def test_a_taken_port_is_said(server: TelemetryServer) -> None:
    """Two services never share a port."""
    with pytest.raises(
        PortTaken, match=f"HTTP port 127.0.0.1:{server.port} can't be listened on: Address already in use"
    ):
        TelemetryServer("127.0.0.1", server.port, Metrics("second").registry, lambda: True)


def test_a_port_that_was_given_up_is_free_at_once() -> None:
    """The connections of the last scrape don't keep it: a service that is started again finds its port."""
    first = TelemetryServer("127.0.0.1", 0, Metrics("first").registry, lambda: True)
    get(first, "/live")
    first.close()

    second = TelemetryServer("127.0.0.1", first.port, Metrics("second").registry, lambda: True)

    assert get(second, "/live")[0] == 200
    second.close()


def test_closing_is_quick(ready: list[bool]) -> None:
    """A drain does not wait for the HTTP port."""
    server = TelemetryServer("127.0.0.1", 0, Metrics("tested").registry, lambda: ready[0])
    started = time.monotonic()

    server.close()

    assert time.monotonic() - started < 1


def test_connections_that_say_nothing_are_bounded_and_keep_nobody_out(server: TelemetryServer) -> None:
    """Past the bound the oldest connection is ended, so that a probe is answered whatever others hold open."""
    before = threading.active_count()
    silent = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(MAX_CONNECTIONS + 10)]
    try:
        assert get(server, "/live") == (200, "ok\n")
        assert all(not each.recv(1) for each in silent[:10])
        assert threading.active_count() - before <= MAX_CONNECTIONS + 1
    finally:
        for each in silent:
            each.close()


def test_a_connection_that_says_nothing_is_ended_in_time(
    server: TelemetryServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Who sends no request is hung up on, and it is nothing to write about."""
    assert http._Quiet.timeout == 10
    monkeypatch.setattr(http._Quiet, "timeout", 0.05)

    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as silent:
        assert silent.recv(1) == b""

    assert capfd.readouterr().err == ""

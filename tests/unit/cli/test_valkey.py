"""The embedded store."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import redis

from infermesh.cli.failure import Failure
from infermesh.cli.ports import is_free
from infermesh.cli.valkey import Valkey


def test_starts_and_ends():
    """It answers when `start` returns; afterwards process, port and files are gone."""
    with Valkey() as server:
        pid, folder = server.pid, Path(server._folder)
        client = redis.Redis.from_url(server.url)
        client.set("a", b"1")
        assert client.get("a") == b"1"
        client.close()

    assert not server.is_running
    assert is_free(server.port)
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_starts_anew_on_its_port():
    """A server that was killed comes back on the same port, empty."""
    with Valkey() as server:
        url = server.url
        client = redis.Redis.from_url(url)
        client.set("a", b"1")
        os.kill(server.pid, signal.SIGKILL)
        server._process.wait(5)
        assert not server.is_running

        server.start()

        assert server.url == url
        assert client.get("a") is None
        client.close()


def test_a_port_that_is_taken():
    """A given port that is taken is one clear line."""
    with (
        Valkey() as server,
        pytest.raises(Failure, match=rf"can't listen on 127\.0\.0\.1:{server.port}: the port is taken"),
    ):
        Valkey(server.port).start()


def test_the_servers_own_last_words():
    """Why it did not start is told in the server's words."""
    with pytest.raises(Failure, match=r"could not be started: .*Bad directive"):
        Valkey(options=["--nonsense", "1"]).start()


def test_options_reach_the_server():
    """A server with a password is started like any other."""
    with Valkey(options=["--requirepass", "secret"]) as server:
        client = redis.Redis.from_url(server.url, password="secret")
        assert client.ping()
        client.close()

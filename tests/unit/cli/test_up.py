"""`infermesh up` and `demo`: what a user reads when it can't be."""

from __future__ import annotations

import socket
from pathlib import Path

from infermesh.cli.calls import grpcurl_line, python_client
from infermesh.cli.processes import samples_folder


def test_a_port_that_is_taken(infermesh):
    """One clear line with what can be done, and exit status 1; nothing was started."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        result = infermesh("up", "--gateway-port", port)

    assert result.status == 1
    assert result.err.splitlines() == [
        f"error: gateway: port 127.0.0.1:{port} is taken",
        "hint: choose another one by --gateway-port, or 0 for any free one",
    ]


def test_a_folder_that_is_not_there(infermesh, tmp_path: Path):
    """A folder that does not exist is a mistake on the line."""
    result = infermesh("up", "--models", tmp_path / "nothing")

    assert result.status == 2
    assert f"--models {tmp_path / 'nothing'}: expected a folder" in result.err


def test_a_configuration_with_faults(infermesh, tmp_path: Path):
    """Every fault is named, the exit status is 2, and nothing was started."""
    for file in (samples_folder() / "config").glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "predictor.yaml").write_text("server: {drain: 5}\nnonsense: 1\n")

    result = infermesh("up", "--config", tmp_path, "--gateway-port", 0)

    assert result.status == 2
    assert f"{tmp_path / 'predictor.yaml'}: 2 faults" in result.err
    assert "nonsense: no such setting" in result.err


def test_a_store_that_does_not_answer(infermesh):
    """A Redis of one's own that is away is named; the services that were started are ended."""
    result = infermesh("up", "--redis", "redis://127.0.0.1:1", "--gateway-port", 0)

    assert result.status == 1
    assert "error: the feature store at redis://127.0.0.1:1 does not answer" in result.err


def test_calls_to_paste():
    """The Python client has ten lines and compiles; grpcurl's message is one shell word."""
    program = python_client("127.0.0.1:8001", "key")

    compile(program, "client.py", "exec")
    assert len(program.strip().splitlines()) <= 11
    assert grpcurl_line("127.0.0.1:8001", "key").count("'") == 4



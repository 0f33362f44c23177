"""`infermesh up` and `demo`: what a user reads when it can't be."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from infermesh.cli.calls import grpcurl_line, python_client
from infermesh.cli.processes import samples_folder

ROOT = Path(__file__).parents[3]
TRANSACTION = ["card_id=c-0042", "amount=349", "merchant_category=electronics", "hour=2.5", "country=DE"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "INFERMESH_KEY": "infermesh-demo-key"}


class Up:
    """`infermesh up` or `demo` as a user starts it, without a terminal; ended by its process id."""

    def __init__(self, *words: str, **environment: str) -> None:
        self.lines: list[str] = []
        command = [sys.executable, "-m", "infermesh.cli.main", *words]
        env = {**ENVIRONMENT, "COLUMNS": "100", **environment}
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def __enter__(self) -> Up:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def read_until(self, words: str) -> None:
        """Read lines until one has these words; a run that ends before fails."""
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if words in line:
                return
        raise AssertionError(f"{words!r} was not said:\n" + "\n".join(self.lines))

    def pid_of(self, module: str) -> int:
        """The id of the child process that runs a module."""
        children = Path(f"/proc/{self.process.pid}/task")
        pids = [int(pid) for task in children.iterdir() for pid in (task / "children").read_text().split()]
        return next(pid for pid in pids if module in Path(f"/proc/{pid}/cmdline").read_text().split("\0"))


def output_of(*words: str) -> str:
    """What a Python program writes; it must end well."""
    done = subprocess.run(
        [sys.executable, *words], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


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


def test_up_from_start_to_drain(tmp_path: Path):
    """One run: tour, calls that can be pasted and work, a killed predictor that comes back, SIGTERM, exit status 0."""
    with Up("up", "--gateway-port", "0") as up:
        up.read_until("Ctrl-C drains it all")
        said = "\n".join(up.lines)
        assert "that was the tour: every answer was as the samples promise" in said
        assert re.search(r"canary +2 +10 +20 ± 8 +\d+", said)
        address = re.search(r"gateway at (\S+)", said)[1]

        program = tmp_path / "client.py"
        program.write_text(python_client(address, "infermesh-demo-key"))
        assert "probabilities" in output_of(str(program))
        asked = output_of(
            "-m", "infermesh.cli.main", "infer", "fraud-detector", *TRANSACTION, "--explain", "--target", address
        )
        assert "base value" in asked
        assert "merchant_category" in asked

        predictor = next(line.split()[1] for line in up.lines if line.strip().startswith("predictor "))
        os.kill(up.pid_of("services.predictor"), signal.SIGKILL)
        up.read_until(f"predictor is ready again at {predictor}")

        up.process.send_signal(signal.SIGTERM)
        up.read_until("all drained in")
        assert up.process.wait(20) == 0

    ended = [line.split()[1] for line in up.lines if line.endswith("has drained and ended")]
    assert ended == ["gateway", "transformer", "explainer", "predictor"]


def test_a_demo_that_can_not_be(tmp_path: Path):
    """Without the sample models the demo ends with the reason and exit status 1, and nothing is left running."""
    with Up("demo", "--models", str(tmp_path)) as up:
        missing = "iris, breast-cancer, fraud-detector, credit-score"
        up.read_until(f"error: the tour asks the sample models, and {missing} can't answer")

        assert up.process.wait(20) == 1


@pytest.mark.long
def test_a_demo_of_services_that_log_errors_alone():
    """The demo does not depend on what the services log."""
    levels = {f"INFERMESH_{service}__TELEMETRY__LOG_LEVEL": "error" for service in ("GATEWAY", "PREDICTOR")}

    with Up("demo", **levels) as up:
        up.read_until("that was the tour: every answer was as the samples promise")

        assert up.process.wait(20) == 0


def test_a_demo_with_a_wrong_model_fails(tmp_path: Path):
    """A version that answers with another one's values ends the demo with what came, what would be right, and exit status 1."""
    models = shutil.copytree(samples_folder() / "models", tmp_path / "models")
    shutil.copy(models / "iris" / "1" / "model.onnx", models / "iris" / "2" / "model.onnx")

    with Up("demo", "--models", str(models)) as up:
        up.read_until("error: iris version 2 answered probabilities 0.0034256")

        assert up.process.wait(20) == 1
    assert "; the samples promise 0.02, 0.93, 0.05" in up.lines[-1]

"""Services as processes: started, watched, started again, drained."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from infermesh.cli.failure import Failure
from infermesh.cli.ports import free_port, is_free
from infermesh.cli.processes import Mesh, Restarts
from infermesh.cli.scrape import scrape
from infermesh.config import ConfigError
from infermesh.errors import Unavailable
from infermesh.transport.outside import OutsideCaller
from infermesh.transport.probe import is_serving


def mesh(config: Path, **options) -> Mesh:
    return Mesh(config=config, **{"services": ["predictor"], **options})


def test_a_killed_service_comes_back(predictor_config):
    """A predictor that is killed is started again on its port, and serves; one line says so."""
    told: list[str] = []
    with mesh(predictor_config, restarts=Restarts(first_s=0.01), tell=told.append) as running:
        address, pid = running.address("predictor"), running.pid("predictor")

        os.kill(pid, signal.SIGKILL)
        running.wait_restarted("predictor", 1)

        assert running.pid("predictor") != pid
        assert running.restarts("predictor") == 1
        assert running.address("predictor") == address
        with OutsideCaller(address) as caller:
            assert caller.metadata("iris").versions == ["1", "2"]
    assert told[0].startswith("predictor was ended by SIGKILL; starting it again in 0.01 s (1 of 5")
    assert told[1] == f"predictor is ready again at {address}"


@pytest.mark.parametrize("level", ["warning", "error"])
def test_it_is_ready_whatever_is_logged(predictor_config, level):
    """A service that logs errors alone is ready as soon as another one, and after a restart too."""
    silent = {"predictor": {"INFERMESH_PREDICTOR__TELEMETRY__LOG_LEVEL": level}}

    with mesh(predictor_config, env=silent, start_s=20.0, restarts=Restarts(first_s=0.01)) as running:
        metrics = running.http_address("predictor")
        assert running.logs("predictor") == []

        os.kill(running.pid("predictor"), signal.SIGKILL)
        running.wait_restarted("predictor", 1)

        assert running.http_address("predictor") == metrics
        assert scrape(metrics) is not None


def test_a_stranger_on_the_port_is_not_taken_for_the_service(predictor_config):
    """Another service that serves on a chosen port does not make a member ready: its own process has to."""
    with mesh(predictor_config) as other:
        late = mesh(predictor_config)
        late.begin()
        late.kill()
        member = late.members[0]
        member.port = other.members[0].port
        member.spawn()

        assert not member.answers()
        late.kill()


def test_waiting_for_a_restart_ends(predictor_config):
    """A restart that does not come is told with what is there instead."""
    with (
        mesh(predictor_config) as running,
        pytest.raises(Failure, match=r"predictor: is ready after 0 restarts, not ready after 1, within 0\.05 s"),
    ):
        running.wait_restarted("predictor", 1, 0.05)


def test_two_replicas_and_one_restart(predictor_config):
    """Replicas have names, addresses and processes of their own; one can be stopped while the other serves."""
    with mesh(predictor_config, replicas=2) as running:
        assert running.names == ["predictor", "predictor-2"]

        status = running.stop_one("predictor-2")

        assert status == 0
        assert running.state("predictor-2") == "stopped"
        assert is_serving(running.address("predictor"))
        assert not is_serving(running.address("predictor-2"))

        running.start_one("predictor-2")

        assert is_serving(running.address("predictor-2"))
        assert {"ready", "draining", "stopped"} <= {line["message"] for line in running.logs("predictor-2")}
    assert not is_serving(running.address("predictor"))


def test_restarts_are_bounded(predictor_config):
    """A service that ends too often is given up: its state is failed, and whoever runs the mesh can see it."""
    told: list[str] = []
    with mesh(predictor_config, restarts=Restarts(limit=1, first_s=0.01), tell=told.append) as running:
        os.kill(running.pid("predictor"), signal.SIGKILL)
        running.wait_restarted("predictor", 1)
        os.kill(running.pid("predictor"), signal.SIGKILL)
        running.wait_until("predictor", "failed")

        assert running.failed.wait(5)
    assert told[-1].startswith("predictor was ended by SIGKILL (for the 2nd time in 60 s); it is not started again")


def test_without_restarts(predictor_config):
    """A mesh that starts nothing again leaves a service that ended stopped, with its exit status."""
    with mesh(predictor_config, restarts=None) as running:
        os.kill(running.pid("predictor"), signal.SIGTERM)
        running.wait_until("predictor", "stopped")

        assert running.status("predictor") == 0
        assert not running.failed.is_set()


def test_the_gateways_port_is_taken(predictor_config):
    """A gateway port that is taken is told before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        taken = Mesh(config=predictor_config, services=["gateway", "predictor"], gateway_port=port)

        with pytest.raises(Failure, match=rf"gateway: port 127\.0\.0\.1:{port} is taken") as refused:
            taken.start()

    assert "--gateway-port" in refused.value.hint
    assert taken.names == []


def test_a_lost_race_for_a_port_is_run_again(predictor_config):
    """A port that somebody takes between choice and use costs a second start, on other ports."""
    running = mesh(predictor_config)
    running.begin()
    first = running.address("predictor")
    running.kill()
    with socket.create_server(("127.0.0.1", int(first.rpartition(":")[2]))):
        member = running.members[0]
        member.spawn()

        running.wait_ready()

        assert running.address("predictor") != first
        assert is_serving(running.address("predictor"))
    running.stop()


def test_a_service_that_can_not_start(predictor_config, tmp_path: Path):
    """Its own last words are the reason, and nothing is left running."""
    refused = mesh(predictor_config, models=tmp_path / "nothing")

    with pytest.raises(Failure, match=r"^predictor could not be started: repository.root: .*nothing is no folder$"):
        refused.start()

    assert refused.status("predictor") == 1


def test_a_bad_configuration_starts_nothing(tmp_path: Path):
    """Every fault is named, and no process was started."""
    (tmp_path / "predictor.yaml").write_text("server: {drain: 5}\nmodels: 1\n")
    refused = mesh(tmp_path)

    with pytest.raises(ConfigError, match=r"(?s)2 faults.*server\.drain: expected a duration.*models: no such setting"):
        refused.start()

    assert refused.names == []


def test_a_folder_without_the_file(tmp_path: Path):
    """A configuration folder that lacks a service's file is refused by name."""
    with pytest.raises(Failure, match=r"expected predictor\.yaml there"):
        mesh(tmp_path).start()


def test_an_unknown_name(predictor_config):
    """Asking for a service that the mesh does not have says which it has."""
    with pytest.raises(Failure, match="no service 'gateway' in this mesh"):
        mesh(predictor_config).address("gateway")


def test_free_ports_are_free():
    """A port that is listened on is never offered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        offers = iter([port, port, 29_999])

        assert not is_free(port)
        assert free_port(lambda low, high: next(offers)) == 29_999


def test_a_mesh_is_ready_when_its_services_see_each_other(predictor_config, tmp_path):
    """A gateway that was up before its predictor, and was refused, has a connection when the mesh is said to be ready."""
    for file in predictor_config.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "gateway.yaml").write_text(
        "routes: routes.yaml\nauth: {mode: 'off'}\nbackends: {predictor: {target: 'predictor:8001'}}\n"
    )
    (tmp_path / "routes.yaml").write_text("routes: [{prefix: '', backend: predictor}]\n")
    starting = mesh(tmp_path, services=["gateway", "predictor"], start_s=20.0)
    try:
        starting.begin()
        os.kill(starting.pid("predictor"), signal.SIGSTOP)  # before it listens
        while not is_serving(starting.address("gateway")):
            assert starting.status("gateway") is None
        with OutsideCaller(starting.address("gateway")) as caller, pytest.raises(Unavailable):
            caller.index()

        os.kill(starting.pid("predictor"), signal.SIGCONT)
        starting.wait_ready()

        with OutsideCaller(starting.address("gateway")) as caller:
            assert caller.index().models
    finally:
        starting.kill()

"""One process of a mesh over all its restarts, and how the processes of a mesh are made to find each other."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from infermesh.cli.failure import Failure
from infermesh.cli.ports import HOST, free_port
from infermesh.cli.scrape import says_ready, scrape
from infermesh.cli.service_process import ServiceProcess
from infermesh.cli.wiring import overrides, setting
from infermesh.transport.probe import is_serving

__all__ = ["SERVICES", "Member", "State", "make_members"]

SERVICES = ("gateway", "transformer", "explainer", "predictor")  # as a request meets them, and as they are drained
STANDS_IN = {
    "candidate": "predictor"
}  # a service that is a process of its own in some places, and another one in others

MAX_LOG = 10_000  # lines kept of each service
ASK_S = 0.2

State = Literal["starting", "ready", "restarting", "draining", "stopped", "failed"]


@dataclass
class Member:
    """One process of the mesh, over all its restarts; both its ports stay the same."""

    name: str
    service: str
    config: Path
    port: int
    http_port: int
    env: dict[str, str] = field(default_factory=dict)
    process: ServiceProcess | None = None
    state: State = "stopped"
    restarts: int = 0
    log: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_LOG))
    ended_at: list[float] = field(default_factory=list)  # within the window of the restart policy
    start_at: float = 0.0

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def http_address(self) -> str:
        """Where `/metrics`, `/live` and `/ready` are."""
        return f"{HOST}:{self.http_port}"

    def spawn(self) -> None:
        """Start its process, which is not ready yet."""
        self.process = ServiceProcess(self.service, self.config, self.env, self.log)
        self.state = "starting"

    def answers(self) -> bool:
        """Whether the process serves. Both ports are asked: a stranger who took one of them does not have the other too."""
        running = self.process is not None and self.process.status is None
        return running and says_ready(self.http_address, ASK_S) and is_serving(self.address, timeout_s=ASK_S)

    def reaches_all(self) -> bool:
        """Whether no address that it has called, or is about to, is away as it sees them; true also when it does not tell."""
        samples = scrape(self.http_address)
        return samples is None or not samples.total("infermesh_backend_endpoints", state="away")


def make_members(
    services: Sequence[str],
    folder: Path,
    *,
    replicas: int,
    gateway_port: int,
    models: Path | None,
    redis_url: str,
    env: Mapping[str, Mapping[str, str]],
) -> dict[str, Member]:
    """The members of a mesh by their names, none of them started; what `Mesh` says of its arguments holds here.

    Raises Failure for a service without a file in the folder, ConfigError for a file that can't be used.
    """
    members: dict[str, Member] = {}
    ports = _Ports()
    for name in services:
        service = STANDS_IN.get(name, name)
        config = _config_of(name, service, folder)
        for number in range(1, replicas + 1):
            wanted = gateway_port if name == "gateway" and number == 1 else 0
            each = name if number == 1 else f"{name}-{number}"
            members[each] = Member(each, service, config, ports.take(wanted), ports.take())
    addresses = _addresses(members.values())
    for member in members.values():
        given = {**env.get(member.service, {}), **env.get(member.name, {})}
        member.env = {**_env_of(member, addresses, models, redis_url, given), **given}
    return members


class _Ports:
    """Free ports, none of them twice."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def take(self, wanted: int = 0) -> int:
        port = wanted or free_port()
        while port in self._taken:
            port = free_port()
        self._taken.add(port)
        return port


def _config_of(name: str, service: str, folder: Path) -> Path:
    for each in (name, service):
        if (folder / f"{each}.yaml").is_file():
            return folder / f"{each}.yaml"
    raise Failure(f"{folder}: expected {name}.yaml there", hint="name another folder with --config DIR")


def _env_of(
    member: Member,
    addresses: Mapping[str, list[str]],
    models: Path | None,
    redis_url: str,
    given: Mapping[str, str],
) -> dict[str, str]:
    service = member.service
    env = overrides(service, member.config, addresses, redis_url, {**os.environ, **given})
    env[setting(service, "server", "host")] = HOST
    env[setting(service, "server", "grpc_port")] = str(member.port)
    env[setting(service, "server", "http_port")] = str(member.http_port)
    env[setting(service, "server", "drain")] = "0"  # no load balancer has to learn that it goes
    env[setting(service, "telemetry", "log_format")] = "json"  # we read it
    if service == "predictor" and models is not None:
        env[setting(service, "repository", "root")] = str(models)
    if service == "explainer" and models is not None:
        env[setting(service, "models", "root")] = str(models)
    return env


def _addresses(members: Iterable[Member]) -> dict[str, list[str]]:
    """The addresses behind each host name that configuration files may use."""
    addresses: dict[str, list[str]] = {}
    for member in members:
        host = member.name if member.name in STANDS_IN else member.service
        addresses.setdefault(host, []).append(member.address)
    for host, other in STANDS_IN.items():
        if host not in addresses and other in addresses:
            addresses[host] = addresses[other][:1]
    return addresses

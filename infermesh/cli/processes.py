"""The services of a mesh as processes of this machine: started together, watched, started again, drained in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infermesh.cli.failure import Failure
from infermesh.cli.member import SERVICES, Member, State, make_members
from infermesh.cli.ports import HOST, is_free
from infermesh.cli.service_process import EXIT_CONFIG, EXIT_PORT, ServiceProcess

__all__ = ["SERVICES", "Member", "Mesh", "Restarts", "samples_folder"]

POLL_S = 0.02
WATCH_S = 0.1
PORT_TRIES = 3
REACH_S = 2.0  # one of the configuration's backends may be away for good: no reason not to be ready


def samples_folder() -> Path:
    """Where the sample models, features and configuration are."""
    import samples

    return Path(samples.__path__[0])


@dataclass(frozen=True)
class Restarts:
    """How often a service that ends by itself is started again: `limit` times in `window_s`, each later than the last."""

    limit: int = 5
    window_s: float = 60.0
    first_s: float = 0.2
    longest_s: float = 5.0

    def pause_s(self, so_far: int) -> float:
        """The wait before the next start, after so many in the window."""
        return min(self.longest_s, self.first_s * 2.0**so_far)


class Mesh:
    """Starts the services on entry and returns when all are ready; drains them on exit. A context manager; blocking.

    `config` is a folder with `<service>.yaml` for each service (left out: the samples'); values there that name a service
    as host are overridden by the addresses here. `models` is the predictors' repository. There are `replicas` of each
    service, named `predictor`, `predictor-2`, …, which stand behind one target. `services` may leave some out, or add
    `candidate`, a predictor of its own for shadows; without it the first predictor answers in its place. `env` has further
    variables for each service (by the name of the service, or of one process), and wins. Gateway port 0: any free one.

    A service that ends by itself is started again on its port, as `restarts` says (None: never); when that is used up, or its
    configuration has become bad, its state is `failed` and `failed` is set. `tell` gets one line for each such event, in a
    thread of the mesh.
    """

    def __init__(
        self,
        *,
        config: Path | None = None,
        models: Path | None = None,
        redis_url: str = "",
        services: Sequence[str] = SERVICES,
        replicas: int = 1,
        gateway_port: int = 0,
        env: Mapping[str, Mapping[str, str]] | None = None,
        restarts: Restarts | None = Restarts(),
        start_s: float = 60.0,
        grace_s: float = 20.0,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.config = (config or samples_folder() / "config").resolve()
        self.models = models.resolve() if models else None
        self.redis_url = redis_url
        self.failed = threading.Event()
        self._services = tuple(services)
        self._replicas = replicas
        self._gateway_port = gateway_port
        self._env = env or {}
        self._restarts = restarts
        self._start_s = start_s
        self._grace_s = grace_s
        self._tell = tell
        self._members: dict[str, Member] = {}
        self._lock = threading.RLock()  # of the members' states; never held while something is waited for
        self._leaving = threading.Event()
        self._watcher: threading.Thread | None = None
        self._pause = threading.Event()  # never set

    # ---- the mesh as a whole

    def begin(self) -> None:
        """Start the processes, and return at once; `wait_ready` is to follow. Raises Failure for a port that is taken."""
        if self._gateway_port and "gateway" in self._services and not is_free(self._gateway_port):
            raise _gateway_port_taken(self._gateway_port)
        logs = {name: member.log for name, member in self._members.items()}
        self._members = make_members(
            self._services, self.config, replicas=self._replicas, gateway_port=self._gateway_port, models=self.models,
            redis_url=self.redis_url, env=self._env,
        )  # fmt: skip
        for name, log in logs.items():  # of an earlier try
            self._members[name].log = log
        for member in self._members.values():
            member.spawn()

    def wait_ready(self) -> None:
        """Return when every service is ready. Raises Failure, and nothing runs any more, when one ends or takes too long.

        A service that was ready before one that it calls may have been refused a connection, and makes the next one a moment
        later: until then its calls would fail, so that is waited for too, within bounds.
        """
        for left in reversed(range(PORT_TRIES)):
            try:
                self._wait_for(list(self._members.values()))
                break
            except _PortLost:  # somebody was faster: other ports for all, since they know each other's
                self.kill()
                if not left:
                    raise
                self.begin()
            except BaseException:
                self.kill()
                raise
        self._wait_connected(list(self._members.values()))
        self._leaving.clear()
        self._watcher = threading.Thread(target=self._watch, name="mesh-watch", daemon=True)
        self._watcher.start()

    def start(self) -> Mesh:
        """`begin` and `wait_ready`."""
        try:
            self.begin()
        except BaseException:
            self.kill()
            raise
        self.wait_ready()
        return self

    def stop(self) -> None:
        """Drain and end them all: gateway, transformer, explainer, predictors. What is not done after the grace is killed."""
        self._end_watch()
        groups: dict[str, list[Member]] = {}
        for member in self._members.values():
            groups.setdefault(member.service, []).append(member)
        for service in sorted(groups, key=_turn):
            self._drain(groups[service])

    def kill(self) -> None:
        """End them all at once, without a drain."""
        self._end_watch()
        for member in self._members.values():
            if member.process is not None:
                member.process.kill()
                member.process.wait(5.0)
                member.state = "stopped"

    def __enter__(self) -> Mesh:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop()

    # ---- one process, by its name

    @property
    def members(self) -> list[Member]:
        return list(self._members.values())

    @property
    def names(self) -> list[str]:
        return list(self._members)

    def address(self, name: str) -> str:
        """`host:port` of its gRPC port, which stays the same over restarts."""
        return self._member(name).address

    def http_address(self, name: str) -> str:
        """`host:port` of its `/metrics`, `/live` and `/ready`, which stays the same too."""
        return self._member(name).http_address

    def pid(self, name: str) -> int:
        """The id of its present process."""
        process = self._member(name).process
        assert process is not None
        return process.pid

    def status(self, name: str) -> int | None:
        """None while its process runs, else the exit status."""
        process = self._member(name).process
        return process.status if process else None

    def state(self, name: str) -> State:
        return self._member(name).state

    def restarts(self, name: str) -> int:
        """How often it was started again after it had ended by itself."""
        return self._member(name).restarts

    def logs(self, name: str) -> list[dict[str, Any]]:
        """Its log lines, over all its processes; see `ServiceProcess`."""
        return list(self._member(name).log)

    def stop_one(self, name: str) -> int:
        """Drain one process and leave it stopped; returns its exit status."""
        member = self._member(name)
        self._drain([member])
        assert member.process is not None
        return member.process.status or 0

    def start_one(self, name: str) -> None:
        """Start one that is stopped, on the port that it had, and return when it is ready."""
        member = self._member(name)
        with self._lock:
            member.spawn()
        self._wait_for([member])

    def restart(self, name: str) -> None:
        """Drain one process and start it again."""
        self.stop_one(name)
        self.start_one(name)

    def wait_until(self, name: str, state: State, timeout_s: float = 30.0) -> None:
        """Return when a process is in a state. Raises Failure when that takes longer."""
        end = time.monotonic() + timeout_s
        while self._member(name).state != state:
            if time.monotonic() >= end:
                raise Failure(f"{name}: is {self.state(name)}, not {state}, after {timeout_s:g} s")
            self._pause.wait(POLL_S)

    def wait_restarted(self, name: str, times: int, timeout_s: float = 30.0) -> None:
        """Return when a process has been started again so often, and is ready. Raises Failure when that takes longer.

        Unlike a wait for `restarting`, which may be over before anybody looks, this can't miss what it waits for.
        """
        end = time.monotonic() + timeout_s
        while self.restarts(name) < times or self.state(name) != "ready":
            if time.monotonic() >= end:
                now = f"is {self.state(name)} after {self.restarts(name)} restarts"
                raise Failure(f"{name}: {now}, not ready after {times}, within {timeout_s:g} s")
            self._pause.wait(POLL_S)

    # ---- inside

    def _member(self, name: str) -> Member:
        try:
            return self._members[name]
        except KeyError:
            raise Failure(f"no service {name!r} in this mesh; it has {', '.join(self._members)}") from None

    def _wait_for(self, members: list[Member]) -> None:
        waiting = list(members)
        end = time.monotonic() + self._start_s
        while waiting:
            for member in list(waiting):
                process = member.process
                assert process is not None
                if process.status is not None:
                    raise self._could_not_start(member, process)
                if member.answers():
                    member.state = "ready"
                    waiting.remove(member)
            if waiting and time.monotonic() >= end:
                names = ", ".join(member.name for member in waiting)
                raise Failure(f"{names}: not ready after {self._start_s:g} s")
            self._pause.wait(POLL_S if waiting else 0)

    def _wait_connected(self, members: list[Member]) -> None:
        end = time.monotonic() + REACH_S
        waiting = [member for member in members if not member.reaches_all()]
        while waiting and time.monotonic() < end:
            self._pause.wait(POLL_S)
            waiting = [member for member in waiting if not member.reaches_all()]

    def _could_not_start(self, member: Member, process: ServiceProcess) -> Failure:
        member.state = "failed"
        if process.status == EXIT_PORT:
            if member.name == "gateway" and self._gateway_port:
                return _gateway_port_taken(self._gateway_port)
            return _PortLost(f"{member.name}: port {member.port} was taken while it started")
        said = process.last_words()
        if said.startswith(f"{member.service} could not be started: "):  # its own summary
            return Failure(said.replace(member.service, member.name, 1))
        return Failure(f"{member.name} could not be started: it {process.ending()}")

    def _drain(self, members: list[Member]) -> None:
        running: list[Member] = []
        with self._lock:
            for member in members:
                if member.process is not None and member.process.status is None:
                    member.state = "draining"
                    member.process.terminate()
                    running.append(member)
                elif member.state != "failed":
                    member.state = "stopped"
        end = time.monotonic() + self._grace_s
        for member in running:
            assert member.process is not None
            if member.process.wait(max(0.1, end - time.monotonic())):
                self._tell(f"{member.name} {member.process.ending()}")
            else:
                self._tell(f"{member.name} did not end within {self._grace_s:g} s and was killed")
                member.process.kill()
                member.process.wait(5.0)
            member.state = "stopped"

    def _end_watch(self) -> None:
        self._leaving.set()
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join()
        self._watcher = None

    def _watch(self) -> None:
        while not self._leaving.wait(WATCH_S):
            for member in self._members.values():
                with self._lock:
                    self._look_at(member)
                if member.state == "starting":
                    self._greet(member)

    def _look_at(self, member: Member) -> None:
        """Notice that a process has ended, or that it is time to start it again."""
        process = member.process
        if member.state in ("ready", "starting") and process is not None and process.status is not None:
            self._ended(member, process)
        elif member.state == "restarting" and time.monotonic() >= member.start_at:
            member.restarts += 1
            member.spawn()

    def _ended(self, member: Member, process: ServiceProcess) -> None:
        policy = self._restarts
        line = f"{member.name} {process.ending()}"
        if policy is None:
            member.state = "stopped"
            self._tell(line)
            return
        now = time.monotonic()
        member.ended_at = [at for at in member.ended_at if at > now - policy.window_s]
        so_far = len(member.ended_at)
        if so_far >= policy.limit or process.status == EXIT_CONFIG:
            member.state = "failed"
            why = (
                ""
                if process.status == EXIT_CONFIG
                else f" (for the {_ordinal(so_far + 1)} time in {policy.window_s:g} s)"
            )
            self._tell(f"{line}{why}; it is not started again")
            self.failed.set()
            return
        pause_s = policy.pause_s(so_far)
        member.ended_at.append(now)
        member.start_at = now + pause_s
        member.state = "restarting"
        self._tell(
            f"{line}; starting it again in {pause_s:g} s ({so_far + 1} of {policy.limit} in {policy.window_s:g} s)"
        )

    def _greet(self, member: Member) -> None:
        if member.answers():
            with self._lock, suppress(Failure):
                if member.state == "starting":
                    member.state = "ready"
                    self._tell(f"{member.name} is ready again at {member.address}")


class _PortLost(Failure):
    """A port that was free when we looked."""


def _gateway_port_taken(port: int) -> Failure:
    return Failure(
        f"gateway: port {HOST}:{port} is taken", hint="choose another one by --gateway-port, or 0 for any free one"
    )


def _turn(service: str) -> int:
    return SERVICES.index(service) if service in SERVICES else len(SERVICES)


def _ordinal(number: int) -> str:
    return f"{number}{'th' if number % 100 in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"

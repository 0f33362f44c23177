"""The addresses behind a backend, and which of them the next call goes to."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import grpc

from infermesh.breaker import Breaker
from infermesh.config import BackendConfig
from infermesh.errors import DeadlineExceeded, Unavailable
from infermesh.transport.channel import Channel
from infermesh.transport.endpoint import Endpoint
from infermesh.transport.http2.lane import Lane
from infermesh.transport.resolver import MAX_ADDRESSES, Dns, Resolver, resolver_of
from infermesh.transport.tls import Observe, Pem, follow, ignore, read_client

__all__ = ["EndpointObserver", "Endpoints"]

PROBE_TIMEOUT_S = 1.0  # a service that needs longer to say that it serves does not
FOLLOWERS_END_S = 0.2  # after their channels, which grpc keeps while somebody holds a call that has ended
RESOLVE_AGAIN_S = 1.0  # the least between two look-ups
RESOLVE_JITTER = 0.2  # of the pause between look-ups: replicas that start together do not ask together for ever

# Makes a channel, of one address here, follow the health of its replica (gRFC A17): it is not READY while that starts or drains.
SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}})

_log = logging.getLogger(__name__)


class EndpointObserver(Protocol):
    """What is told of a backend's endpoints."""

    def endpoints(self, ready: int, ejected: int, away: int) -> None:
        """How many there are of each kind, now: `ejected` are connected, and left out by their breakers."""

    def breaker(self, change: str) -> None:
        """One was `opened`, `half_opened` or `closed`."""

    def resolved(self, good: bool) -> None:
        """The name was looked up."""


class _Nobody(EndpointObserver):
    def endpoints(self, ready: int, ejected: int, away: int) -> None:
        return

    def breaker(self, change: str) -> None:
        return

    def resolved(self, good: bool) -> None:
        return


class Endpoints:
    """One channel for each address, made when the first call comes; calls go to the ready ones whose breakers are closed.

    A name is looked up again and again, and when an address fails; what it found last stays while it can't be. An address that is
    gone gets no new call, those under way end. With every breaker open calls go on to all that are ready: the last endpoint is
    never left out. What a breaker left out is asked for its health after a pause, and then gets one call as a trial.
    Linkerd and Envoy name these parts alike: resolution, balancer, outlier detection.
    """

    def __init__(
        self,
        config: BackendConfig,
        name: str,
        *,
        resolver: Resolver | None = None,
        observe: EndpointObserver | None = None,
        observe_tls: Observe = ignore,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self.closed = False
        self._config = config
        self._resolver = resolver or resolver_of(config.target)
        self._observe = observe or _Nobody()
        self._clock = clock
        self._draw = draw
        self._by_load = config.balance == "p2c"
        self._enforces = config.breaker.mode == "enforce"
        self._limits = config.breaker.limits() if config.breaker.mode != "off" else None
        self._all: dict[str, Endpoint] = {}
        self._rotation: list[Endpoint] = []
        self._trials: list[Endpoint] = []
        self._at = -1
        self._fault = ""  # of the last look-up
        self._started = False
        self._changed = asyncio.Event()  # set, and replaced, at each change
        self._look_up = asyncio.Event()
        self._tasks: set[asyncio.Future[None]] = set()
        self._following: set[asyncio.Future[None]] = set()
        self._options = _options(config)
        self._credentials: grpc.ChannelCredentials | None = None
        if config.tls is not None:
            read = functools.partial(read_client, config.tls, name)
            pem = read()  # as the service starts: nothing runs yet that this could hold up
            self._credentials = _credentials(pem)
            observe_tls(True, pem.expires_at)
            self._keep(follow(pem, read, self._adopt, observe_tls, config.tls.look_every))

    def pick(self, tried: tuple[str, ...] = ()) -> Endpoint | None:
        """The endpoint for the next call, one that was not tried where there is one; None while none is ready."""
        if self._trials and not tried:
            endpoint = self._trials.pop()
            endpoint.on_trial = True
            return endpoint
        rotation = self._rotation
        if tried:
            rotation = [each for each in rotation if each.address not in tried] or rotation
        count = len(rotation)
        if count < 2:
            return rotation[0] if rotation else None
        if self._by_load:
            one, other = int(self._draw() * count), int(self._draw() * (count - 1))
            if other >= one:
                other += 1
            first, second = rotation[one], rotation[other]
            return first if first.in_flight <= second.in_flight else second
        self._at = at = (self._at + 1) % count
        return rotation[at]

    def another(self, tried: tuple[str, ...]) -> Endpoint | None:
        """A ready endpoint that was not tried; None: there is none."""
        endpoint = self.pick(tried)
        return endpoint if endpoint is not None and endpoint.address not in tried else None

    def has_other(self, tried: tuple[str, ...]) -> bool:
        """Whether there is a ready endpoint that was not tried; none is picked."""
        return any(each.address not in tried for each in self._rotation)

    async def wait(self, timeout_s: float | None, tried: tuple[str, ...] = ()) -> Endpoint:
        """As `pick`, and waits for one to be ready, or all to be away; then one that is away is returned: it knows why.

        Raises Unavailable when no address is known, DeadlineExceeded when the time is over.
        """
        self._start()
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    if self.closed:
                        raise Unavailable(
                            f"{self.name}: its channel was closed", reason="CHANNEL_CLOSED", hop=self.name
                        )
                    if (endpoint := self.pick(tried)) is not None:
                        return endpoint
                    if self._all and all(each.is_away for each in self._all.values()):
                        self._at += 1
                        away = [each for each in self._all.values() if each.address not in tried]
                        away = away or list(self._all.values())
                        return away[self._at % len(away)]
                    if not self._all and self._fault:
                        raise Unavailable(
                            f"{self.name}: name resolution of {self._config.target} failed: {self._fault}",
                            rejected=True,
                            hop=self.name,
                        )
                    await self._changed.wait()
        except TimeoutError:
            raise DeadlineExceeded(
                f"{self.name}: no connection within the deadline", rejected=True, reason="NO_CONNECTION", hop=self.name
            ) from None

    def refresh(self, endpoint: Endpoint) -> None:
        """Look at the channel now: a call was refused that the last known state had not foreseen."""
        self._note(endpoint, endpoint.channel.grpc.get_state())

    def give_back(self, endpoint: Endpoint, trial: int) -> None:
        """The trial of this period said nothing about the endpoint; the next call is another."""
        breaker = endpoint.breaker
        if breaker is None or not breaker.is_half_open or breaker.period != trial:
            return  # it was decided, and perhaps there is a trial of a later period
        if self._all.get(endpoint.address) is endpoint:
            self._trials.append(endpoint)

    async def close(self) -> None:
        """Close every channel; the calls on them are ended."""
        self.closed = True
        self._tell()
        self._rotation, self._trials = [], []
        for each in (ending := list(self._tasks)):
            each.cancel()
        if ending:
            await asyncio.wait(ending)
        for endpoint in self._all.values():
            await endpoint.channel.close()
        if (
            self._following
        ):  # they end with their channels: grpc would report a watch that was cancelled to a loop that is gone
            _, left = await asyncio.wait(self._following, timeout=FOLLOWERS_END_S)
            for each in left:
                each.cancel()

    def __repr__(self) -> str:
        return f"Endpoints({', '.join(map(repr, self._all.values())) or self._config.target})"

    def _start(self) -> None:
        if self._started or self.closed:
            return
        self._started = True
        if self._resolver.changes:
            self._keep(self._follow_name())
        else:
            self._keep(self._resolve())

    async def _follow_name(self) -> None:
        while True:
            self._look_up.clear()
            await self._resolve()
            await asyncio.sleep(RESOLVE_AGAIN_S)
            pause_s = self._config.resolve_every * (1 + RESOLVE_JITTER * (self._draw() - 0.5)) - RESOLVE_AGAIN_S
            try:
                async with asyncio.timeout(max(0.0, pause_s)):
                    await self._look_up.wait()
            except TimeoutError:
                pass

    async def _resolve(self) -> None:
        try:
            addresses = await self._resolver.resolve()
        except Exception as error:  # of the system's resolver: OSError and UnicodeError; the following must go on
            if not self._fault:
                last = "the last addresses stay in use" if self._all else "there is no address to call"
                _log.warning("%s: %s can't be looked up, %s: %s", self.name, self._config.target, last, error)
            self._fault = str(error) or type(error).__name__
            self._observe.resolved(False)
            self._tell()
            return
        self._fault = ""
        self._observe.resolved(True)
        self._set(addresses[:MAX_ADDRESSES])

    def _set(self, addresses: list[str]) -> None:
        for address in [each for each in self._all if each not in addresses]:
            endpoint = self._all.pop(address)
            if endpoint in self._trials:
                self._trials.remove(endpoint)
            self._keep(endpoint.channel.leave())
        for address in addresses:
            if address not in self._all:
                channel = Channel(address, self._options, self._credentials, self._lane(address))
                self._all[address] = endpoint = Endpoint(address, channel, None)
                if self._limits is not None:
                    changed = functools.partial(self._breaker_changed, endpoint)
                    endpoint.breaker = Breaker(self._limits, changed=changed, clock=self._clock, draw=self._draw)
                self._start_following(endpoint)
        self._rebuild()

    def _lane(self, address: str) -> Lane | None:
        """Plain text alone: certificates that change, and who may call whom, are grpc's."""
        config = self._config
        if config.via != "http2" or config.tls is not None:
            return None
        authority = str(config.target) if isinstance(resolver_of(config.target), Dns) else address
        limit = config.max_message
        return Lane(address, authority, max_send=limit, max_receive=limit, keepalive_s=config.keepalive)

    async def _follow(self, endpoint: Endpoint) -> None:
        """Keep the endpoint's present channel connected and know its state, until it is closed or changed for another."""
        channel = endpoint.channel.grpc
        while endpoint.channel.grpc is channel:
            state = channel.get_state(try_to_connect=True)
            if state is grpc.ChannelConnectivity.SHUTDOWN:
                return
            self._note(endpoint, state)
            await channel.wait_for_state_change(state)

    def _note(self, endpoint: Endpoint, state: grpc.ChannelConnectivity) -> None:
        was = (endpoint.is_ready, endpoint.is_away)
        endpoint.is_ready = state is grpc.ChannelConnectivity.READY
        if endpoint.is_ready:
            endpoint.is_away = False
        elif state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            endpoint.is_away = True
            self._look_up.set()
        if was != (endpoint.is_ready, endpoint.is_away):
            self._rebuild()

    def _breaker_changed(self, endpoint: Endpoint, change: str) -> None:
        self._observe.breaker(change)
        if change == "opened":
            _log.warning("%s: %s keeps failing%s", self.name, endpoint.address, "" if self._enforces else " (observed)")
            self._keep(self._probe(endpoint))
        elif change == "closed":
            _log.info("%s: %s answers again", self.name, endpoint.address)
        self._rebuild()

    async def _probe(self, endpoint: Endpoint) -> None:
        """Ask an endpoint that was left out for its health, again and again; when it is well the next call is its trial."""
        breaker = endpoint.breaker
        assert breaker is not None
        while self._all.get(endpoint.address) is endpoint:
            await asyncio.sleep(max(0.0, breaker.retry_at - self._clock()))
            if await endpoint.channel.is_serving(PROBE_TIMEOUT_S):
                breaker.half_open()
                self._trials.append(endpoint)
                return
            breaker.still_broken()

    def _rebuild(self) -> None:
        ready = [each for each in self._all.values() if each.is_ready]
        closed = [each for each in ready if each.breaker is None or each.breaker.is_closed]
        self._rotation = closed if closed and self._enforces else ready
        self._observe.endpoints(len(closed), len(ready) - len(closed), len(self._all) - len(ready))
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _adopt(self, pem: Pem) -> bool:
        """Go over to these certificates with every endpoint; false when one of them can't, which keeps what it has."""
        credentials = _credentials(pem)
        taken = True
        for endpoint in list(self._all.values()):
            if not await endpoint.channel.adopt(credentials):
                taken = False
                _log.error("%s: %s can't be reached with the new certificates", self.name, endpoint.address)
            else:
                self._start_following(endpoint)
        if taken:
            self._credentials = credentials
        return taken

    def _start_following(self, endpoint: Endpoint) -> None:
        task = asyncio.ensure_future(self._follow(endpoint))
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _credentials(pem: Pem) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(pem.ca or None, pem.key or None, pem.cert or None)


def _options(config: BackendConfig) -> list[tuple[str, Any]]:
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", config.max_message),
        ("grpc.max_receive_message_length", config.max_message),
        ("grpc.service_config", SERVICE_CONFIG),
        # a proxy for the way out of the cluster, from the environment, is none to a service
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),  # a breaker's view of a backend must not be shared by accident
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),  # is also how long one attempt to connect may take
        ("grpc.max_reconnect_backoff_ms", 250),  # a backend that comes back is used while retries still wait for it
        ("grpc.keepalive_time_ms", int(config.keepalive * 1000)),  # finds a peer that vanished without a word
        ("grpc.keepalive_timeout_ms", 5_000),
    ]
    # The channels know addresses alone, so a target's name is given to them.
    host = resolver.host if isinstance(resolver := resolver_of(config.target), Dns) else ""
    if config.tls is not None:
        if name := config.tls.server_name or host:
            options.append(("grpc.ssl_target_name_override", name))  # is the authority too
    elif host:
        options.append(("grpc.default_authority", str(config.target)))
    return options

"""A cluster: every key is asked of the node that has its slot, all nodes at the same time."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from services.transformer.breaker import Breaker
from services.transformer.redis.connection import Connection
from services.transformer.redis.deadlines import Deadlines
from services.transformer.redis.errors import Away, Late, Lost, RedisReplyError, Unanswered, Unfit, explained
from services.transformer.redis.flights import Flights
from services.transformer.redis.node import Node, Wait
from services.transformer.redis.opening import Opener
from services.transformer.redis.request import Command, Request, commands
from services.transformer.redis.settings import RedisConfig
from services.transformer.redis.slots import SLOTS, Owners, slot_of, slots_read
from services.transformer.redis.url import Place

__all__ = ["ClusterClient"]

HOPS = 5  # redirections that are followed for one question: a slot that moves costs one or two
REFRESH_S = 0.1  # at least, between two looks at the map of slots
MAX_NODES = 1000

_ASKING = (b"ASKING",)


class ClusterClient:
    """Keeps the map of slots, which is read in the background when a node says that it is old, or does not answer.

    A node that is away is so for its keys alone. A question whose node has the slot no more is asked again where that node says,
    and one whose node was lost where the map says then, both within the caller's time.
    """

    def __init__(
        self,
        config: RedisConfig,
        *,
        failed: Callable[[str], None] = lambda why: None,
        tell: Callable[[Request], None] | None = None,
        tell_lost: Callable[[], None] = lambda: None,
        tell_made: Callable[[], None] = lambda: None,  # a node that is there says nothing of the others
        pushed: Callable[[list[Any]], None] = lambda push: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._opener = Opener(config)
        self._failed, self._tell_lost, self._pushed = failed, tell_lost, pushed
        self._clock = clock
        self._deadlines = Deadlines()
        self._flights = Flights(config.timeout / 2, tell=tell)
        self._nodes: dict[Place, Node] = {}
        self._owners: list[Owners | None] = [None] * SLOTS
        self._has_map = False
        self._finding = Breaker(config.failures)  # while there is no map
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed_at = -REFRESH_S
        self._why = ""
        self._turn = itertools.count()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def is_up(self) -> bool:
        return not self._finding.is_open and not any(node.is_away for node in self._nodes.values())

    async def mget(self, keys: Sequence[bytes], *, deadline_s: float, counts: bool = True) -> list[bytes | None]:
        try:
            replies = await self.ask(*((b"GET", key) for key in keys), deadline_s=deadline_s, counts=counts)
        except Unanswered as error:
            raise error.beside(_values({words[1]: reply for words, reply in error.found.items()})) from None  # type: ignore[index]
        for at, reply in enumerate(replies):
            if type(reply) is RedisReplyError:
                if reply.code != "WRONGTYPE":
                    raise Unfit(explained(reply)).beside(_values(dict(zip(keys, replies, strict=True))))
                replies[at] = None  # as MGET says it
        return replies

    async def ask(self, *given: Command, deadline_s: float, counts: bool = True) -> list[Any]:
        if not given:
            return []
        due = self._clock() + deadline_s
        asked = [tuple(each) for each in given]
        if not self._has_map:
            await self._found(deadline_s)
        found: dict[Hashable, Any] = {}
        left = list(dict.fromkeys(asked))
        for _ in range(HOPS):
            try:
                left = await self._round(left, found, due, counts=counts)
            except Unanswered as error:
                raise error.beside(found) from None
            if not left:
                return [found[each] for each in asked]
        raise Lost("slots of the cluster move too fast").beside(found)

    async def probe(self) -> bool:
        """Whether all nodes that have slots answer; a node whose breaker is open is asked too."""
        if not self._has_map:
            try:
                await self._found(self._config.connect_timeout, is_probe=True)
            except Unanswered:
                return False
        nodes = list(self._nodes.values())
        answers = await asyncio.gather(*(node.probe(self._config.timeout) for node in nodes))
        if not all(answers):
            self._refresh()
        return all(answers)

    async def close(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait({self._refreshing})
        for node in self._nodes.values():
            await node.close()
        if self._closing:
            await asyncio.wait(self._closing)
        self._deadlines.close()

    async def _round(
        self, asked: list[tuple[bytes, ...]], found: dict[Hashable, Any], due: float, *, counts: bool
    ) -> list[tuple[bytes, ...]]:
        """Ask each of its node; what is to be asked once more, since the map has changed.

        A node that fails keeps nobody from taking what the others reply: only then its error is raised.
        """
        groups: dict[Place, list[tuple[bytes, ...]]] = {}
        failures: list[Unanswered] = []
        for each in asked:
            try:
                groups.setdefault(self._place(slot_of(each[1])), []).append(each)
            except Unanswered as error:
                failures.append(error)
        waits: list[tuple[Place, Node, Wait]] = []
        again: list[tuple[bytes, ...]] = []
        try:
            for place, items in groups.items():
                try:
                    node = self._node(place)
                    begun = self._flights.start(node, items, commands, due - self._clock())
                    waits += [(place, node, wait) for wait in begun]
                except Unanswered as error:
                    failures.append(error)
            wanted = set(asked)
            for place, node, wait in waits:
                try:
                    again += await self._taken(place, node, wait, wanted, found, due, counts=counts)
                except Unanswered as error:
                    failures.append(error)
        finally:
            for *_, wait in waits:
                wait.leave()
        if failures:
            if counts or not all(isinstance(error, Late) for error in failures):
                self._refresh()
            raise failures[0]
        return again

    async def _taken(
        self,
        place: Place,
        node: Node,
        wait: Wait,
        wanted: set[tuple[bytes, ...]],
        found: dict[Hashable, Any],
        due: float,
        *,
        counts: bool,
    ) -> list[tuple[bytes, ...]]:
        """Take what a node replies; what is to be asked once more."""
        try:
            request = await node.finish(wait, counts=counts)
        except Lost:
            self._refresh()
            await self._mapped(due - self._clock())
            return [each for each in wait.request.items if each in wanted]
        again = []
        for item, reply in zip(request.items, request.replies, strict=True):
            if item not in wanted:
                continue  # another caller's, in the same request
            if type(reply) is not RedisReplyError:
                found[item] = reply
            elif reply.code == "MOVED":
                self._moved(reply, place)
                again.append(item)
            elif reply.code == "ASK":
                found[item] = await self._elsewhere(_place_in(reply, place), item, due, counts=counts)
            else:
                found[item] = reply
        return again

    async def _elsewhere(self, place: Place, item: Command, due: float, *, counts: bool) -> Any:
        """The reply of the node to which the slot is on its way: this key is there already."""
        node = self._node(place)
        request = commands([_ASKING, item])
        node.send(request)
        wait = node.attach(request, due - self._clock())
        try:
            return (await node.finish(wait, counts=counts)).replies[1]
        finally:
            wait.leave()

    def _place(self, slot: int) -> Place:
        owners = self._owners[slot]
        if owners is None:
            self._refresh()
            raise Unfit("slots of the cluster have no server (CLUSTERDOWN)")
        if self._config.read_from == "replica" and owners.replicas:
            at = next(self._turn)
            for each in range(len(owners.replicas)):
                place = owners.replicas[(at + each) % len(owners.replicas)]
                node = self._node(place)
                if not node.is_away and not node.lanes[0].why:
                    return place
        return owners.primary

    def _node(self, place: Place) -> Node:
        node = self._nodes.get(place)
        if node is None:
            if len(self._nodes) >= MAX_NODES:
                raise Lost("the cluster names more nodes than it can have")

            async def open_(connection: Connection) -> None:
                await self._opener.open(connection, place)

            node = self._nodes[place] = Node(
                self._config,
                open_,
                self._deadlines,
                tell_lost=self._tell_lost,
                pushed=self._pushed,
                failed=self._failed,
            )
        return node

    def _moved(self, reply: RedisReplyError, asked: Place) -> None:
        slot, place = int(str(reply).split()[1]), _place_in(reply, asked)
        owners = self._owners[slot]
        if owners is None or owners.primary != place:
            self._owners[slot] = Owners(place)
            self._tell_lost()  # who had the slot tells of its keys no more
        self._refresh()

    def _refresh(self) -> None:
        """Have the map read, in the background and not too often."""
        if self._refreshing is None:
            self._refreshing = asyncio.ensure_future(self._refreshed())

    async def _found(self, within_s: float, *, is_probe: bool = False) -> None:
        """Wait for the first map."""
        if self._finding.is_open and not is_probe:
            raise Away("Redis is away")
        try:
            await self._mapped(within_s)
        except Unanswered as error:
            if isinstance(error, Lost) or is_probe:
                self._finding.failed()
                self._failed(str(error))
            raise
        self._finding.succeeded()

    async def _mapped(self, within_s: float) -> None:
        """Wait until the map has been read. Raises Late and Lost."""
        self._refresh()
        assert self._refreshing is not None
        done, _ = await asyncio.wait({self._refreshing}, timeout=max(0.0, within_s))
        if not done:
            raise Late
        if not self._has_map:
            raise Lost(self._why)

    async def _refreshed(self) -> None:
        try:
            await asyncio.sleep(max(0.0, self._refreshed_at + REFRESH_S - self._clock()))
            known = [place for place, node in self._nodes.items() if not node.is_away]
            for place in dict.fromkeys([*known, *self._opener.url.places]):
                try:
                    owners = await self._read_map(place)
                except (Unanswered, OSError, TimeoutError) as error:
                    self._why = f"{place[0]}:{place[1]}: {error or type(error).__name__}"
                    continue
                self._take(owners)
                return
        finally:
            self._refreshed_at = self._clock()
            self._refreshing = None

    async def _read_map(self, place: Place) -> list[Owners | None]:
        connection = Connection()
        try:
            async with asyncio.timeout(self._config.connect_timeout):
                (reply,) = await self._opener.open(connection, place, [(b"CLUSTER", b"SLOTS")])
        finally:
            connection.abort()
        if isinstance(reply, RedisReplyError):
            raise Unfit(explained(reply))
        return slots_read(reply, place)

    def _take(self, owners: list[Owners | None]) -> None:
        if owners != self._owners:
            self._tell_lost()
        self._owners, self._has_map = owners, True
        named = {place for each in set(owners) if each is not None for place in (each.primary, *each.replicas)}
        for place in self._nodes.keys() - named:
            task = asyncio.ensure_future(self._nodes.pop(place).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _place_in(reply: RedisReplyError, asked: Place) -> Place:
    """Where a redirection leads; a node that does not know a host leaves it out, and it is then the host that was asked."""
    host, _, port = str(reply).split()[2].rpartition(":")
    return asked[0] if host in ("", "?") else host, int(port)


def _values(replies: Mapping[bytes, Any]) -> dict[Hashable, Any]:
    """What keys hold as MGET says it, without those that a node could not tell."""
    told: dict[Hashable, Any] = {}
    for key, reply in replies.items():
        if type(reply) is not RedisReplyError:
            told[key] = reply
        elif reply.code == "WRONGTYPE":
            told[key] = None
    return told

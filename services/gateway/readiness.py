"""Which variants are ready, asked in the background: nobody's call waits for it."""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

from infermesh.errors import DeadlineExceeded, InvalidRequest, MeshError, NotFound, Unavailable

__all__ = ["Gate", "Place", "ReadinessWatch"]

MAX_AT_ONCE = 32  # probes under way
MAX_PER_S = 50.0  # probes begun; with more variants than that allows each is asked less often
PROBE_TIMEOUT_S = 2.0  # for a service that is not remote; RemoteService gives up earlier
DOUBT_S = 0.5  # until the next probe of one that has begun to say something else
SUSPECT_PAUSE_S = 0.25  # the least between two probes of one that calls have found away
JITTER = 0.2  # of the pause, so that gateways that start together do not ask together for ever

_log = logging.getLogger(__name__)

Listener = Callable[[], None]


class Place(NamedTuple):
    """What is watched: a version of a model at a backend; without a model, the backend itself."""

    backend: str
    model: str
    version: str


class Gate:
    """Whether a variant gets calls. It is open until probes have said otherwise: nothing waits for the first one."""

    def __init__(self, place: Place, probe: Callable[[], Awaitable[bool]]) -> None:
        self.place = place
        self.probe = probe
        self.open = True
        self.streak = 0  # probes in a row that contradict `open`
        self.asked_at = -float("inf")
        self.due_at = float("inf")
        self.listeners: tuple[Listener, ...] = ()

    def __repr__(self) -> str:
        return f"Gate({'/'.join(filter(None, self.place))} {'open' if self.open else 'closed'})"


class ReadinessWatch:
    """Asks for each gate whether its variant is ready: every `every_s` seconds, again soon when it begins to say something else,
    and at once when a call found it away. `fall` answers in a row that say no close a gate, `rise` that say yes open it, so one
    that flaps stays as it was.

    Not ready: the answer is no, UNAVAILABLE, too late, or that there is no such model or version. Any other failure says nothing.
    Gates outlive tables: one for the same place is the same. What is under way and what is begun in a second have bounds.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, draw: Callable[[], float] = random.random
    ) -> None:
        self._clock = clock
        self._draw = draw
        self._gates: dict[Place, Gate] = {}
        self._queue: list[tuple[float, int, Gate]] = []
        self._turn = 0  # orders what is due at the same time
        self._pause_s, self._rise, self._fall = 5.0, 2, 2
        self._awake = asyncio.Event()
        self._asking: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None

    def gate(self, place: Place, probe: Callable[[], Awaitable[bool]]) -> Gate:
        """The gate of a place, which is watched once a table with it is adopted."""
        return self._gates.get(place) or Gate(place, probe)

    def adopt(
        self, listeners: Mapping[Gate, Iterable[Listener]], *, every_s: float = 5.0, rise: int = 2, fall: int = 2
    ) -> None:
        """From now on watch these gates and no other; who listens is called when one of them opens or closes."""
        self._rise, self._fall = rise, fall
        self._pause_s = max(every_s, len(listeners) / MAX_PER_S)
        for gate in self._gates.values():
            gate.listeners = ()
            gate.due_at = float("inf")
        self._gates = {gate.place: gate for gate in listeners}
        self._queue = []
        now = self._clock()
        for gate, each in listeners.items():
            gate.listeners = tuple(each)
            self._ask_at(gate, now + self._draw() * self._pause_s)
            if not gate.open:
                _tell(gate)

    def suspect(self, gate: Gate) -> None:
        """A call found it away: ask soon."""
        at = max(self._clock(), gate.asked_at + SUSPECT_PAUSE_S)
        if at < gate.due_at < float("inf"):
            self._ask_at(gate, at)
            self._awake.set()

    def look(self) -> float:
        """Begin the probes that are due, and say in how many seconds the next one is."""
        now = self._clock()
        while self._queue and len(self._asking) < MAX_AT_ONCE:
            due_at, _, gate = self._queue[0]
            if due_at > now and due_at == gate.due_at:
                break
            heapq.heappop(self._queue)
            if due_at == gate.due_at:  # else it was put off, brought forward or dropped
                gate.asked_at = now
                self._ask_at(gate, now + self._pause_s * (1 + JITTER * (2 * self._draw() - 1)))
                task = asyncio.ensure_future(self._ask(gate))
                self._asking.add(task)
                task.add_done_callback(self._asked)
        if len(self._asking) >= MAX_AT_ONCE or not self._queue:
            return float("inf")  # until one of them is done, or a table is adopted
        return max(0.0, self._queue[0][0] - now)

    def start(self) -> None:
        """Watch from now on, until `close`."""
        self._running = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        """Stop, and end what is being asked."""
        ending = [each for each in (self._running, *self._asking) if each is not None]
        for each in ending:
            each.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def settled(self) -> None:
        """Wait until nothing is being asked."""
        while self._asking:
            await asyncio.wait(set(self._asking))

    async def _run(self) -> None:
        while True:
            self._awake.clear()
            pause_s = self.look()
            try:
                await asyncio.wait_for(self._awake.wait(), min(pause_s, 1.0))  # a table with other gates is seen soon
            except TimeoutError:
                continue

    async def _ask(self, gate: Gate) -> None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                ready = await gate.probe()
        except (Unavailable, DeadlineExceeded, NotFound, InvalidRequest, TimeoutError):
            ready = False
        except MeshError:
            return
        except Exception as error:  # of ours; the others must go on being watched
            _log.error("%r could not be asked", gate, exc_info=error)
            return
        if ready == gate.open:
            gate.streak = 0
            return
        gate.streak += 1
        if gate.streak < (self._rise if ready else self._fall):
            soon = self._clock() + min(DOUBT_S, self._pause_s)
            if soon < gate.due_at < float("inf"):
                self._ask_at(gate, soon)
                self._awake.set()
            return
        gate.open, gate.streak = ready, 0
        _log.log(
            logging.INFO if ready else logging.WARNING,
            "%s: %s",
            "/".join(filter(None, gate.place)),
            "ready again" if ready else "not ready: its share of the calls goes as its routes say",
        )
        _tell(gate)

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        if len(self._asking) == MAX_AT_ONCE - 1:
            self._awake.set()

    def _ask_at(self, gate: Gate, at: float) -> None:
        gate.due_at = at
        self._turn += 1
        heapq.heappush(self._queue, (at, self._turn, gate))


def _tell(gate: Gate) -> None:
    for listener in gate.listeners:
        listener()

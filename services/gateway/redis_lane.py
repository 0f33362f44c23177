"""One connection to Redis that many calls share, and that no call ever waits for."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from redis.exceptions import InvalidResponse, NoScriptError, RedisError, ResponseError

from services.gateway.limits_config import LimitStoreConfig
from services.gateway.redis_address import Address
from services.gateway.redis_script import SCRIPT, SHA

__all__ = ["Lane"]

MAX_BATCH = (
    64  # decisions; two such batches are answered well within the timeout, and more calls at once are told it is away
)
FIRST_PAUSE_S = 0.05  # before the second try to connect; then twice as long each time
STEADY_S = 1.0  # a connection that lasted so long was good: the next first try is made at once
LATE_S = 0.003  # a timer that comes so late was held up, and so was the answer: the loop gets a moment to read it
GRACE_S = 0.001
GRACES = 2
ANSWER = 4  # numbers at least, of an answer that is not just 0

_log = logging.getLogger(__name__)

_FORGOTTEN = object()  # stands for the reply of a server that does not know the script

Command = tuple[str, ...]  # the words after EVALSHA <sha>: number of keys, keys, arguments
Connect = Callable[[Any], Awaitable[Any]]


class _Batch(list[tuple[Command, "asyncio.Future[Any]"]]):
    """Decisions that go out in one write, with one time limit that counts from the first of them."""

    timer: asyncio.TimerHandle
    due: float
    graces = 0
    answered = 0
    again = False  # those that are left are to be sent with the script itself

    def __init__(self) -> None:
        super().__init__()
        self.forgotten: list[tuple[Command, asyncio.Future[Any]]] = []


class Lane:
    """Sends decisions to Redis in batches: those that come while one batch is on its way make the next one.

    It is *away* from the start until a connection is made and has run the script, and again from the first time that an answer
    did not come within `timeout`, was an error, or the connection broke. Then `ask` says so at once and nobody waits; a task
    tries to connect, with pauses up to `probe_every`, and only a script that was run within `timeout` ends it. So a store that
    hangs costs the calls of two batches their `timeout` once, and all others nothing.
    """

    def __init__(
        self,
        config: LimitStoreConfig,
        *,
        observe: Callable[[str], None] = lambda why: None,  # timeout | lost | error | connect | busy
        observe_away: Callable[[bool], None] = lambda away: None,
        connect: Connect | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._observe, self._observe_away = observe, observe_away
        self._connect = connect or Address(config).connect
        self._clock, self._sleep, self._draw = clock, sleep, draw
        self.is_away = True
        self._pending: _Batch | None = None
        self._under_way: _Batch | None = None
        self._wake = asyncio.Event()
        self._serving: asyncio.Task[str] | None = None
        self._why = ""
        self._told = False  # the log, why it is away
        self._first = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, within_s: float = 0.5) -> None:
        """Begin to connect, and wait a while for that: calls that come in the first moment should be counted as well."""
        self._observe_away(True)
        self._task = asyncio.ensure_future(self._run())
        try:
            await asyncio.wait_for(self._first.wait(), within_s)
        except TimeoutError:
            return

    async def ask(self, command: Command) -> Any:
        """The script's reply; None when Redis is away, or did not answer in time."""
        batch = self._pending
        if batch is None:
            if self.is_away:
                return None
            batch = self._pending = self._begun()
        elif len(batch) >= MAX_BATCH:
            self._observe("busy")
            return None
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        batch.append((command, answer))
        return await answer

    async def close(self) -> None:
        """Close the connection; decisions that are awaited end with None."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _begun(self) -> _Batch:
        batch = _Batch()
        self._time(batch, self._config.timeout)
        self._wake.set()
        return batch

    def _time(self, batch: _Batch, seconds: float) -> None:
        batch.due = self._clock() + seconds
        batch.timer = asyncio.get_running_loop().call_later(seconds, self._late, batch)

    def _late(self, batch: _Batch) -> None:
        if batch.graces < GRACES and self._clock() - batch.due > LATE_S:
            batch.graces += 1
            self._time(batch, GRACE_S)
            return
        self._away("timeout")

    def _away(self, why: str) -> None:
        """Tell everybody who waits, and nobody waits from now on."""
        self.is_away = True
        self._why = self._why or why
        for batch in (self._under_way, self._pending):
            if batch is not None:
                batch.timer.cancel()
                for _, answer in batch:
                    _set(answer, None)
        self._under_way = self._pending = None
        if self._serving is not None:
            self._serving.cancel()

    async def _run(self) -> None:
        pause_s = 0.0
        try:
            while True:
                started = self._clock()
                why = await self._one_connection()
                self._observe(why)
                self._first.set()
                if self._clock() - started > max(STEADY_S, 2 * self._config.connect_timeout):
                    pause_s = 0.0
                await self._sleep(pause_s * (0.5 + self._draw() / 2))
                pause_s = min(max(FIRST_PAUSE_S, 2 * pause_s), self._config.probe_every)
        finally:
            self._away("closed")

    async def _one_connection(self) -> str:
        """Make a connection and serve on it until it fails; why it did."""
        connection = None
        try:
            try:
                async with asyncio.timeout(self._config.connect_timeout):
                    connection = await self._connect(self._probe)
            except Exception as error:  # one that nobody foresaw too: the limits must come back all the same
                self._tell("connect", error)
                return "connect"
            self._why = ""
            self._told = False
            self.is_away = False
            self._observe_away(False)
            self._first.set()
            self._serving = asyncio.create_task(self._serve(connection))
            await asyncio.wait({self._serving})
            self._away(_ending(self._serving))
            self._tell(self._why)
            return self._why
        finally:
            if connection is not None:
                self._observe_away(True)
            if self._serving is not None:
                self._serving.cancel()
                await asyncio.wait({self._serving})
                self._serving = None
            if connection is not None:
                await connection.disconnect(nowait=True)

    def _tell(self, why: str, error: BaseException | None = None) -> None:
        """One line in the log for each time that it is away, not for each try."""
        if not self._told:
            self._told = True
            about = f": {error or type(error).__name__}" if error is not None else ""
            _log.warning("the store of shared limits is away: %s%s", why, about)

    async def _probe(self, connection: Any) -> None:
        """Run the script as a call would: so it is loaded, and the server is a primary, has memory and is fast enough."""
        key = f"{{{self._config.key_prefix}}}:probe"
        await connection.send_command("EVAL", SCRIPT, "1", key, "1", "1", "1", "0", "1", check_health=False)
        first = await connection.read_response()
        async with asyncio.timeout(self._config.timeout):
            await connection.send_command("EVALSHA", SHA, "1", key, "1", "1", "1", "0", "1", check_health=False)
            second = await connection.read_response()
        for reply in (first, second):
            if reply != 0 and not _is_answer(reply, 1):
                raise InvalidResponse("what is at this address does not run scripts as Redis does")

    async def _serve(self, connection: Any) -> str:
        """Read replies until the connection fails, which is seen while nobody asks too; why it did."""
        writer = asyncio.create_task(self._write(connection))
        try:
            while True:
                try:
                    reply = await connection.read_response()
                except NoScriptError:
                    reply = _FORGOTTEN
                if (batch := self._under_way) is None:
                    return "error"  # it speaks without being asked
                command, answer = batch[batch.answered]
                batch.answered += 1
                if reply is _FORGOTTEN:
                    batch.forgotten.append((command, answer))
                elif reply == 0 or _is_answer(reply, int(command[0])):
                    _set(answer, reply)
                else:
                    return "error"  # no answer of the script: whoever it is, it keeps no limits
                if batch.answered == len(batch):
                    self._ended(batch)
        except ResponseError:
            return "error"
        except (RedisError, OSError, RuntimeError):  # the last is uvloop's word for a connection that was reset
            return "lost"
        finally:
            writer.cancel()
            await asyncio.wait({writer})

    async def _write(self, connection: Any) -> None:
        """Send what is pending when nothing is under way."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._under_way is None and self._pending is not None:
                self._under_way, self._pending = self._pending, None
            elif self._under_way is None or not self._under_way.again:
                continue
            batch = self._under_way
            verb = ("EVAL", SCRIPT) if batch.again else ("EVALSHA", SHA)
            batch.again = False
            try:
                packed = connection.pack_commands([(*verb, *command) for command, _ in batch])
                await connection.send_packed_command(packed, check_health=False)
            except (RedisError, OSError, RuntimeError):
                self._away("lost")
                return

    def _ended(self, batch: _Batch) -> None:
        """All of it is answered. A script that the server has forgotten, after a restart or a flush, is sent along once more."""
        if batch.forgotten:
            batch[:], batch.forgotten = batch.forgotten, []
            batch.answered, batch.again = 0, True
        else:
            batch.timer.cancel()
            self._under_way = None
        if batch.again or self._pending is not None:
            self._wake.set()


def _is_answer(reply: Any, levels: int) -> bool:
    """Whether it may be the script's, as `redis_script.py` describes it, about so many levels."""
    if type(reply) is not list or len(reply) < ANSWER or any(type(each) is not int or each < 0 for each in reply):
        return False
    refused, second, _, _, *over = reply
    if refused:
        return refused <= levels and not over
    return second <= levels and all(1 <= each <= levels for each in over)


def _ending(serving: asyncio.Task[str]) -> str:
    if serving.cancelled():
        return "lost"
    if (defect := serving.exception()) is not None:  # ours, or redis-py's: the limits must come back all the same
        _log.error("the connection to Redis is made anew", exc_info=defect)
        return "error"
    return serving.result()


def _set(answer: asyncio.Future[Any], reply: Any) -> None:
    if not answer.done():  # its call may have been cancelled
        answer.set_result(reply)

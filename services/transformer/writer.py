"""Writing features from a service: an older row never takes the place of a newer one, whoever writes at the same time."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Self

from redis.asyncio import Redis, RedisCluster

from services.transformer.keys import DEFAULT_PREFIX, entity_text, joined_ids, key_prefix
from services.transformer.layout.versions import PreviousSchemas
from services.transformer.row import NEVER, RowFormat, Value
from services.transformer.views import FeatureView
from services.transformer.writing.again import Again, NotWritten
from services.transformer.writing.merged import write_merged
from services.transformer.writing.newest import AHEAD_US, NotARow, PackedRow, Written, write_newest

__all__ = ["NEVER", "FeatureWriter", "NotWritten", "PackedRow", "Written"]

Entity = bytes | str | int | tuple[bytes | str | int, ...]


class FeatureWriter:
    """Writes rows of one view. Writing the same rows again changes nothing; of two with one event time the later call wins.

        async with FeatureWriter(client, "card", view) as writer:
            await writer.put("c-0042", {"credit_limit": 900.0, ...}, event_time_us)

    `put` queues a row, and waits for its turn once `max_waiting` rows are in the queue. They are written by the batch: as soon as
    `batch_rows` wait, or the first has waited for `linger_s`. While Redis is away a batch is tried for `again.patience_s`; then
    its rows go back to the head of the queue, and the next `put`, `flush` or `close` raises NotWritten: `flush` tries once more.
    `ttl_ms` is the view's when it is left out; 0: rows stay until somebody deletes them.

    The client is redis-py's, of a single server, Sentinel's primary or a cluster; its owner closes it. Use a writer in one loop.
    `observe(outcome, rows)` is told of rows that were `written`, `older`, `refused` (a key of another type), or not written
    (`failed`).
    """

    def __init__(
        self,
        client: Redis | RedisCluster,
        name: str,
        view: FeatureView,
        *,
        prefix: str = DEFAULT_PREFIX,
        ttl_ms: int | None = None,
        max_waiting: int = 10_000,
        batch_rows: int = 500,
        linger_s: float = 0.02,
        again: Again | None = None,
        observe: Callable[[str, int], None] = lambda outcome, rows: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        if not 1 <= batch_rows <= max_waiting:
            raise ValueError(f"batch_rows: expected 1 to max_waiting ({max_waiting}), got {batch_rows}")
        if view.layout.kind != "packed":
            raise ValueError(f"view {name}: its rows are of layout {view.layout.kind}, and others write them")
        self.name = name
        self.view = view
        self.format = RowFormat(view.columns)
        self.key_prefix = key_prefix(prefix, name)
        self._previous = PreviousSchemas(self.format, view.past)
        self._types = [part.type for part in view.entity.parts]
        self.ttl_ms = round(1000 * (view.ttl or 0)) if ttl_ms is None else ttl_ms
        self._client = client
        self._max_waiting = max_waiting
        self._batch_rows = batch_rows
        self._linger_s = linger_s
        self._again = again or Again()
        self._observe = observe
        self._now = now
        self._queue: deque[PackedRow] = deque()
        self._changed = asyncio.Condition()
        self._writing = asyncio.Lock()  # batches one after the other: two rows of one entity stay in their order
        self._failure: NotWritten | None = None
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Rows that were put and are not written yet."""
        return len(self._queue)

    def key(self, entity: Entity) -> bytes:
        """The key of an entity; of one with several ids, a tuple of them. Raises ValueError for what can't be one."""
        ids = entity if isinstance(entity, tuple) else (entity,)
        if len(ids) != len(self._types):
            raise ValueError(f"entity {entity!r}: expected {len(self._types)} ids, got {len(ids)}")
        for each, kind in zip(ids, self._types, strict=True):
            if isinstance(each, int) is not (kind == "int"):
                raise ValueError(f"entity {each!r}: the view's ids are of type {kind}")
        return self.key_prefix + joined_ids([entity_text(each) for each in ids])

    def pack(self, entity: Entity, values: Sequence[Value], event_time_us: int | Sequence[int]) -> PackedRow:
        """A row to write, its values in the order of the view. Raises ValueError saying what does not fit.

        In a view with source groups one time is for all of them, several are for each, and `NEVER` for one that is not written.
        A time of more than a day ahead does not fit: it would keep out every row that follows.
        """
        latest = event_time_us if isinstance(event_time_us, int) else max(event_time_us, default=NEVER)
        if latest > self._now() * 1e6 + AHEAD_US:
            what = "is more than a day ahead of now; expected microseconds since 1970"
            raise ValueError(f"entity {entity!r}: event time {latest}: {what}")
        return PackedRow(self.key(entity), self.format.pack(values, event_time_us))

    async def write(self, rows: Iterable[PackedRow]) -> Written:
        """Write a batch now, in one attempt and one round trip; a few hundred rows are a good one. Raises redis-py's errors.

        After an error some of the rows may be written: write the batch again. After NotARow all others are.
        """
        if len(self.format.groups) > 1:
            return await write_merged(self._client, rows, self.format, self.ttl_ms, previous=self._previous)
        return await write_newest(self._client, rows, self.ttl_ms)

    async def put(
        self, entity: Entity, values: Sequence[Value] | Mapping[str, Value], event_time_us: int | Sequence[int]
    ) -> None:
        """Queue a row; a mapping needs every feature, None is null. Raises ValueError for what does not fit, and NotWritten.

        A cancelled `put` has queued nothing.
        """
        if self._task is None:
            raise RuntimeError("nobody would write the queue: put belongs into `async with` the writer")
        row = self.pack(entity, self._in_order(values), event_time_us)
        async with self._changed:
            await self._changed.wait_for(self._may_put)
            if self._closed:
                raise RuntimeError("the writer is closed")
            if self._failure is not None:
                raise self._failure
            self._queue.append(row)
            self._changed.notify_all()

    async def flush(self) -> None:
        """Write everything that was put before. Raises NotWritten; what is left stays in the queue."""
        left = len(self._queue)
        self._failure = None
        while left > 0 and self._queue:
            left -= await self._write_batch()

    async def close(self) -> None:
        """Take no more rows, write what waits, end. Raises NotWritten saying how many rows were lost."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        try:
            await self.flush()
        except NotWritten as error:
            raise NotWritten(f"{error}; {len(self._queue)} rows of view {self.name} are lost") from error

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._write_for_ever())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _in_order(self, values: Sequence[Value] | Mapping[str, Value]) -> Sequence[Value]:
        if not isinstance(values, Mapping):
            return values
        names = [name for name, _ in self.format.columns]
        if faults := sorted(set(names) ^ set(values)):
            which = "is no feature of the view" if faults[0] in values else "is missing; give None for a null"
            raise ValueError(f'feature "{faults[0]}" {which}')
        return [values[name] for name in names]

    def _may_put(self) -> bool:
        return self._closed or self._failure is not None or len(self._queue) < self._max_waiting

    async def _write_for_ever(self) -> None:
        while not self._closed:  # redis-py may swallow the cancellation by which `close` ends this
            async with self._changed:
                await self._changed.wait_for(lambda: self._queue and self._failure is None)
                try:
                    async with asyncio.timeout(self._linger_s):
                        await self._changed.wait_for(lambda: len(self._queue) >= self._batch_rows)
                except TimeoutError:
                    pass
            try:
                await self._write_batch()
            except Exception as error:  # whatever it is: without this task a `put` would wait for ever
                failure = error if isinstance(error, NotWritten) else NotWritten(f"unexpected: {error!r}")
                async with self._changed:
                    self._failure = failure
                    self._changed.notify_all()

    async def _write_batch(self) -> int:
        """Write the head of the queue; how many rows that were. They leave the queue only when Redis has answered."""
        async with self._writing:
            batch = list(islice(self._queue, self._batch_rows))
            if not batch:  # another one has written it
                return 0
            refused = 0
            try:
                written = await self._again(lambda: self.write(batch))
            except NotWritten as error:
                if not isinstance(fault := error.__cause__, NotARow):
                    self._observe("failed", len(batch))
                    raise
                written, refused = fault.rest, len(fault.places)
            for _ in batch:
                self._queue.popleft()
        for outcome, rows in (("written", written.written), ("older", written.older), ("refused", refused)):
            if rows:
                self._observe(outcome, rows)
        async with self._changed:
            self._changed.notify_all()
        return len(batch)

"""The one way in which rows come into Redis: a row is written unless what is stored is newer, in one step for many rows."""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis, RedisCluster
from redis.crc import key_slot
from redis.exceptions import NoScriptError, ResponseError

from services.transformer.row import EVENT_TIME, HEADER_BYTES

__all__ = ["AHEAD_US", "ROWS_PER_STEP", "NotARow", "PackedRow", "Written", "latest_us", "may_be_newer", "write_newest"]

# Redis runs a script as one step and serves nobody meanwhile: 128 rows of 50 features are 0.3 ms.
ROWS_PER_STEP = 128

# A row of version 2 may have source groups, each with its event time at a multiple of 8; where, its schema alone says. Under a
# schema that a writer does not know any number at such a place that is a time since 2000, and not of the future, may be one: a
# row that may hold newer features than ours is kept. In rows without groups no FP32 or FP64 of any use looks like that.
SEARCHED_BYTES = 4096  # for times: 128 rows searched are some ms in which Redis serves nobody
SINCE_US = 946_684_800_000_000  # 2000
AHEAD_US = 86_400_000_000  # a day: clocks differ; a row of the year 57742, by milliseconds for seconds, would keep out all others

# Byte 9 to 16 of a row are its event time; a double, Lua's only number, holds microseconds exactly until the year 2255. What lies
# there and is no row of a format that we know is replaced. A key of another type is left alone and told of; any other fault ends
# the step. The answer is a letter for each row: w written, o older, t of another type.
SCRIPT = """
local told, ttl, latest, searched, since = {}, ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
for at, key in ipairs(KEYS) do
  local row, is = ARGV[at + 4], 'w'
  local held = redis.pcall('GETRANGE', key, 0, 15)
  if type(held) == 'table' then
    if not string.find(held.err, 'WRONGTYPE', 1, true) then return held end
    is = 't'
  elseif #held == 16 and (string.sub(held, 1, 3) == 'FR\\1' or string.sub(held, 1, 3) == 'FR\\2') then
    local time = struct.unpack('<i8', string.sub(row, 9, 16))
    if struct.unpack('<i8', string.sub(held, 9)) > time then
      is = 'o'
    elseif string.sub(held, 3, 3) == '\\2' and string.sub(held, 1, 8) ~= string.sub(row, 1, 8) then
      held = redis.call('GETRANGE', key, 0, searched - 1)
      for place = 17, #held - 7, 8 do
        local found = struct.unpack('<i8', held, place)
        if found > time and found >= since and found <= latest then is = 'o' end
      end
    end
  end
  if is == 'w' then
    local said
    if ttl == '0' then said = redis.pcall('SET', key, row) else said = redis.pcall('SET', key, row, 'PX', ttl) end
    if said.err then return said end
  end
  told[at] = is
end
return table.concat(told)
"""
SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
WRITTEN, OLDER, OTHER_TYPE = b"wot"

# What the script gets beside the rows: time to live, latest event time, how many bytes are searched, and for times since when.
Settings = tuple[int, int, int, int]


class PackedRow(NamedTuple):
    """A row and the key that it is for."""

    key: bytes
    row: bytes


class Written(NamedTuple):
    """How many rows were written, and how many were not since what is stored is newer."""

    written: int
    older: int


class NotARow(ResponseError):
    """Under some keys lies what is no string, and was left alone; `rest` is what became of the other rows of the batch."""

    def __init__(self, places: Sequence[int], key: bytes, rest: Written) -> None:
        super().__init__(f"WRONGTYPE {key!r} holds what is no row, by another writer; {len(places)} such keys")
        self.places = tuple(places)
        self.rest = rest


def latest_us() -> int:
    """The latest event time that a row may have now."""
    return time.time_ns() // 1000 + AHEAD_US


def may_be_newer(held: bytes, time_us: int) -> bool:
    """Whether stored bytes are a row, of a schema that nobody here knows, of which some part may be newer than this."""
    if len(held) < HEADER_BYTES or held[:3] not in (b"FR\x01", b"FR\x02"):
        return False
    end = min(len(held), SEARCHED_BYTES) // 8 * 8
    first, *others = (each for (each,) in struct.iter_unpack("<q", held[EVENT_TIME.start : end]))
    if first > time_us or held[2] == 1:
        return bool(first > time_us)
    latest = latest_us()
    return any(time_us < each <= latest and each >= SINCE_US for each in others)


async def write_newest(client: Redis | RedisCluster, rows: Iterable[PackedRow], ttl_ms: int = 0) -> Written:
    """Write a batch in one round trip, a key that stands twice in the order given. `ttl_ms` 0: rows stay.

    Raises redis-py's errors, and NotARow when all other rows were dealt with. After any other error some of the rows may be
    written: writing the batch again is harmless.
    """
    batch = list(rows)
    settings = (ttl_ms, latest_us(), SEARCHED_BYTES, SINCE_US)
    if isinstance(client, RedisCluster):
        told = await _in_cluster(client, batch, settings)
    else:
        told = await _in_one(client, batch, settings)
    written = Written(told.count(WRITTEN), told.count(OLDER))
    if (other := told.find(OTHER_TYPE)) >= 0:
        places = [at for at, letter in enumerate(told) if letter == OTHER_TYPE]
        raise NotARow(places, batch[other].key, written)
    return written


async def _in_one(client: Redis, batch: Sequence[PackedRow], settings: Settings) -> bytes:
    steps = [batch[at : at + ROWS_PER_STEP] for at in range(0, len(batch), ROWS_PER_STEP)]
    async with client.pipeline(transaction=False) as pipe:
        pipe.execute_command("SCRIPT LOAD", SCRIPT)  # with each batch: a server that was restarted has forgotten it
        for step in steps:
            pipe.execute_command(*_step(step, settings))
        _, *told = await pipe.execute()
    return b"".join(told)


async def _in_cluster(client: RedisCluster, batch: Sequence[PackedRow], settings: Settings) -> bytes:
    """The keys of one script must be of one slot there; redis-py sends each node its own, and follows slots that move."""
    slots: dict[int, list[int]] = {}
    for at, row in enumerate(batch):
        slots.setdefault(key_slot(row.key), []).append(at)
    steps = [
        places[at : at + ROWS_PER_STEP] for places in slots.values() for at in range(0, len(places), ROWS_PER_STEP)
    ]
    told = await _steps_in_cluster(client, batch, steps, settings)
    letters = bytearray(len(batch))
    for places, said in zip(steps, told, strict=True):
        for place, letter in zip(places, said, strict=True):
            letters[place] = letter
    return bytes(letters)


async def _steps_in_cluster(
    client: RedisCluster, batch: Sequence[PackedRow], steps: Sequence[Sequence[int]], settings: Settings
) -> list[bytes]:
    for left in (1, 0):
        pipe = client.pipeline()
        for places in steps:
            pipe.execute_command(*_step([batch[place] for place in places], settings))
        told: list[Any] = await pipe.execute(raise_on_error=False)
        faults = [each for each in told if isinstance(each, Exception)]
        if left and any(isinstance(fault, NoScriptError) for fault in faults):  # a node that is new, or was restarted
            await client.script_load(SCRIPT)
        elif faults:
            raise faults[0]
        else:
            break
    return told


def _step(rows: Sequence[PackedRow], settings: Settings) -> list[Any]:
    return ["EVALSHA", SHA, len(rows), *(row.key for row in rows), *settings, *(row.row for row in rows)]

"""Loading CSV: what fits is stored, what does not is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from infermesh.config import parse
from services.transformer.load import BadTable, load_csv, view_of_header
from services.transformer.views import FeatureFile
from services.transformer.writer import FeatureWriter

VIEW = {
    "entity": {"name": "id"},
    "features": [
        {"name": "score", "datatype": "FP32"},
        {"name": "count", "datatype": "INT64"},
        {"name": "vip", "datatype": "BOOL"},
    ],
}
INPUTS = {"x": {"columns": ["card.*"], "datatype": "FP32"}}
EVENT_TIME_US = 5_000_000

WriterOf = Callable[..., FeatureWriter]
FileOf = Callable[..., FeatureFile]


@pytest.fixture
def writer(writer_of: WriterOf, file_of: FileOf) -> FeatureWriter:
    return writer_of(file_of({"card": VIEW}, INPUTS))


@pytest.fixture
def table(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a CSV file."""

    def write(text: str) -> Path:
        file = tmp_path / "table.csv"
        file.write_bytes(text.encode("utf-8"))
        return file

    return write


async def stored(client: Redis, writer: FeatureWriter, entity: str) -> Any:
    return writer.format.unpack(await client.get(writer.pack(entity, [None] * 3, 0).key))


async def test_rows_that_fit_are_stored(client: Redis, writer: FeatureWriter, table: Callable[[str], Path]) -> None:
    """Columns may come in any order, others are ignored and named, an empty cell is null, and loading again is harmless."""
    file = table('﻿vip,id,comment,count,score\ntrue,"a,b",x,-7,0.5\n0,c,y,,\n\n')

    first = await load_csv(file, writer, event_time_us=EVENT_TIME_US)
    again = await load_csv(file, writer, event_time_us=EVENT_TIME_US)

    for summary in (first, again):
        assert (summary.rows, summary.written, summary.older, summary.refused) == (2, 2, 0, 0)
    assert first.ignored_columns == ["comment"]
    assert await stored(client, writer, "a,b") == (EVENT_TIME_US, (0.5, -7, True))
    assert await stored(client, writer, "c") == (EVENT_TIME_US, (None, None, False))


async def test_rows_that_do_not_fit_are_named(
    client: Redis, writer: FeatureWriter, table: Callable[[str], Path]
) -> None:
    """A line that does not fit is left out with its number and the reason; the lines round it are stored."""
    lines = [
        "id,score,count,vip",
        "good,1,1,1",
        "few,1,1",
        ",1,1,1",
        "text,one,1,1",
        "large,1e39,1,1",
        "half,1,1.5,1",
        "zeros,1,007,1",
        "wide,1,9223372036854775808,1",
        "maybe,1,1,perhaps",
        "good,2,2,0",
        "under,1_0,1,1",
        "last,1,1,1",
    ]

    summary = await load_csv(table("\n".join(lines)), writer, event_time_us=EVENT_TIME_US)

    assert (summary.rows, summary.written, summary.refused) == (12, 2, 10)
    assert {refused.line: refused.why for refused in summary.refusals} == {
        3: "expected 4 cells, got 3",
        4: "the entity id is empty",
        5: "feature \"score\": expected FP32, got 'one'",
        6: 'feature "score": expected FP32, got 1e+39, which is out of its range',
        7: "feature \"count\": expected INT64, got '1.5'",
        8: "feature \"count\": expected INT64, got '007'",
        9: 'feature "count": expected INT64, got 9223372036854775808, which 64 bits can\'t hold',
        10: "feature \"vip\": expected BOOL, got 'perhaps'",
        11: "entity 'good' stands twice",
        12: "feature \"score\": expected FP32, got '1_0'",
    }
    assert (await stored(client, writer, "good")).values == (1.0, 1, True)


async def test_rows_may_have_event_times(client: Redis, writer: FeatureWriter, table: Callable[[str], Path]) -> None:
    """With a column `event_time` the newest row of an entity is what remains, and a time without an offset is refused."""
    file = table(
        "id,score,count,vip,event_time\n"
        "a,1,1,1,2024-05-01T12:00:00Z\n"
        "a,2,2,0,2024-05-01T12:00:00+02:00\n"
        "b,3,3,0,1700000000.5\n"
        "c,4,4,0,2024-05-01T12:00:00\n"
        "d,5,5,0,yesterday\n"
        "e,5,5,0,nan\n"
    )

    summary = await load_csv(file, writer, event_time_us=EVENT_TIME_US)

    assert (summary.written, summary.older, summary.refused) == (2, 1, 3)
    assert await stored(client, writer, "a") == (1_714_564_800_000_000, (1.0, 1, True))
    assert (await stored(client, writer, "b")).event_time_us == 1_700_000_000_500_000
    assert [refused.why for refused in summary.refusals] == [
        "event_time: expected an offset such as Z, got '2024-05-01T12:00:00'",
        "event_time: expected RFC 3339 or seconds since 1970, got 'yesterday'",
        "event_time: expected RFC 3339 or seconds since 1970, got 'nan'",
    ]


async def test_times_that_cannot_be_are_refused(
    client: Redis, writer: FeatureWriter, table: Callable[[str], Path], now_s: float
) -> None:
    """Milliseconds for seconds, and what no row can hold, are refused with the reason; a row of tomorrow is loaded."""
    file = table(
        "id,score,count,vip,event_time\n"
        "a,1,1,1,1700000000000\n"
        "a,2,2,1,1699999999\n"
        "b,1,1,1,1e300\n"
        "c,1,1,1,-1e300\n"
        "d,1,1,1,2999-01-01T00:00:00Z\n"
        f"e,1,1,1,{now_s + 86_400}\n"
        f"f,1,1,1,{now_s + 86_401}\n"
    )

    summary = await load_csv(file, writer, event_time_us=EVENT_TIME_US, now=lambda: now_s)

    ahead = "is more than a day ahead of now; expected RFC 3339 or seconds since 1970"
    assert (summary.written, summary.refused) == (2, 5)
    assert {refused.line: refused.why for refused in summary.refusals} == {
        2: f"event_time: '1700000000000' {ahead}",
        4: f"event_time: '1e300' {ahead}",
        5: "event_time: '-1e300' is too long ago: 64 bits can't hold its microseconds",
        6: f"event_time: '2999-01-01T00:00:00Z' {ahead}",
        8: f"event_time: '1700086401.0' {ahead}",
    }
    assert (await stored(client, writer, "a")).values == (2.0, 2, True)


async def test_whole_numbers_are_ids_in_one_spelling(
    client: Redis, writer_of: WriterOf, file_of: FileOf, table: Callable[[str], Path]
) -> None:
    """Ids of type int are stored under their decimal text; other spellings of a number are refused."""
    writer = writer_of(file_of({"card": {**VIEW, "entity": {"name": "id", "type": "int"}}}, INPUTS))

    summary = await load_csv(
        table("id,score,count,vip\n42,1,1,1\n042,1,1,1\nx,1,1,1\n"), writer, event_time_us=EVENT_TIME_US
    )

    assert (summary.written, summary.refused) == (1, 2)
    assert await client.exists(writer.pack(42, [None] * 3, 0).key)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,score\n1,2\n", "column count is missing; column vip is missing"),
        ("id,id,score,count,vip\n", "column id stands twice"),
        ("", "column id is missing"),
        ('id,score,count,vip\na,1,1,1\n"b,1,1,1\n', "line 3: unexpected end of data"),
    ],
)
async def test_a_table_that_is_none_is_refused(
    writer: FeatureWriter, table: Callable[[str], Path], text: str, words: str
) -> None:
    """A file without the columns, or that is no CSV, is refused as a whole with what is wrong."""
    with pytest.raises(BadTable, match=words):
        await load_csv(table(text), writer, event_time_us=EVENT_TIME_US)


async def test_a_file_that_is_not_there_or_no_text_is_refused(writer: FeatureWriter, tmp_path: Path) -> None:
    """A missing file and one in another encoding are named with the reason."""
    latin = tmp_path / "latin.csv"
    latin.write_bytes(b"id,score,count,vip\nM\xfcller,1,1,1\n")

    with pytest.raises(BadTable, match="expected UTF-8"):
        await load_csv(latin, writer, event_time_us=EVENT_TIME_US)
    with pytest.raises(BadTable, match="can't be read: No such file"):
        await load_csv(tmp_path / "none.csv", writer, event_time_us=EVENT_TIME_US)


def test_the_header_says_which_view_a_file_is_for(samples: Path, tmp_path: Path) -> None:
    """A file fits the view whose columns it has; one that fits none is refused."""
    views = parse(FeatureFile, samples / "config" / "features.yaml").views
    other = tmp_path / "other.csv"
    other.write_text("id,value\n")

    assert view_of_header(samples / "features" / "cards.csv", views) == "card"
    assert view_of_header(samples / "features" / "patients.csv", views) == "patient"
    with pytest.raises(BadTable, match="its columns fit no view"):
        view_of_header(other, views)


async def test_progress_is_told(writer: FeatureWriter, table: Callable[[str], Path]) -> None:
    """A long file reports how far it is, and the time that it took."""
    rows = "\n".join(f"{number},1,1,1" for number in range(4_200))
    told: list[int] = []
    ticks = iter(range(100))

    summary = await load_csv(
        table(f"id,score,count,vip\n{rows}"),
        writer,
        event_time_us=EVENT_TIME_US,
        progress=told.append,
        clock=lambda: float(next(ticks)),
    )

    assert told == [2_000, 4_000, 4_200]
    assert (summary.seconds, summary.rows_per_second) == (3.0, 1_400.0)

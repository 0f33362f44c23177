"""Parquet and Arrow files: what fits is loaded, what does not is named, what is damaged is said to be."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.transformer.load import BadTable, LoadSummary, load_file
from services.transformer.views import FeatureFile
from services.transformer.writer import FeatureWriter

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
feather = pytest.importorskip("pyarrow.feather")

VIEW = {
    "entity": {"name": "id"},
    "features": [
        {"name": "score", "datatype": "FP32"},
        {"name": "count", "datatype": "INT32"},
        {"name": "vip", "datatype": "BOOL"},
        {"name": "city", "datatype": "BYTES"},
        {"name": "vector", "datatype": "FP32", "shape": [2]},
    ],
}
INPUTS = {"x": {"columns": ["card.score"]}}
NOW_S = 1_700_000_000.0
ROW = {"id": "a", "score": 0.5, "count": 7, "vip": True, "city": "Köln", "vector": [1.0, 2.0]}

Load = Callable[..., Any]


@pytest.fixture
def writer(writer_of: Callable[..., FeatureWriter], file_of: Callable[..., FeatureFile]) -> FeatureWriter:
    return writer_of(file_of({"card": VIEW}, INPUTS))


@pytest.fixture
def load(writer: FeatureWriter, tmp_path: Path) -> Load:
    """Writes a table to a file and loads that."""

    async def run(table: Any, name: str = "t.parquet", **options: Any) -> LoadSummary:
        file = tmp_path / name
        if name.endswith(".parquet"):
            parquet.write_table(table, file)
        elif name.endswith(".feather"):
            feather.write_feather(table, file)
        else:
            with pa.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table)
        return await load_file(file, writer, event_time_us=5, now=lambda: NOW_S, **options)

    return run


def table_of(*rows: dict[str, Any], **types: Any) -> Any:
    made = pa.Table.from_pylist([{**ROW, **row} for row in rows])
    for name, kind in types.items():
        made = made.set_column(made.schema.get_field_index(name), name, made.column(name).cast(kind))
    return made


async def stored(client: Any, writer: FeatureWriter, entity: str) -> Any:
    return writer.format.unpack(await client.get(writer.key(entity)))


@pytest.mark.parametrize("name", ["t.parquet", "t.feather", "t.arrows"])
async def test_every_kind_of_file_is_loaded(client: Any, writer: FeatureWriter, load: Load, name: str) -> None:
    """Parquet, Feather and a stream of Arrow hold the same rows: nulls stay null, NaN is a value, texts and vectors too."""
    nothing = dict.fromkeys(("score", "count", "vip", "city", "vector"))

    summary = await load(table_of({}, {"id": "b", **nothing}, {"id": "c", "score": float("nan")}), name)

    assert (summary.rows, summary.written, summary.refused, summary.unit) == (3, 3, 0, "row")
    assert await stored(client, writer, "a") == (5, (0.5, 7, True, "Köln".encode(), (1.0, 2.0)))
    assert (await stored(client, writer, "b")).values == (None,) * 5
    assert np.isnan((await stored(client, writer, "c")).values[0])


async def test_nan_may_be_taken_for_null(client: Any, writer: FeatureWriter, load: Load) -> None:
    """Where NaN is how a file says that there is no value, it is null by request."""
    await load(table_of({"score": float("nan")}), nan_is_null=True)

    assert (await stored(client, writer, "a")).values[0] is None


async def test_rows_that_do_not_fit_are_named(load: Load) -> None:
    """Numbers out of range, vectors of another length, missing and empty ids: each row with its reason."""
    table = table_of(
        {"id": "good"},
        {"id": "large", "score": 1e39},
        {"id": "wide", "count": 2**31},
        {"id": "long", "vector": [1.0, 2.0, 3.0]},
        {"id": None},
        {"id": ""},
        {"id": "good"},
        {"id": "holes", "vector": [1.0, None]},
        {"id": "wide null", "count": None},
    )

    summary = await load(table)

    assert summary.written == 2
    assert {refused.line: refused.why for refused in summary.refusals} == {
        2: 'feature "score": expected FP32, got 1e+39, which is out of its range',
        3: 'feature "count": expected INT32, got 2147483648, which 32 bits can\'t hold',
        4: 'feature "vector": expected FP32 [2], got [1.0, 2.0, 3.0]',
        5: 'entity "id": null',
        6: "the entity id is empty",
        7: "entity 'good' stands twice",
        8: 'feature "vector": expected FP32, got None',
    }


async def test_columns_of_another_kind_are_refused_at_once(load: Load) -> None:
    """A column whose type no value of the feature could have is named before a row is written."""
    with pytest.raises(BadTable) as refused:
        await load(table_of({}, score=pa.string(), count=pa.float64(), vip=pa.int8(), vector=pa.list_(pa.int8())))

    assert 'column "score": expected FP32, the file has string' in str(refused.value)
    assert 'column "count": expected INT32, the file has double' in str(refused.value)
    assert 'column "vip": expected BOOL, the file has int8' in str(refused.value)
    assert "vector" not in str(refused.value)  # whole numbers are numbers


async def test_event_times_decide_which_row_stays(client: Any, writer: FeatureWriter, load: Load) -> None:
    """Of an entity that stands several times the latest row stays; times that can't be, or are none, are refused."""
    at = datetime(2023, 11, 1, tzinfo=UTC)
    times = [at, at.replace(day=2), at.replace(day=1), at.replace(year=2999), None]
    table = table_of(*({"id": "a", "count": n} for n in range(3)), {"id": "late"}, {"id": "none"})
    table = table.append_column("event_time", pa.array(times, pa.timestamp("us", "UTC")))

    summary = await load(table)

    assert (summary.written, summary.older) == (2, 1)
    assert (await stored(client, writer, "a")).values[1] == 1
    assert [refused.why.partition(" is more")[0] for refused in summary.refusals] == [
        "event_time: '2999-11-01 00:00:00+00:00'",
        "event_time: null",
    ]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
async def test_event_times_of_every_unit_mean_the_same(
    client: Any, writer: FeatureWriter, load: Load, unit: str
) -> None:
    """Seconds, milliseconds, microseconds and nanoseconds, as timestamps of the file, are told apart by its schema."""
    at = datetime(2023, 11, 1, tzinfo=UTC)
    table = table_of({}).append_column("event_time", pa.array([at], pa.timestamp(unit, "UTC")))

    await load(table)

    assert (await stored(client, writer, "a")).event_time_us == int(at.timestamp() * 1e6)


async def test_event_times_without_a_zone_are_refused(load: Load) -> None:
    """A timestamp that does not say where it is midnight is no point in time."""
    table = table_of({}).append_column("event_time", pa.array([datetime(2023, 11, 1)], pa.timestamp("us")))

    with pytest.raises(
        BadTable, match='column "event_time": expected a timestamp with a time zone, the file has timestamp'
    ):
        await load(table)


async def test_times_as_numbers_are_seconds(client: Any, writer: FeatureWriter, load: Load) -> None:
    """Numbers are seconds since 1970, whole or not; milliseconds for seconds, NaN and infinity are refused."""
    seconds = [1_699_999_999.5, 1_699_999_999_000.0, float("nan"), float("inf"), -float("inf")]
    table = table_of(*({"id": f"r{n}"} for n in range(5))).append_column("event_time", pa.array(seconds))

    summary = await load(table)

    assert summary.written == 1
    assert (await stored(client, writer, "r0")).event_time_us == 1_699_999_999_500_000
    assert [refused.line for refused in summary.refusals] == [2, 3, 4, 5]
    assert "more than a day ahead" in summary.refusals[0].why
    assert "got nan" in summary.refusals[1].why


@pytest.mark.parametrize("name", ["t.parquet", "t.feather", "t.arrows"])
async def test_a_file_that_is_cut_off_is_said_to_be(
    writer: FeatureWriter, load: Load, tmp_path: Path, name: str
) -> None:
    """Whatever is cut off, it ends in a BadTable that names the file; never in a traceback of a library."""
    await load(table_of(*({"id": str(n)} for n in range(1000))), name)
    whole = (tmp_path / name).read_bytes()

    for length in (0, 5, 100, len(whole) // 2, len(whole) - 9):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(BadTable, match=f"{name}: (is cut off, damaged|damaged after row)"):
            await load_file(tmp_path / name, writer, event_time_us=6)


async def test_a_page_that_is_damaged_is_found(writer: FeatureWriter, tmp_path: Path) -> None:
    """A Parquet file with checksums whose bytes have changed in the middle is not loaded as if nothing were wrong."""
    file = tmp_path / "t.parquet"
    rows = [{"id": zlib.crc32(str(n).encode()).to_bytes(4, "big").hex()} for n in range(2000)]
    parquet.write_table(table_of(*rows), file, write_page_checksum=True, compression="none", use_dictionary=False)
    content = bytearray(file.read_bytes())
    content[300] ^= 0xFF
    file.write_bytes(content)

    with pytest.raises(BadTable, match="damaged after row 0"):
        await load_file(file, writer, event_time_us=6)


async def test_ids_of_numbers_are_their_decimal_text(client: Any, writer: FeatureWriter, load: Load) -> None:
    """A column of whole numbers may hold the ids of a view whose ids are strings."""
    table = table_of({"id": 42})

    await load(table)

    assert (await stored(client, writer, "42")).values[1] == 7


async def test_an_entity_may_stand_in_a_dictionary(client: Any, writer: FeatureWriter, load: Load) -> None:
    """Columns that pandas calls categories are read as what they stand for."""
    table = table_of({}, {"id": "b"})
    table = table.set_column(0, "id", table.column("id").dictionary_encode())

    assert (await load(table, "t.feather")).written == 2
    assert (await stored(client, writer, "b")).values[1] == 7

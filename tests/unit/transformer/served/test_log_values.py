"""Whatever was served is in the Parquet file, to the bit."""

from __future__ import annotations

import io
import struct
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from infermesh.protocol import open_inference_pb2 as pb
from infermesh.tensors import Array, add_inputs, read_inputs
from services.transformer.plan import JoinPlan
from services.transformer.row import RowFormat
from services.transformer.served.arrow import batch_of
from services.transformer.served.line import ServedEntry, line_of
from services.transformer.served.records import Damage, read_records
from services.transformer.views import FeatureFile
from tests.unit.transformer.served.conftest import FILE, FORMAT, NOW_S, row

PLAN = JoinPlan(FILE, FILE.services["m"], prefix="p", max_entities=1000)
NOW_US = int(NOW_S * 1e6)

doubles = st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0]) | st.floats()
stored = st.tuples(
    st.binary(min_size=1, max_size=20) | st.text(min_size=1, max_size=5).map(str.encode),
    st.floats(),
    st.integers(-(2**63), 2**63 - 1),
    st.text(max_size=8),
    st.lists(st.floats(width=32), min_size=3, max_size=3),
    st.floats(min_value=-0.99, max_value=1e9),
)


def table_of(line: bytes, damage: Damage) -> pa.Table:
    """What a Parquet file of one line of the log holds."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "served-1.jsonl"
        file.write_bytes(line)
        ((record, end),) = read_records(file, 0, damage)
    assert record is not None
    assert end == len(line)
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_batches([batch_of(record)]), buffer)
    return pq.read_table(buffer)


def elements(column: pa.ChunkedArray) -> Array:
    """The elements of a column end to end, vectors too."""
    array = column.combine_chunks()
    return (array.flatten() if pa.types.is_fixed_size_list(array.type) else array).to_numpy(zero_copy_only=False)


@settings(deadline=None)
@given(st.lists(stored, min_size=1, max_size=5), st.booleans())
@example([(b"\xff\x00", float("nan"), -1, "", [-0.0, float("nan"), float("inf")], -0.0)], True)
def test_values_are_kept_to_the_bit(rows: list[tuple[bytes, float, int, str, list[float], float]], raw: bool) -> None:
    """NaN, -0.0, infinities, extremes, empty texts, ids that are no UTF-8, vectors; and the inputs that the model got."""
    request = pb.ModelInferRequest(model_name="m")
    ids = np.array([each[0] for each in rows], np.object_).reshape(-1, 1)
    add_inputs(request, {"card_id": ids, "amount": np.array([[each[5]] for each in rows])}, raw=raw)
    entities = PLAN.read(request)
    assert entities is not None
    found = [row(*each[1:5]) for each in rows]
    served, _ = PLAN.serve(entities, found, NOW_US)
    joined = PLAN.joined(request, entities, served)
    inputs = read_inputs(joined)
    damage = Damage()

    entry = ServedEntry(PLAN, entities, served, found, False, joined, NOW_US, "r", "t", "v", "1", "OK")
    table = table_of(line_of(entry), damage)

    assert damage == Damage()
    assert table["entity.card_id"].to_pylist() == [each[0].decode("utf-8", "backslashreplace") for each in rows]
    assert elements(table["feature.card.limit"]).tobytes() == np.array([each[1] for each in rows]).tobytes()
    assert table["feature.card.declines"].to_pylist() == [each[2] for each in rows]
    assert table["feature.card.home"].to_pylist() == [each[3] for each in rows]
    assert elements(table["feature.card.spent"]).tobytes() == np.array([r[4] for r in rows], np.float32).tobytes()
    assert elements(table["request.amount"]).tobytes() == np.array([each[5] for each in rows]).tobytes()
    assert table["input.home"].to_pylist() == [text.decode() for text in inputs["home"].ravel()]
    for name in ("x", "spent", "declines"):
        assert elements(table[f"input.{name}"]).tobytes() == inputs[name].tobytes()
    assert set(table["schema.card"].to_pylist()) == {f"{FORMAT.fingerprint:08x}"}


@settings(deadline=None)
@given(st.lists(doubles, min_size=1, max_size=4))
def test_payloads_of_nan_are_kept_in_inputs_that_pass_untouched(values: list[float]) -> None:
    """An input that the transformer does not know is logged as it came, with whatever bits it has."""
    array = np.array(values).reshape(1, -1)
    request = pb.ModelInferRequest(model_name="m")
    add_inputs(request, {"card_id": np.array([[b"a"]], np.object_), "amount": np.ones((1, 1)), "own": array}, raw=True)
    entities = PLAN.read(request)
    assert entities is not None
    served, _ = PLAN.serve(entities, [None], NOW_US)
    joined = PLAN.joined(request, entities, served)

    entry = ServedEntry(PLAN, entities, served, [None], False, joined, NOW_US, "r", "", "", "", "OK")
    table = table_of(line_of(entry), Damage())

    assert elements(table["input.own"]).tobytes() == array.tobytes()


def test_half_precision_is_kept() -> None:
    """FP16 as it is; BF16, which Arrow lacks, as the FP32 that it equals."""
    fields = {
        "FP16": np.array([[1.5], [-0.0]], np.float16),
        "BF16": (np.array([[1.5], [-0.0]], np.float32).view("<u4") >> 16).astype("<u2"),
    }
    request = pb.ModelInferRequest(model_name="m")
    cards = np.array([[b"a"], [b"b"]], np.object_)
    add_inputs(request, {"card_id": cards, "amount": np.ones((2, 1)), **fields}, raw=True, datatypes={"BF16": "BF16"})
    entities = PLAN.read(request)
    assert entities is not None
    served, _ = PLAN.serve(entities, [None, None], NOW_US)
    joined = PLAN.joined(request, entities, served)

    entry = ServedEntry(PLAN, entities, served, [None, None], False, joined, NOW_US, "r", "", "", "", "OK")
    table = table_of(line_of(entry), Damage())

    assert table["input.FP16"].type == pa.float16()
    assert table["input.BF16"].type == pa.float32()
    assert elements(table["input.FP16"]).tobytes() == fields["FP16"].tobytes()
    assert elements(table["input.BF16"]).tobytes() == np.array([1.5, -0.0], np.float32).tobytes()


@pytest.mark.parametrize("rows", [1, 3])
def test_truths_and_names_as_they_may_be(rows: int) -> None:
    """BOOL, and a default among them; names with signs that a format or JSON knows; a matrix."""
    view = {
        "entity": {"name": "card_id"},
        "missing": "default",
        "features": [
            {"name": "is_new", "datatype": "BOOL", "default": True},
            {"name": "grid", "datatype": "INT64", "shape": [2, 2], "default": [[1, 2], [3, 4]]},
        ],
    }
    inputs = {'100%b "new"': {"columns": ["card.is_new"]}, "grid": {"columns": ["card.grid"]}}
    file = FeatureFile.model_validate({"views": {"card": view}, "services": {"m": {"inputs": inputs}}})
    plan = JoinPlan(file, file.services["m"], prefix="p", max_entities=10)
    request = pb.ModelInferRequest(model_name="m")
    add_inputs(request, {"card_id": np.array([[b"a"]] * rows, np.object_)}, raw=True)
    entities = plan.read(request)
    assert entities is not None
    packed = RowFormat(file.views["card"].columns).pack((False, [[5, 6], [7, 8]]), [NOW_US])
    found: list[bytes | None] = [packed, None, packed][:rows]
    served, _ = plan.serve(entities, found, NOW_US)
    joined = plan.joined(request, entities, served)

    entry = ServedEntry(plan, entities, served, found, False, joined, NOW_US, "r", "", "", "", "OK")
    table = table_of(line_of(entry), Damage())

    assert table["feature.card.is_new"].to_pylist() == [False, True, False][:rows]
    assert table['input.100%b "new"'].to_pylist() == [False, True, False][:rows]
    assert table["feature.card.grid"].to_pylist() == [[5, 6, 7, 8], [1, 2, 3, 4], [5, 6, 7, 8]][:rows]
    assert table["status.card.grid"].to_pylist() == ["present", "missing", "present"][:rows]

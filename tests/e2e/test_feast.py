"""Rows that Feast itself writes, in an environment of its own, are read from the same Redis."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from infermesh.cli.valkey import Valkey
from services.transformer.layout.settings import FeastSetting
from services.transformer.layout.stored import layout_of
from services.transformer.row import RowFormat
from services.transformer.schema import Column

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-feast" / "bin" / "python"
START_S = 300.0  # Feast imports much

CARD = RowFormat(
    [
        ("limit", "FP32"),
        ("ratio", "FP64"),
        ("visits", "INT64"),
        ("declines", "INT32"),
        ("vip", "BOOL"),
        ("city", "BYTES"),
        Column("embedding", "FP32", (3,)),
        Column("codes", "INT64", (2,)),
    ]
)


def plain(value: Any) -> Any:
    """A value of a row as Feast says it."""
    return list(value) if isinstance(value, tuple) else value.decode() if isinstance(value, bytes) else value


@pytest.mark.long
def test_what_feast_writes_is_what_we_read(tmp_path: Path) -> None:
    """Every feature of every entity is what Feast's own `get_online_features` says; what Feast does not know is no row."""
    assert PYTHON.is_file(), f"make verify sets up {PYTHON.parents[1].name}"
    with Valkey() as valkey:
        words = [
            str(PYTHON),
            str(Path(__file__).with_name("feast_writer.py")),
            str(tmp_path),
            f"127.0.0.1:{valkey.port}",
        ]
        written = subprocess.run([*words, "shop"], capture_output=True, text=True, timeout=START_S, check=False)
        assert not written.returncode, written.stderr[-2000:]
        said = json.loads(written.stdout)
        setting = FeastSetting(project="shop", view="card_stats")
        layout = layout_of(setting, CARD, prefix="", view="ours", entity={"card_id": "string"})
        read = said["read"]["card_stats"]
        with Redis(port=valkey.port) as client:
            commands = layout.commands([entity.encode() for entity in read["card_id"]])
            *rows, nobody = layout.decode([client.execute_command(*command) for command in commands])

    assert nobody is None
    assert len(rows) == len(read["card_id"]) - 1
    for number, row in enumerate(rows):
        values = dict(zip((name for name, _ in CARD.columns), CARD.unpack(row or b"").values, strict=True))
        assert {name: plain(value) for name, value in values.items()} == {name: read[name][number] for name in values}
        assert CARD.unpack(row or b"").event_time_us == said["event_time_us"]

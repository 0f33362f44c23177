"""The loader for containers."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from infermesh.config import parse
from services.transformer.administration import administration
from services.transformer.config import RedisConfig
from services.transformer.keys import key_prefix
from services.transformer.load_main import main
from services.transformer.row import RowFormat
from services.transformer.views import FeatureFile

ROOT = Path(__file__).parents[3]

Load = Callable[..., int]


@pytest.fixture
def environ(redis_config: RedisConfig) -> dict[str, str]:
    return {
        "INFERMESH_TRANSFORMER__REDIS__URL": redis_config.url,
        "INFERMESH_TRANSFORMER__REDIS__KEY_PREFIX": redis_config.key_prefix,
    }


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], samples: Path) -> Load:
    """Runs the loader in this process; returns its exit status."""

    def run(folder: Path, config: Path = samples / "config" / "transformer.yaml", redis_url: str = "") -> int:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        if redis_url:
            monkeypatch.setenv("INFERMESH_TRANSFORMER__REDIS__URL", redis_url)
        arguments = ["load_main", "--config", str(config), "--folder", str(folder), "--wait", "0.1"]
        monkeypatch.setattr(sys, "argv", arguments)
        return main()

    return run


async def stored(config: RedisConfig) -> dict[bytes, bytes]:
    """All rows of this test."""
    client = administration(config)
    keys = [key async for key in client.scan_iter(f"{config.key_prefix}:*", count=1000)]
    values = await client.mget(keys)
    await client.aclose()
    return dict(zip(keys, values, strict=True))


def test_every_view_with_a_source_is_filled(samples: Path, redis_config: RedisConfig, environ: dict[str, str]) -> None:
    """As a process, one run stores all cards and patients under the configured prefix."""
    config, folder = samples / "config" / "transformer.yaml", samples / "features"
    command = [sys.executable, "-m", "services.transformer.load_main", "--config", str(config), "--folder", str(folder)]

    ended = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True, check=False
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "card: 500 of 500 rows written" in ended.stdout
    assert "patient: 569 of 569 rows written" in ended.stdout
    rows = asyncio.run(stored(redis_config))
    card = RowFormat(parse(FeatureFile, samples / "config" / "features.yaml").views["card"].columns)
    assert len(rows) == 500 + 569 + 500
    assert card.unpack(rows[key_prefix(redis_config.key_prefix, "card") + b"c-0001"]).values[:2] == (1456.0, 4600.0)


def test_it_may_run_again(samples: Path, redis_config: RedisConfig, load: Load) -> None:
    """A second run is as good as the first, and changes no value."""
    layouts = parse(FeatureFile, samples / "config" / "features.yaml").views
    runs = []

    for _ in range(2):
        assert load(samples / "features") == 0
        rows = asyncio.run(stored(redis_config))
        runs.append(
            {k: RowFormat(layouts[k.split(b":")[1].decode()].columns).unpack(r).values for k, r in rows.items()}
        )

    assert runs[0] == runs[1]


def test_a_refused_row_is_a_failure(
    samples: Path, tmp_path: Path, load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line that can't be stored ends the run with status 1 and is named; the other lines are stored."""
    shutil.copy(samples / "features" / "patients.csv", tmp_path)
    text = (samples / "features" / "cards.csv").read_text()
    (tmp_path / "cards.csv").write_text(text + "c-bad,one,2,3,4,5,6,7,8\n")

    status = load(tmp_path)

    said = capsys.readouterr()
    assert status == 1
    assert "card: 500 of 501 rows written" in said.out
    assert "card: line 502 refused: feature \"card_age_days\": expected FP32, got 'one'" in said.err


def test_without_redis_it_says_so(samples: Path, load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    """When Redis has not come within the time to wait, one line says what is missing, and the status is 1."""
    assert load(samples / "features", redis_url="redis://127.0.0.1:1") == 1
    assert "features not loaded: Error" in capsys.readouterr().err


def test_without_a_table_it_says_so(tmp_path: Path, load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    """A table that a view names and that is not in the folder is named, and the status is 1."""
    assert load(tmp_path) == 1
    assert "cards.csv: can't be read: No such file" in capsys.readouterr().err


def test_without_configuration_it_says_so(
    samples: Path, tmp_path: Path, load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    """A configuration that can't be used has a status of its own."""
    assert load(samples / "features", tmp_path / "none.yaml") == 2
    assert "none.yaml" in capsys.readouterr().err

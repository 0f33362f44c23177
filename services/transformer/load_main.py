"""`python -m services.transformer.load_main`: fills every view that names a source, then ends.

Made for containers: it needs nothing that the transformer's image does not have, waits for Redis, and may run again at any time.
It reads the transformer's own configuration, so that both mean the same Redis, keys and views. Exit status: 0 when every row is
stored, 1 when something is not, 2 for a bad configuration.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

from redis.exceptions import RedisError

from infermesh.config import ConfigError, load
from services.transformer.administration import administration, wait_for_redis
from services.transformer.config import TransformerConfig
from services.transformer.load import BadTable, LoadSummary, NotWritten, load_file
from services.transformer.policy import micros
from services.transformer.writer import FeatureWriter

__all__ = ["main"]

EXIT_FAILED, EXIT_CONFIG = 1, 2


def main() -> int:
    """Load what the arguments name; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m services.transformer.load_main", description="Fill the feature store from files."
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="the transformer's configuration")
    parser.add_argument("--folder", type=Path, required=True, help="folder with the files that the views name")
    parser.add_argument("--wait", type=float, default=60.0, metavar="SECONDS", help="how long to wait for Redis (60)")
    arguments = parser.parse_args()
    try:
        config = load(TransformerConfig, arguments.config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    try:
        return asyncio.run(_load_all(config, arguments.folder, arguments.wait))
    except (BadTable, NotWritten, ValueError, RedisError, OSError) as error:
        print(f"features not loaded: {error}", file=sys.stderr)
        return EXIT_FAILED


async def _load_all(config: TransformerConfig, folder: Path, wait_s: float) -> int:
    client = administration(config.redis)
    status = 0
    try:
        await wait_for_redis(client, wait_s)
        for name, view in config.feature_file().views.items():
            if not view.source:
                continue
            writer = FeatureWriter(client, name, view, prefix=config.redis.key_prefix)
            summary = await load_file(folder / view.source, writer, event_time_us=micros(time.time()))
            _report(name, summary)
            status = EXIT_FAILED if summary.refused else status
    finally:
        await client.aclose()
    return status


def _report(view: str, summary: LoadSummary) -> None:
    older = f", {summary.older} older than what is stored" if summary.older else ""
    print(f"{view}: {summary.written} of {summary.rows} rows written{older}, {summary.rows_per_second:,.0f} rows/s")
    for refused in summary.refusals:
        print(f"{view}: {summary.unit} {refused.line} refused: {refused.why}", file=sys.stderr)
    if (more := summary.refused - len(summary.refusals)) > 0:
        print(f"{view}: {more} more {summary.unit}s refused", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

"""Feast's own side of `feast_lookup`, in Feast's environment: `python feast_online.py FOLDER HOST:PORT PROJECT < COMMANDS`.

One JSON line for each line of the input. The first line is {"card_ids": […], "features": {name: […]}, "time": seconds}: Feast
writes these rows to its online store. {"read": [ids]} answers with what Feast reads; {"measure": requests, "ids": [ids]} with the
rows for each second of this process' CPU, asked one request after the other by `get_online_features`, up to Feast's own answer.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def store_of(folder: Path, address: str, project: str, first: dict[str, Any]) -> Any:
    """Feast's store with the rows of the first line in it."""
    import pandas as pd
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Float32, String

    store = FeatureStore(
        config=RepoConfig(
            project=project,
            provider="local",
            registry=str(folder / "registry.db"),
            online_store={"type": "redis", "connection_string": address},
            entity_key_serialization_version=3,
        )
    )
    at = datetime.fromtimestamp(first["time"], UTC)
    ids = first["card_ids"]
    frame = pd.DataFrame({"card_id": ids, **first["features"], "event_timestamp": [at] * len(ids)})
    frame.to_parquet(folder / "cards.parquet")
    card = Entity(name="card", join_keys=["card_id"], value_type=ValueType.STRING)
    view = FeatureView(
        name="card",
        entities=[card],
        schema=[Field(name="card_id", dtype=String), *(Field(name=n, dtype=Float32) for n in first["features"])],
        source=FileSource(path=str(folder / "cards.parquet"), timestamp_field="event_timestamp"),
    )
    store.apply([card, view])
    store.write_to_online_store("card", df=frame)
    return store


def main() -> None:
    """Answer line by line, until the input ends."""
    first = json.loads(sys.stdin.readline())
    store = store_of(Path(sys.argv[1]), sys.argv[2], sys.argv[3], first)
    names = [f"card:{name}" for name in first["features"]]

    def ask(ids: list[str]) -> Any:
        return store.get_online_features(names, [{"card_id": each} for each in ids])

    import feast

    print(json.dumps({"feast": feast.__version__}), flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        if "read" in told:
            print(json.dumps(ask(told["read"]).to_dict()), flush=True)
            continue
        ids = told["ids"]
        ask(ids)
        began, cpu = time.perf_counter(), time.process_time()
        for _ in range(told["measure"]):
            ask(ids)
        used, took = time.process_time() - cpu, time.perf_counter() - began
        rows = told["measure"] * len(ids)
        print(json.dumps({"rows_per_cpu_s": rows / used, "ms": took / told["measure"] * 1000}), flush=True)


if __name__ == "__main__":
    main()

"""Writes feature rows with Feast itself. Runs in Feast's own environment: `python feast_writer.py FOLDER HOST:PORT PROJECT`.

Prints, as JSON, Feast's version and what it reads back from its own store: what a reader of ours has to find too.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

TIME = datetime(2023, 11, 14, 22, 13, 20, 250_000, tzinfo=UTC)
CARDS = {
    "card_id": ["c-1", "c-2", "ü:%"],
    "limit": [2100.5, 0.0, -1.25],
    "ratio": [0.1, float("inf"), 2.5],
    "visits": [7, 0, -(2**63)],
    "declines": [2**31 - 1, 0, -5],
    "vip": [True, False, True],
    "city": ["Zürich", "", "Bern"],
    "embedding": [[0.5, -1.5, 2.0], [0.0, 0.0, 0.0], [1.0, 2.0, 3.0]],
    "codes": [[1, -1], [300, 2**40], [0, 0]],
}
LITTLE = {name: [{"card_id": "c-3", "limit": 5.0}.get(name)] for name in CARDS}  # a card of which little is known
TRIPS = {"shop_id": [42, 43], "card": ["c-1", "c-2"], "count_7d": [3, 4]}


def main() -> None:
    """Write two views, one with two join keys, and print what Feast reads."""
    import feast
    import pandas as pd
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String

    folder, address, project = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    config = RepoConfig(
        project=project,
        provider="local",
        registry=str(folder / "registry.db"),
        online_store={"type": "redis", "connection_string": address},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    times = {"event_timestamp": [TIME] * 3}
    frames = {
        "cards": pd.DataFrame({**CARDS, **times}),
        "trips": pd.DataFrame({**TRIPS, "event_timestamp": [TIME] * 2}),
    }
    sources = {}
    for name, frame in frames.items():
        frame.to_parquet(folder / f"{name}.parquet")
        sources[name] = FileSource(path=str(folder / f"{name}.parquet"), timestamp_field="event_timestamp")
    card = Entity(name="card", join_keys=["card_id"], value_type=ValueType.STRING)
    payer = Entity(name="payer", join_keys=["card"], value_type=ValueType.STRING)
    shop = Entity(name="shop", join_keys=["shop_id"], value_type=ValueType.INT64)
    datatypes = {
        "limit": Float32,
        "ratio": Float64,
        "visits": Int64,
        "declines": Int32,
        "vip": Bool,
        "city": String,
        "embedding": Array(Float32),
        "codes": Array(Int64),
    }
    cards = FeatureView(
        name="card_stats",
        entities=[card],
        schema=[Field(name="card_id", dtype=String), *(Field(name=n, dtype=d) for n, d in datatypes.items())],
        source=sources["cards"],
    )
    trips = FeatureView(
        name="trips",
        entities=[shop, payer],
        schema=[
            Field(name="shop_id", dtype=Int64),
            Field(name="card", dtype=String),
            Field(name="count_7d", dtype=Int64),
        ],
        source=sources["trips"],
    )
    store.apply([card, payer, shop, cards, trips])
    store.write_to_online_store("card_stats", df=frames["cards"])
    store.write_to_online_store("card_stats", df=pd.DataFrame(LITTLE | {"event_timestamp": [TIME]}))
    store.write_to_online_store("trips", df=frames["trips"])
    read = {
        "card_stats": store.get_online_features(
            [f"card_stats:{name}" for name in datatypes],
            [{"card_id": each} for each in [*CARDS["card_id"], "c-3", "nobody"]],
        ).to_dict(),
        "trips": store.get_online_features(
            ["trips:count_7d"],
            [{"shop_id": s, "card": c} for s, c in zip(TRIPS["shop_id"], TRIPS["card"], strict=True)],
        ).to_dict(),
    }
    print(json.dumps({"feast": feast.__version__, "event_time_us": round(TIME.timestamp() * 1e6), "read": read}))


if __name__ == "__main__":
    main()

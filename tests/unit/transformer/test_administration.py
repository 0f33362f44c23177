"""redis-py's client of the store, by every kind of address."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as Disconnected

from infermesh.cli.valkey import Valkey
from services.transformer.administration import administration, wait_for_redis
from services.transformer.config import RedisConfig
from services.transformer.row import RowFormat
from services.transformer.views import FeatureView
from services.transformer.writer import FeatureWriter
from services.transformer.writing.again import Again
from tests.certificates import Authority
from tests.unit.gateway.redis_servers import Sentinel, tls_relay
from tests.unit.transformer.redis_chaos import until

VIEW = FeatureView.model_validate({"entity": {"name": "id"}, "features": [{"name": "a"}]})


async def test_a_database_of_a_socket(tmp_path: Path) -> None:
    """A path in the place of a host, and the database that is asked for."""
    with Valkey(options=["--unixsocket", str(tmp_path / "s")]) as server:
        client = administration(RedisConfig(url=f"unix://{tmp_path / 's'}?db=3"))
        await client.set("a", "b")
        await client.aclose()

        with Redis(port=server.port, db=3) as admin:
            assert admin.get("a") == b"b"


async def test_the_password_of_the_settings_is_the_one_that_counts() -> None:
    """A user of the address with the password of the settings gets in; with another one nobody does."""
    with Valkey() as server:
        with Redis(port=server.port) as admin:
            admin.execute_command("ACL", "SETUSER", "ann", "on", ">right", "~*", "+@all")
        url = f"redis://ann:wrong@127.0.0.1:{server.port}/0"
        right = administration(RedisConfig.model_validate({"url": url, "password": "right"}))
        wrong = administration(RedisConfig(url=url))

        await wait_for_redis(right, 0)
        with pytest.raises(AuthenticationError):
            await wait_for_redis(wrong, 0)
        await right.aclose()
        await wrong.aclose()


async def test_tls_with_certificates(tmp_path: Path) -> None:
    """With roots and a certificate of ours it works, by settings or in the address; without roots it does not."""
    root = Authority(tmp_path)
    mine = root.pair("transformer", clients_only=True)
    files = {"ca": root.file, "certificate": mine.cert, "key": mine.key}
    with Valkey() as server:
        async with tls_relay(server.port, root.pair(dns=["localhost"]), root.file) as port:
            url = f"rediss://localhost:{port}"
            words = f"?ssl_ca_certs={root.file}&ssl_certfile={mine.cert}&ssl_keyfile={mine.key}"
            for config in (RedisConfig.model_validate({"url": url, **files}), RedisConfig(url=url + words)):
                client = administration(config)
                await wait_for_redis(client, 0)
                await client.aclose()
            stranger = administration(RedisConfig(url=url))
            with pytest.raises(Disconnected):
                await wait_for_redis(stranger, 0)
            await stranger.aclose()


@pytest.mark.long
async def test_a_failover_loses_no_row_of_a_writer(unused_tcp_port: int) -> None:
    """What is written while the primary dies is tried until the next one takes it; a Sentinel that is away is passed over."""
    layout = RowFormat(VIEW.columns)
    with (
        Valkey() as primary,
        Valkey(options=["--replicaof", f"127.0.0.1 {primary.port}", "--repl-diskless-sync-delay", "0"]) as second,
        Sentinel(primary, "features") as sentinel,
    ):
        with Redis(port=sentinel.port) as admin:
            await until(
                lambda: any("ok" in each.get("master-link-status", "") for each in admin.sentinel_slaves("features"))
            )
        url = f"redis+sentinel://127.0.0.1:{unused_tcp_port},127.0.0.1:{sentinel.port}/features/0"
        client = administration(RedisConfig(url=url))
        async with FeatureWriter(client, "card", VIEW, again=Again(patience_s=60)) as writer:
            await writer.put("before", [1.0], 1)
            await writer.flush()
            with Redis(port=second.port) as copy:
                await until(lambda: copy.get(writer.key("before")) is not None)
                primary.stop()
                await writer.put("after", [2.0], 1)
                await writer.flush()

                assert copy.info("replication")["role"] == "master"
                assert layout.unpack(copy.get(writer.key("after"))).values == (2.0,)  # type: ignore[arg-type]
        await client.aclose()

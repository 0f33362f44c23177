"""One server: what goes out, who gets which reply, and what happens when the connection or the server fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from redis import Redis

from infermesh.cli.valkey import Valkey
from services.transformer.redis.errors import Away, Late, Lost, Overloaded, RedisReplyError, Unanswered, Unfit
from services.transformer.redis.single import SingleClient
from tests.unit.transformer.redis_chaos import config_of, hung, until

ClientOf = Callable[..., SingleClient]


@pytest.fixture
async def client_of() -> AsyncIterator[ClientOf]:
    """Makes clients, and closes them."""
    made: list[SingleClient] = []

    def make(url: str, failed: Callable[[str], None] = lambda why: None, **settings: Any) -> SingleClient:
        made.append(SingleClient(config_of(url, **settings), failed=failed))
        return made[-1]

    yield make
    for client in made:
        await client.close()


@pytest.fixture
def own() -> Iterator[Valkey]:
    with Valkey() as server:
        with Redis(port=server.port) as admin:
            admin.mset({f"k{number}": f"v{number}" for number in range(100)})
        yield server


class Scripted(asyncio.Protocol):
    """A server that keeps what it is sent and says what a test wants, when it wants."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.transports: list[asyncio.Transport] = []
        self.greets = True

    def connection_made(self, transport: Any) -> None:
        self.transports.append(transport)

    def data_received(self, data: bytes) -> None:
        if self.greets and b"SETNAME" in data:
            self.transports[-1].write(b"+OK\r\n")
        else:
            self.received.append(data)

    async def got(self, count: int) -> None:
        await until(lambda: len(self.received) >= count)

    def say(self, data: bytes) -> None:
        self.transports[-1].write(data)


@pytest.fixture
async def scripted() -> AsyncIterator[tuple[Scripted, str]]:
    server = Scripted()
    listening = await asyncio.get_running_loop().create_server(lambda: server, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()
    yield server, f"redis://{host}:{port}"
    for transport in server.transports:
        transport.abort()
    listening.close()
    await listening.wait_closed()


async def test_what_is_asked_in_one_turn_goes_out_in_one_write(
    scripted: tuple[Scripted, str], client_of: ClientOf
) -> None:
    """Ten callers, one write; the replies are told apart by their order."""
    server, url = scripted
    client = client_of(url)
    first = asyncio.ensure_future(client.mget([b"first"], deadline_s=5))
    await server.got(1)
    server.say(b"*1\r\n$1\r\nf\r\n")
    assert await first == [b"f"]

    asked = [asyncio.ensure_future(client.mget([b"k%d" % number], deadline_s=5)) for number in range(10)]
    await server.got(2)
    server.say(b"".join(b"*1\r\n$1\r\n%d\r\n" % number for number in range(10)))

    assert await asyncio.gather(*asked) == [[b"%d" % number] for number in range(10)]
    assert len(server.received) == 2


async def test_a_key_that_is_being_read_is_not_read_twice(scripted: tuple[Scripted, str], client_of: ClientOf) -> None:
    """Within a turn and while the read is under way, whoever asks gets its reply; the first of them may leave."""
    server, url = scripted
    client = client_of(url)
    first = asyncio.ensure_future(client.mget([b"a", b"b"], deadline_s=5))
    await server.got(1)
    second = asyncio.ensure_future(client.mget([b"b", b"c"], deadline_s=5))
    await server.got(2)
    third = asyncio.ensure_future(client.mget([b"c", b"a"], deadline_s=5))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    server.say(b"*2\r\n$1\r\nA\r\n$1\r\nB\r\n*1\r\n$1\r\nC\r\n")

    assert await asyncio.gather(second, third) == [[b"B", b"C"], [b"C", b"A"]]
    assert server.received[0].startswith(b"*3\r\n$4\r\nMGET")
    assert b"$1\r\nb" not in server.received[1]
    assert len(server.received) == 2
    assert len(client._flights) == 0


async def test_a_read_that_hangs_is_not_joined(scripted: tuple[Scripted, str], client_of: ClientOf) -> None:
    """Who comes half a timeout later asks anew: the first may never be answered."""
    server, url = scripted
    client = client_of(url, timeout="40ms")
    with pytest.raises(Late):
        await client.mget([b"a"], deadline_s=0.03)
    with pytest.raises(Late):
        await client.mget([b"a"], deadline_s=0.03)

    assert len(server.received) == 2


async def test_a_late_reply_is_thrown_away_and_the_connection_kept(own: Valkey, client_of: ClientOf) -> None:
    """After timeouts and cancelled calls everybody gets his own reply, on the same connection."""
    client = client_of(own.url, failures=100)
    await client.mget([b"k0"], deadline_s=5)
    connection = client._node.lanes[0].connection
    with hung(own):
        for number in range(5):
            with pytest.raises(Late):
                await client.mget([b"k%d" % number], deadline_s=0.01)
        leaving = asyncio.ensure_future(client.mget([b"k9"], deadline_s=5))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait({leaving})

    assert await client.mget([b"k50", b"k51"], deadline_s=5) == [b"v50", b"v51"]
    assert client._node.lanes[0].connection is connection


async def test_a_connection_that_stays_silent_is_given_up(
    scripted: tuple[Scripted, str], client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When nothing came for five timeouts, who still waits is asked for anew on another connection."""
    monkeypatch.setattr("services.transformer.redis.node.SILENT_S", 0.0)
    server, url = scripted
    client = client_of(url, timeout="20ms", failures=100)
    patient = asyncio.ensure_future(client.mget([b"patient"], deadline_s=10))
    await server.got(1)
    while len(server.transports) == 1:
        with contextlib.suppress(Unanswered):
            await client.mget([b"hurried"], deadline_s=0.02)
    await until(lambda: any(b"patient" in each for each in server.received[1:]))
    sent_again = [each for each in server.received[1:] if b"patient" in each]
    server.say(b"*1\r\n$1\r\np\r\n")

    assert await patient == [b"p"]
    assert len(sent_again) == 1


async def test_a_read_is_asked_once_more_when_the_connection_is_lost(
    scripted: tuple[Scripted, str], client_of: ClientOf
) -> None:
    """In the middle of a reply, too; the second time it fails. Who has left is not asked for again."""
    server, url = scripted
    client = client_of(url)
    wanted = asyncio.ensure_future(client.mget([b"wanted"], deadline_s=5))
    left = asyncio.ensure_future(client.mget([b"left"], deadline_s=5))
    await server.got(1)
    left.cancel()
    await asyncio.wait({left})
    server.say(b"*1\r\n$5\r\nwa")
    server.transports[-1].close()
    await server.got(2)
    assert b"left" not in server.received[1]
    server.say(b"*1\r\n$1\r\nw\r\n")
    assert await wanted == [b"w"]

    lost = asyncio.ensure_future(client.mget([b"lost"], deadline_s=5))
    await server.got(3)
    server.transports[-1].close()
    await server.got(4)
    server.transports[-1].close()
    with pytest.raises(Lost, match="the connection was lost"):
        await lost


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 64, b"*-7\r\n"])
async def test_a_server_that_speaks_something_else_is_hung_up_on(
    scripted: tuple[Scripted, str], client_of: ClientOf, said: bytes
) -> None:
    """What is no reply ends the connection; the question goes out once more, and fails when that ends the same."""
    server, url = scripted
    client = client_of(url)
    asked = asyncio.ensure_future(client.mget([b"a"], deadline_s=5))
    for sent in (1, 2):
        await server.got(sent)
        server.say(said)

    with pytest.raises(Lost, match="the connection was lost"):
        await asked


async def test_a_reply_that_nobody_asked_for_ends_the_connection(
    scripted: tuple[Scripted, str], client_of: ClientOf
) -> None:
    """Else it would be taken for the next one's."""
    server, url = scripted
    client = client_of(url)
    asked = asyncio.ensure_future(client.mget([b"a"], deadline_s=5))
    await server.got(1)
    server.say(b"*1\r\n$1\r\na\r\n*1\r\n$5\r\nwrong\r\n")
    assert await asked == [b"a"]

    later = asyncio.ensure_future(client.mget([b"later"], deadline_s=5))
    await until(lambda: len(server.transports) == 2 and len(server.received) == 2)
    server.say(b"*1\r\n$1\r\nl\r\n")
    assert await later == [b"l"]


async def test_as_much_as_may_be_is_under_way(scripted: tuple[Scripted, str], client_of: ClientOf) -> None:
    """More is refused at once; a single large request is let in when nothing else is."""
    server, url = scripted
    client = client_of(url, max_in_flight=10, connections=1)
    large = asyncio.ensure_future(client.mget([b"%d" % number for number in range(12)], deadline_s=5))
    await server.got(1)

    with pytest.raises(Overloaded, match="too much"):
        await client.mget([b"x"], deadline_s=5)
    server.say(b"*12\r\n" + b"_\r\n" * 12)
    assert await large == [None] * 12
    small = asyncio.ensure_future(client.mget([b"x"], deadline_s=5))
    await server.got(2)
    server.say(b"*1\r\n_\r\n")
    assert await small == [None]
    assert client.is_up


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"-LOADING Redis is loading the dataset in memory", "still loading"),
        (b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", "lost its primary"),
        (b"-OOM command not allowed when used memory > 'maxmemory'.", "no memory left"),
        (b"-NOAUTH Authentication required.", "wants a password"),
        (b"-NOPERM this user has no permissions to access the 'k' key", "may not"),
        (b"-READONLY You can't write against a read only replica.", "is a replica"),
        (b"-CLUSTERDOWN Hash slot not served", "slots of the cluster"),
        (b"-ERR secret words", r"an error \(ERR\)"),
    ],
)
async def test_an_error_says_what_is_the_matter(
    scripted: tuple[Scripted, str], client_of: ClientOf, reply: bytes, words: str
) -> None:
    """In words of ours; what the server quotes does not come along."""
    server, url = scripted
    client = client_of(url)
    asked = asyncio.ensure_future(client.mget([b"a"], deadline_s=5))
    await server.got(1)
    server.say(reply + b"\r\n")

    with pytest.raises(Unfit, match=words) as unfit:
        await asked
    assert "secret" not in str(unfit.value)


async def test_errors_of_commands_are_replies(own: Valkey, client_of: ClientOf) -> None:
    """One command's error stands in its place, and is no failure of the server."""
    client = client_of(own.url, failures=1)

    replies = await client.ask((b"HMGET", b"k1", b"f"), (b"GET", b"k1"), (b"GET", b"k1"), deadline_s=5)

    assert isinstance(replies[0], RedisReplyError)
    assert replies[0].code == "WRONGTYPE"
    assert replies[1:] == [b"v1", b"v1"]
    assert client.is_up


async def test_a_restart_in_the_middle_of_reads_is_survived(own: Valkey, client_of: ClientOf) -> None:
    """Under load the server ends and begins anew: no reply is another key's, and in the end all are answered."""
    client = client_of(own.url, failures=10**6)
    stop, wrong, answered = asyncio.Event(), [], 0

    async def look(number: int) -> None:
        nonlocal answered
        while not stop.is_set():
            keys = [b"k%d" % ((number + at) % 100) for at in range(5)]
            try:
                values = await client.mget(keys, deadline_s=5)
            except Unanswered:
                await asyncio.sleep(0.01)
                continue
            answered += 1
            wrong.extend(v for k, v in zip(keys, values, strict=True) if v not in (None, b"v" + k[1:]))

    looking = [asyncio.ensure_future(look(number)) for number in range(16)]
    await until(lambda: answered > 100)
    await asyncio.to_thread(own.stop)
    await asyncio.to_thread(own.start)
    at = answered
    await until(lambda: answered > at + 100)
    stop.set()
    await asyncio.gather(*looking)

    assert wrong == []


async def test_a_server_that_hangs_opens_the_breaker_and_a_probe_closes_it(own: Valkey, client_of: ClientOf) -> None:
    """Three timeouts, then nobody waits; when it goes on, so do we."""
    told: list[str] = []
    client = client_of(own.url, told.append, timeout="100ms")
    await client.mget([b"k1"], deadline_s=5)
    with hung(own):
        refused: list[Unanswered] = []
        while not any(isinstance(each, Away) for each in refused):
            with pytest.raises(Unanswered) as error:
                await client.mget([b"k1"], deadline_s=0.1)
            refused.append(error.value)
        assert [type(each) for each in refused[:3]] == [Late] * 3
        assert not await client.probe()
    async with asyncio.timeout(20):
        while not await client.probe():
            await asyncio.sleep(0.01)

    assert await client.mget([b"k1"], deadline_s=5) == [b"v1"]
    assert told[:3] == ["no answer in time"] * 3

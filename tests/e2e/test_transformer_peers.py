"""The peers of the transformer's benchmarks: each makes the same of a request, and what would be no measurement is found."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from benchmarks import feast_lookup
from benchmarks.contenders import WrongAnswer
from benchmarks.echo_backend import echoed
from benchmarks.feature_rows import STORAGES, fill, request_for
from benchmarks.load import requests_of
from benchmarks.transformer_cost import REQUESTS, Hop, answer, loaded, unasked, write_requests
from benchmarks.transformer_parts import measure_parts
from benchmarks.transformers import backend, bare, check, transformer
from infermesh.cli.valkey import Valkey

CARDS = 60


@pytest.fixture(scope="module")
def cards() -> Iterator[str]:
    """The address of a Valkey of the module's own, with cards."""
    with Valkey() as server:
        fill(server.url, CARDS)
        yield server.url


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with backend(tmp_path_factory.mktemp("backend") / "response.bin", answer()) as port:
        yield port


def test_ours_makes_of_a_request_what_was_written(cards: str, port: int, tmp_path: Path) -> None:
    """One card and 32, to the bit; and a short load is answered and counted, each call with a lookup of its own."""
    requests = write_requests(tmp_path / "requests", 1, CARDS)
    with transformer(tmp_path / "transformer", cards, port) as ours:
        check(ours, 7, 1)
        check(ours, 7, 32)
        hop = loaded(ours, requests, 0.2, 8, cards)

    assert hop.cpu_us > 0
    assert not unasked(hop)  # eight at a time, no two of which ask for the same card


def test_a_load_of_which_calls_fail_is_no_measurement(cards: str, port: int, tmp_path: Path) -> None:
    """It says how many failed, and why."""
    folder = tmp_path / "requests"
    folder.mkdir()
    (folder / "0.bin").write_bytes(request_for(0, 1).SerializeToString())
    (folder / "1.bin").write_bytes(request_for(CARDS, 1).SerializeToString())  # whom nobody has written
    with (
        transformer(tmp_path / "transformer", cards, port) as ours,
        pytest.raises(RuntimeError, match=r"calls failed: .*FAILED_PRECONDITION"),
    ):
        loaded(ours, folder, 0.2, 2, cards)


def test_a_load_sends_what_the_folder_holds(tmp_path: Path) -> None:
    """In the order of the names; neighbours have no card in common. A folder without requests is refused."""
    folder = write_requests(tmp_path / "requests", 32)

    read = requests_of(folder)

    assert len(read) == REQUESTS
    assert read[1] == request_for(32, 32).SerializeToString()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="got an empty folder"):
        requests_of(tmp_path / "empty")


@pytest.mark.parametrize("storage", STORAGES)
def test_a_bare_transformer_makes_the_same(storage: str, cards: str, port: int) -> None:
    with bare(storage, cards, port) as peer:
        check(peer, 7, 1)
        check(peer, 7, 32)


def test_other_values_are_a_wrong_answer(port: int) -> None:
    """A peer whose store holds the values of other cards is not measured."""
    with Valkey() as server:
        fill(server.url, 10)
        with Redis.from_url(server.url) as client:
            client.copy("packed:card-00000003", "packed:card-00000007", replace=True)
        with bare("packed", server.url, port) as peer, pytest.raises(WrongAnswer, match="card_features differs"):
            check(peer, 7, 1)


def test_calls_that_shared_a_lookup_are_told() -> None:
    assert not unasked(Hop(500.0, 2.0, 1.0))
    assert unasked(Hop(500.0, 2.0, 0.72)) == [
        "Valkey got 0.72 commands for each call: others than the lookup have answered"
    ]


def test_only_the_mark_is_echoed() -> None:
    """A request that merely holds the mark's bytes somewhere gets the canned answer."""
    request = request_for(0, 1)
    assert echoed(request.SerializeToString()) is None


def test_the_parts_of_the_hop_are_measured(cards: str) -> None:
    parts = measure_parts(cards, 7, 32, at_a_time=2, calls=8)

    assert min(parts.keys_us, parts.lookup_us, parts.join_us) > 0


@pytest.mark.long
def test_feast_reads_what_we_read(tmp_path: Path) -> None:
    """Feast's own answer, our join of Feast's rows and that of packed ones are the values that were written."""

    async def compare(theirs: feast_lookup.Theirs, url: str) -> None:
        ours = [feast_lookup.Ours(url, layout) for layout in (feast_lookup.FEAST, None)]
        await feast_lookup.check(theirs, ours, 5)
        for each in ours:
            await each.store.close()

    with Valkey() as server:
        fill(server.url, feast_lookup.CARDS)
        with feast_lookup.feast(tmp_path, server.port, feast_lookup.CARDS) as (theirs, _):
            asyncio.run(compare(theirs, server.url))


def test_without_feast_nothing_is_measured(tmp_path: Path) -> None:
    """It says what to run."""
    missing = feast_lookup.feast(tmp_path, 1, 1, python=tmp_path / "none")

    with pytest.raises(FileNotFoundError, match=r"make \.venv-feast/ready"), missing:
        pass

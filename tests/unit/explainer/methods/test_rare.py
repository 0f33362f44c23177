"""Rules and products, where most of what matters is seldom drawn: errors that hold, and none that is told as 0."""

from __future__ import annotations

import math

import numpy as np
import pytest

from services.explainer.coalitions import all_subsets
from services.explainer.methods.kernel_design import fewest_pairs
from services.explainer.methods.permutation import evaluations_of
from tests.unit.explainer.methods.games import Game, UnlikeGames, estimates_of

PLAYERS = 8
MASKS = all_subsets(PLAYERS)
TABLES = {
    "a product of all": 8.0 * MASKS.all(axis=1),
    "a rule of four": (MASKS[:, :2].all(axis=1) & ~MASKS[:, 2:4].any(axis=1)).astype(float),
    "a rule of two of the first three": (MASKS[:, :3].sum(axis=1) == 2).astype(float),
    "a rule among terms": MASKS @ np.linspace(0.1, 0.8, PLAYERS) + 2.0 * MASKS[:, 2:6].all(axis=1),
}
KERNEL = 2 + 2 * fewest_pairs(PLAYERS)
ASKED = [
    ("permutation", evaluations_of(3, PLAYERS)),
    ("permutation", evaluations_of(12, PLAYERS)),
    ("kernel", KERNEL),
    ("kernel", 100),
]
by_game = pytest.mark.parametrize("name", TABLES)
by_method = pytest.mark.parametrize(("method", "evaluations"), ASKED)


def game_of(name: str) -> Game:
    return Game(TABLES[name][None, :, None])


def unlike(name: str, backgrounds: int) -> UnlikeGames:
    """Background rows that know some players already: then the game is that of the others."""
    known = np.random.default_rng(1).random((backgrounds, PLAYERS)) < 0.2
    numbers = (MASKS[:, None] | known) @ (1 << np.arange(PLAYERS))
    return UnlikeGames(TABLES[name][numbers][None, :, :, None])


async def covered(game: Game, method: str, evaluations: int, seeds: int) -> float:
    """How often the exact value is within 1.96 standard errors; no error is 0 where there is one."""
    within = []
    for seed in range(seeds):
        last = (await estimates_of(game, method, evaluations, seed))[-1]
        apart = np.abs(last.attributions - game.exact)
        assert (last.std_error > 0).all()
        within.append(apart <= 1.96 * last.std_error)
    return float(np.mean(within))


@by_game
@by_method
async def test_errors_cover_rules_and_products(name: str, method: str, evaluations: int) -> None:
    """In at least 90 % of 100 seeds, with 3 pairs as with 12: the short form."""
    assert await covered(game_of(name), method, evaluations, 100) >= 0.9


@by_game
@pytest.mark.parametrize(("method", "evaluations", "backgrounds"), [(*ASKED[0], 6), (*ASKED[1], 6), (*ASKED[2], 40)])
async def test_errors_cover_with_orders_and_pairs_of_their_own(
    name: str, method: str, evaluations: int, backgrounds: int
) -> None:
    """As above, where each background row has its own."""
    assert await covered(unlike(name, backgrounds), method, evaluations, 60) >= 0.9


@pytest.mark.long
@by_game
@by_method
async def test_errors_cover_rules_and_products_over_a_thousand_seeds(name: str, method: str, evaluations: int) -> None:
    """The same, and nowhere by a lucky choice of seeds."""
    assert await covered(game_of(name), method, evaluations, 1000) >= 0.9


@pytest.mark.parametrize(("method", "seed"), [("permutation", 3), ("kernel", 0)])
async def test_where_nothing_moved_the_error_is_not_known(method: str, seed: int) -> None:
    """A rule of eight of fourteen players that no draw met: all that was seen is the same, and tells nothing of what was not."""
    masks = all_subsets(14)
    game = Game(5.0 * (masks[:, :4].all(axis=1) & ~masks[:, 4:8].any(axis=1))[None, :, None])

    last = (await estimates_of(game, method, 60, seed, tolerance=1e-3))[-1]

    assert np.abs(game.exact).max() > 0.01
    assert np.isinf(last.std_error).all()
    assert not last.converged


@pytest.mark.parametrize("backgrounds", [1, 40])
@pytest.mark.parametrize("method", ["permutation", "kernel"])
async def test_a_tolerance_is_not_reached_by_few_pairs(method: str, backgrounds: int) -> None:
    """However wide it is: of two pairs, or of less than ten draws, an error is too uncertain to stop by."""
    game = unlike("a rule among terms", backgrounds)
    fewest = evaluations_of(2, PLAYERS) if method == "permutation" else KERNEL

    few = (await estimates_of(game, method, fewest, 0, tolerance=1e3))[-1]
    more = (await estimates_of(game, method, evaluations_of(12, PLAYERS), 0, tolerance=1e3))[-1]

    assert not few.converged
    assert more.converged


async def test_an_additive_model_is_less_and_less_uncertain() -> None:
    """Its pairs are all alike, and so might be those of a rule that was not met: the error is what v spans over the pairs."""
    game = Game((MASKS @ np.linspace(0.1, 0.8, PLAYERS))[None, :, None])

    for pairs in (3, 12, 100):
        last = (await estimates_of(game, "permutation", evaluations_of(pairs, PLAYERS), 0))[-1]
        assert last.std_error == pytest.approx(np.full((1, PLAYERS, 1), 3.6 / pairs))
        assert math.isfinite(last.std_error.max())

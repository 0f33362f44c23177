"""Attributions from permutations: close to the exact ones, by as much as they say."""

from __future__ import annotations

import asyncio
import math
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.deadline import Deadline
from infermesh.errors import DeadlineExceeded, Unavailable
from services.explainer.coalitions import all_subsets
from services.explainer.methods.pace import Plan
from services.explainer.methods.permutation import evaluations_of, pairs_within, permutation
from services.explainer.threads import Threads
from tests.unit.explainer.methods.games import Game
from tests.unit.explainer.methods.games import rough_game as rougher

PLAYERS = 7


async def sampled(game: Game, pairs: int, seed: int, tolerance: float | None = None, stop: Deadline | None = None):
    """All estimates, first to last."""
    threads = Threads(1)
    plan = Plan(pairs, seed, stop or Deadline(math.inf), tolerance)
    base, predictions = game.table[0, 0], game.table[:, -1]
    try:
        return [
            estimate
            async for estimate in permutation(game, base, predictions, game.players, plan, threads)  # type: ignore[arg-type]
        ]
    finally:
        threads.close()


def rough_game(seed: int, rows: int = 2) -> Game:
    return rougher(seed, rows, PLAYERS)


async def test_every_estimate_adds_up_to_prediction_less_base_value() -> None:
    """Additivity holds from the first pair on, not only in the end."""
    game = rough_game(1)

    for estimate in await sampled(game, 64, seed=0):
        total = estimate.attributions.sum(axis=1)
        assert total == pytest.approx(game.table[:, -1] - game.table[:, 0], abs=1e-9)


async def test_an_additive_model_is_exact_after_one_pair_and_its_error_is_bounded_after_two() -> None:
    """Without interactions each permutation gives the attributions themselves; one pair alone can't tell how sure it is, and two
    that are alike might have missed something as large as all that was seen."""
    weights = np.arange(1.0, PLAYERS + 1)
    game = Game((all_subsets(PLAYERS) @ weights)[None, :, None])

    (one,) = await sampled(game, 1, seed=5)
    two = (await sampled(game, 2, seed=5))[-1]

    assert one.attributions[0, :, 0] == pytest.approx(weights, abs=1e-12)
    assert np.isinf(one.std_error).all()
    assert two.std_error == pytest.approx(np.full((1, PLAYERS, 1), weights.sum() / 2))


async def test_the_same_pair_again_tells_no_more_than_one() -> None:
    """Three players have three pairs of orders, and two draws are one and the same in a third of all cases: then the error is as
    little known as after one, and not 0."""
    game = rougher(1, 1, 3)

    twice = [
        estimate for seed in range(30) if (estimate := (await sampled(game, 2, seed))[-1]) and not _is_spread(estimate)
    ]

    assert 4 <= len(twice) <= 18  # of 30; a third, four standard errors
    assert all(np.isinf(estimate.std_error).all() for estimate in twice)


def _is_spread(estimate: Any) -> bool:
    return bool(((estimate.std_error > 0) & np.isfinite(estimate.std_error)).any())


async def test_a_pair_is_exact_for_interactions_of_two() -> None:
    """What two players add together is split evenly by a permutation and its reverse (Mitchell et al. 2022)."""
    masks = all_subsets(PLAYERS).astype(float)
    pairwise = np.random.default_rng(2).normal(size=(PLAYERS, PLAYERS))
    game = Game(np.einsum("ci,ij,cj->c", masks, pairwise, masks)[None, :, None])

    (estimate,) = await sampled(game, 1, seed=9)

    assert estimate.attributions == pytest.approx(game.exact, abs=1e-12)


async def test_standard_errors_cover_the_exact_values_at_their_rate() -> None:
    """Over 300 seeds, 40 pairs each, the exact value is within 1 (2, 3) standard errors about as often as Student's t says:
    68 %, 95 %, 99.5 %; stated bounds: 62 to 74 %, above 92 %, above 98.5 %."""
    game = rough_game(3, rows=1)
    ratios = []
    for seed in range(300):
        last = (await sampled(game, 40, seed))[-1]
        ratios.append(np.abs(last.attributions - game.exact) / last.std_error)
    ratio = np.array(ratios)

    assert 0.62 < (ratio < 1).mean() < 0.74
    assert (ratio < 2).mean() > 0.92
    assert (ratio < 3).mean() > 0.985


async def test_the_error_falls_with_the_root_of_the_pairs() -> None:
    """Sixteen times the pairs, a quarter of the stated error, within 25 %; and no bias: the mean of seeds is the exact value."""
    game = rough_game(4, rows=1)
    few = [(await sampled(game, 25, seed))[-1] for seed in range(40)]
    many = (await sampled(game, 400, seed=1))[-1]

    ratio = np.mean([estimate.std_error.mean() for estimate in few]) / many.std_error.mean()
    assert 3.0 < ratio < 5.0
    mean = np.mean([estimate.attributions for estimate in few], axis=0)
    error = np.sqrt(np.mean([estimate.std_error**2 for estimate in few], axis=0) / len(few))
    assert (np.abs(mean - game.exact) < 4 * error).all()


async def test_the_same_seed_gives_the_same_bits_and_another_one_does_not() -> None:
    """Determinism by seed, whatever is explained beside a row."""
    game = rough_game(5, rows=3)
    alone = Game(game.table[:1])

    first, again, other = [(await sampled(game, 20, seed))[-1] for seed in (1, 1, 2)]
    one = (await sampled(alone, 20, seed=1))[-1]

    assert first.attributions.tobytes() == again.attributions.tobytes()
    assert first.attributions[:1].tobytes() == one.attributions.tobytes()
    assert first.std_error[:1].tobytes() == one.std_error.tobytes()
    assert not np.array_equal(first.attributions, other.attributions)


async def test_sampling_ends_when_the_tolerance_is_reached_and_says_so() -> None:
    """No standard error is above the tolerance, fewer pairs than allowed were done, and at least ten."""
    game = rough_game(6)
    reference = (await sampled(game, 4000, seed=0))[-1].std_error.max()

    last = (await sampled(game, 4000, seed=0, tolerance=3 * reference))[-1]

    assert last.converged
    assert last.std_error.max() <= 3 * reference
    assert evaluations_of(10, PLAYERS) <= last.evaluations < evaluations_of(2000, PLAYERS)


async def test_a_tolerance_that_the_evaluations_are_not_enough_for_is_not_converged() -> None:
    """All pairs are done, and the answer says that they were too few."""
    last = (await sampled(rough_game(7), 16, seed=0, tolerance=1e-9))[-1]

    assert not last.converged
    assert last.evaluations == evaluations_of(16, PLAYERS)


async def test_rounds_grow_and_no_pair_is_done_twice_or_left_out() -> None:
    """Each round is at most twice the last, and together they are the pairs that were asked for."""
    game = rough_game(8, rows=200)

    estimates = await sampled(game, 50, seed=0)

    coalitions = [2 * (PLAYERS - 1) * n for n in (1, 2)]
    assert sum(game.rounds) == coalitions[0] * 50
    assert all(later <= 2 * earlier for earlier, later in zip(game.rounds, game.rounds[1:], strict=False))
    assert estimates[-1].converged
    assert estimates[-1].evaluations == evaluations_of(50, PLAYERS) == 2 + sum(game.rounds)


@pytest.mark.parametrize(("players", "rows"), [(1, 2), (2, 2), (7, 0)])
async def test_where_all_pairs_are_the_same_one_is_enough(players: int, rows: int) -> None:
    """One or two players join in no other order than a pair's two: the answer is exact and says so, however many pairs were
    asked for. No rows have no orders either."""
    game = Game(np.random.default_rng(12).normal(size=(1, 2**players, 3)).repeat(rows, axis=0))
    game_base = np.zeros(3) if not rows else game.table[0, 0]
    threads = Threads(1)

    found = [
        estimate
        async for estimate in permutation(
            game,  # type: ignore[arg-type]
            game_base,
            game.table[:, -1],
            players,
            Plan(50_000, 0, Deadline(math.inf), 1e-9),
            threads,
        )
    ]
    threads.close()

    (estimate,) = found
    assert estimate.converged
    assert estimate.evaluations == evaluations_of(1, players)
    assert estimate.attributions == pytest.approx(game.exact, abs=1e-12)
    assert not estimate.std_error.any()


async def test_sampling_a_tiny_model_leaves_the_loop_to_others() -> None:
    """5000 pairs of three players whose values come at once: others get a turn before each round, rounds are of at most 256
    pairs, and all but a few pairs are taken in by a thread."""
    turns, here, on_the_loop = 0, threading.get_ident(), []

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    class Watched(Threads):
        async def run(self, elements: int, work: Any, *args: Any, **kwargs: Any) -> Any:
            def watched(*args: Any, **kwargs: Any) -> Any:
                if args and threading.get_ident() == here:
                    on_the_loop.append(len(args[0]))
                return work(*args, **kwargs)

            return await super().run(elements, watched, *args, **kwargs)

    game = Game(np.random.default_rng(13).normal(size=(1, 8, 1)))
    watching, workers = asyncio.create_task(others()), Watched(1)
    plan = Plan(5000, 0, Deadline(math.inf))
    found = permutation(game, game.table[0, 0], game.table[:, -1], 3, plan, workers)  # type: ignore[arg-type]
    last = [estimate async for estimate in found][-1]
    watching.cancel()
    workers.close()

    assert last.evaluations == evaluations_of(5000, 3)
    assert max(game.rounds) <= 256 * 4
    assert turns >= len(game.rounds) >= 5000 / 256
    assert max(on_the_loop, default=0) <= 20


async def test_a_deadline_that_has_passed_leaves_no_estimate() -> None:
    """Not one pair was done, and nothing is made up."""
    assert await sampled(rough_game(9), 10, seed=0, stop=Deadline(0.0, clock=lambda: 1.0)) == []


async def test_when_the_deadline_nears_sampling_stops_with_what_it_has() -> None:
    """The estimate of the rounds that were finished, honest about its error, and not converged."""
    now = 0.0

    class Slow(Game):
        async def of(self, masks: np.ndarray, rows: range) -> np.ndarray:
            nonlocal now
            now += 1.0  # each round takes a second of the fake clock
            return await super().of(masks, rows)

    game = Slow(rough_game(10, rows=500).table)
    threads = Threads(1)
    plan = Plan(10_000, 0, Deadline(3.5, clock=lambda: now))
    table = game.table

    found = [
        estimate
        async for estimate in permutation(game, table[0, 0], table[:, -1], PLAYERS, plan, threads, clock=lambda: now)  # type: ignore[arg-type]
    ]
    threads.close()

    assert 1 <= len(found) <= 3
    assert not found[-1].converged
    assert found[-1].evaluations == 2 + sum(game.rounds)
    assert np.isfinite(found[-1].attributions).all()


async def test_a_model_that_gives_up_earlier_than_we_do_leaves_what_was_done() -> None:
    """DEADLINE_EXCEEDED of the backend after the first round is an end like our own; before it, it is the caller's."""

    class Impatient(Game):
        async def of(self, masks: np.ndarray, rows: range) -> np.ndarray:
            if len(self.rounds) == self.after:
                raise DeadlineExceeded("predictor: too long")
            return await super().of(masks, rows)

    game = Impatient(rough_game(11, rows=500).table)
    game.after = 1
    assert len(await sampled(game, 1000, seed=0)) == 1

    game.after = 2  # which the next sampling starts with: nothing was done in it
    game.rounds = [0, 0]
    with pytest.raises(DeadlineExceeded, match="too long"):
        await sampled(game, 1000, seed=0)


def test_evaluations_and_pairs_are_each_others_inverse() -> None:
    """As many pairs as fit into the evaluations, those of none and all counted once."""
    for players in (2, 3, 12, 500):
        for pairs in (1, 2, 17):
            assert pairs_within(evaluations_of(pairs, players), players) == pairs
            assert pairs_within(evaluations_of(pairs, players) - 1, players) == pairs - 1
    assert pairs_within(2, 1) == pairs_within(100_000, 1) == 1  # for one player all pairs are the same


async def test_the_service_samples_a_model_of_thirty_features(lab: SimpleNamespace) -> None:
    """Over the whole service: close to the closed form of a linear model, additive, and as many evaluations as asked for."""
    draw = np.random.default_rng(1)
    weights, background, rows = draw.normal(size=30), draw.normal(size=(12, 30)), draw.normal(size=(4, 30))
    model = lab.FunctionModel(lambda given: {"y": given["x"] @ weights[:, None]}, [("x", "FP64", (-1, 30))])

    answer = await lab.explain(model, {"x": background}, {"x": rows}, method="permutation", max_evals=150, seed=7)

    assert answer.attributions[..., 0] == pytest.approx(weights * (rows - background.mean(axis=0)), abs=1e-9)
    assert answer.additivity_error.max() < 1e-9
    assert answer.parameters["infermesh_method"] == "permutation"
    assert answer.parameters["infermesh_evaluations"] == evaluations_of(2, 30) <= 150
    assert answer.parameters["infermesh_seed"] == 7
    assert answer.parameters["infermesh_converged"] is True


async def test_the_answer_does_not_depend_on_how_the_asking_is_cut(lab: SimpleNamespace) -> None:
    """The same bits with messages of 7 rows one at a time and with large ones side by side."""
    draw = np.random.default_rng(2)
    background, rows = draw.normal(size=(5, 6)), draw.normal(size=(3, 6))
    model = lab.FunctionModel(lambda given: {"y": np.prod(given["x"], axis=1, keepdims=True)}, [("x", "FP64", (-1, 6))])
    asked = {"method": "permutation", "seed": 3}

    large = await lab.explain(model, {"x": background}, {"x": rows}, **asked)
    small = await lab.explain(
        model, {"x": background}, {"x": rows}, {"asking": {"max_rows": 7, "in_flight": 1}}, **asked
    )
    alone = await lab.explain(model, {"x": background}, {"x": rows[1:2]}, **asked)

    assert large.attributions.tobytes() == small.attributions.tobytes()
    assert large.std_error.tobytes() == small.std_error.tobytes()
    assert large.attributions[1:2].tobytes() == alone.attributions.tobytes()


async def test_the_service_answers_before_the_deadline_with_what_it_has(lab: SimpleNamespace) -> None:
    """A model that stops answering after the first round leaves an answer in time: not converged, with its error."""
    rows = np.random.default_rng(3).normal(size=(2, 6))
    model = lab.FunctionModel(lambda given: {"y": np.prod(given["x"], axis=1, keepdims=True)}, [("x", "FP64", (-1, 6))])
    answer_now = model.answer

    def answer(request, version):
        if len(model.requests) == 4:
            model.hold = asyncio.Event()  # nobody sets it: what is asked next hangs
        return answer_now(request, version)

    model.answer = answer
    explained = await lab.explain(
        model,
        {"x": np.random.default_rng(4).normal(size=(100, 6))},
        {"x": rows},
        {"deadline": {"reserve": "50ms"}, "asking": {"max_rows": 2000}},
        Call(deadline=Deadline.after(0.4)),
        method="permutation",
        max_evals=50_000,
    )

    assert explained.parameters["infermesh_converged"] is False
    assert 12 <= explained.parameters["infermesh_evaluations"] < 50_000
    assert explained.additivity_error.max() < 1e-9
    assert explained.std_error.shape == explained.attributions.shape
    assert model.in_flight == 0


async def test_no_pair_in_time_is_deadline_exceeded(lab: SimpleNamespace) -> None:
    """Predictions came and then nothing: there is no attribution that could be told, and the error says what would help."""
    model = lab.FunctionModel(lambda given: {"y": given["x"].sum(axis=1, keepdims=True)})
    answer_now = model.answer

    def answer(request, version):
        model.hold = asyncio.Event()
        return answer_now(request, version)

    model.answer = answer

    with pytest.raises(DeadlineExceeded, match=r"one pair of permutations of 3 features for 1 row .* fewer rows"):
        await lab.explain(
            model,
            {"x": np.eye(3)},
            {"x": np.ones((1, 3))},
            call=Call(deadline=Deadline.after(0.2)),
            method="permutation",
        )


async def test_a_predictor_that_goes_away_midway_is_an_error_not_an_estimate(lab: SimpleNamespace) -> None:
    """What was sampled before is thrown away: an answer by half of a fault would look like any other."""
    model = lab.FunctionModel(lambda given: {"y": np.prod(given["x"], axis=1, keepdims=True)}, [("x", "FP64", (-1, 6))])
    answer_now = model.answer

    def answer(request, version):
        if len(model.requests) > 5:
            raise Unavailable("predictor: connection refused")
        return answer_now(request, version)

    model.answer = answer

    with pytest.raises(Unavailable, match="connection refused"):
        await lab.explain(
            model,
            {"x": np.random.default_rng(4).normal(size=(50, 6))},
            {"x": np.ones((1, 6))},
            {"asking": {"max_rows": 200}},
            method="permutation",
        )

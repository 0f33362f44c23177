"""Games out of tables, and estimates of their Shapley values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from infermesh.deadline import Deadline
from services.explainer.coalitions import all_subsets, shapley_weights
from services.explainer.estimate import Estimate
from services.explainer.methods.kernel import kernel, kernel_pairs_within
from services.explainer.methods.pace import Plan
from services.explainer.methods.permutation import pairs_within, permutation
from services.explainer.threads import Threads

__all__ = ["METHODS", "Game", "estimates_of", "rough_game", "smooth_game"]

METHODS = ("permutation", "kernel")


class Game:
    """Stands in for `Value`: values of coalitions out of tables, [rows, 2^players, columns]."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = table
        self.players = int(math.log2(table.shape[1]))
        self.rounds: list[int] = []
        self.asked: list[np.ndarray] = []

    async def of(self, masks: np.ndarray, rows: range) -> np.ndarray:
        self.rounds.append(len(masks))
        self.asked.append(masks)
        return self.table[rows.start : rows.stop, masks @ (1 << np.arange(self.players))]

    def cost(self, coalitions: int) -> int:
        return len(self.table) * coalitions

    @property
    def exact(self) -> np.ndarray:
        return shapley_weights(self.players) @ self.table


async def estimates_of(
    game: Game,
    method: str,
    evaluations: int,
    seed: int,
    *,
    tolerance: float | None = None,
    stop: Deadline | None = None,
    **more: Any,
) -> list[Estimate]:
    """All estimates, first to last."""
    sample, within = (kernel, kernel_pairs_within) if method == "kernel" else (permutation, pairs_within)
    plan = Plan(within(evaluations, game.players), seed, stop or Deadline(math.inf), tolerance)
    threads = Threads(1)
    base = game.table[0, 0] if len(game.table) else np.zeros(game.table.shape[2])
    try:
        found = sample(game, base, game.table[:, -1], game.players, plan, threads, **more)  # type: ignore[arg-type]
        return [estimate async for estimate in found]
    finally:
        threads.close()


def rough_game(seed: int, rows: int = 1, players: int = 7) -> Game:
    """Values that depend on coalitions in no simple way; all rows have the same value of nobody."""
    table = np.random.default_rng(seed).normal(size=(rows, 2**players, 1)).cumsum(axis=1)
    table[:, 0] = table[0, 0]
    return Game(table)


def smooth_game(seed: int, players: int) -> Game:
    """A small network of the players: mostly additive, with interactions of all orders."""
    draw = np.random.default_rng(seed)
    hidden = np.tanh(all_subsets(players) @ draw.normal(size=(players, 5)) - 0.5)
    return Game((hidden @ draw.normal(size=5))[None, :, None])

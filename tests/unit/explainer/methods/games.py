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

__all__ = ["METHODS", "Game", "UnlikeGames", "estimates_of", "rough_game", "smooth_game"]

METHODS = ("permutation", "kernel")


class Game:
    """Stands in for `Value`: values of coalitions out of tables, [rows, 2^players, columns]."""

    weights = np.ones(1)
    link = "identity"

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


class UnlikeGames(Game):
    """Another game for each background row, [rows, 2^players, backgrounds, columns]; their mean is what is explained."""

    def __init__(self, tables: np.ndarray, weights: np.ndarray | None = None) -> None:
        backgrounds = tables.shape[2]
        self.tables = tables
        self.weights = np.full(backgrounds, 1 / backgrounds) if weights is None else weights
        super().__init__(np.einsum("rcbk,b->rck", tables, self.weights))

    async def apart(self, masks: np.ndarray, backgrounds: np.ndarray, rows: range) -> np.ndarray:
        self.rounds.append(len(masks))
        self.asked.append(masks)
        return self.tables[rows.start : rows.stop, masks @ (1 << np.arange(self.players)), backgrounds]

    def cost(self, coalitions: int) -> int:
        return super().cost(coalitions) * len(self.weights)

    async def background(self) -> np.ndarray:
        return self.tables[0, 0]

    @classmethod
    def drawn(cls, seed: int, rows: int = 1, players: int = 7, backgrounds: int = 10) -> UnlikeGames:
        """Nobody's value is that of the background row, for all rows, and everybody's that of the row, for all games."""
        tables = np.random.default_rng(seed).normal(size=(rows, 2**players, backgrounds, 1)).cumsum(axis=1)
        tables[:, 0] = tables[0, 0]
        tables[:, -1] = tables[:, -1, :1]
        return cls(tables)


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

"""TreeSHAP from the ONNX file beside shap's C extension: 1,000 rows of fraud-detector version 2, 100 trees of depth 3.

python -m benchmarks.tree_shap [--rounds 9] [--rows 1000]

shap runs in process, in its environment (`make .venv-shap/ready`), on the same trees with the same covers, its explainer made
before; it is given the matrix that the trees see. Ours is everything but the reading of the file: from the five input tensors,
among them texts, to attributions, margins and probabilities. Both take turns, who begins changes. A figure is the median over
the rounds (least to most), a ratio that of CPU time in the same round; values are compared first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.pairs import machine
from benchmarks.processes import ROOT
from infermesh.tensors import Array
from services.explainer.graph import ModelGraph
from services.explainer.graph.trees import Trees
from services.explainer.tree import Algorithm, TreeValues, tree_values
from services.explainer.tree.shapley import TreeShapley

PYTHON = ROOT / ".venv-shap" / "bin" / "python"
MODEL = ROOT / "samples/models/fraud-detector/2/model.onnx"
BACKGROUND_ROWS = 100
BOUND = 5.0
ALGORITHMS: tuple[Algorithm, Algorithm] = ("path_dependent", "interventional")

Tensors = dict[str, Array]


def draw(random: np.random.Generator, rows: int) -> Tensors:
    """Rows like those of the sample's background: each input from another one of them, numbers a little off."""
    listed = json.loads((ROOT / "samples/backgrounds/fraud-detector.json").read_text(encoding="utf-8"))["inputs"]
    drawn: Tensors = {}
    for tensor in listed:
        texts = tensor["datatype"] == "BYTES"
        values = [value.encode() for value in tensor["data"]] if texts else tensor["data"]
        array = np.array(values, object if texts else np.float32).reshape(tensor["shape"])
        picked = array[random.integers(0, len(array), rows)]
        drawn[tensor["name"]] = picked if texts else (picked * random.uniform(0.8, 1.25, picked.shape)).astype("<f4")
    return drawn


def write(path: Path, graph: ModelGraph, trees: Trees, rows: Tensors, background: Tensors) -> None:
    """The trees one after the other, as shap wants them; the score of the second class is the only one."""
    assert trees.cover is not None, "the sample's trees have covers"
    nodes: list[list[int]] = []
    for root in range(trees.trees):
        of_tree = [root]
        for node in of_tree:
            if not trees.is_leaf[node]:
                of_tree += [int(trees.true[node]), int(trees.false[node])]
        nodes.append(of_tree)
    local = {node: at for of_tree in nodes for at, node in enumerate(of_tree)}
    order = [node for of_tree in nodes for node in of_tree]
    np.savez(
        path,
        sizes=[len(of_tree) for of_tree in nodes],
        children_left=[-1 if trees.is_leaf[n] else local[int(trees.true[n])] for n in order],
        children_right=[-1 if trees.is_leaf[n] else local[int(trees.false[n])] for n in order],
        features=np.where(trees.is_leaf, -1, trees.feature)[order],
        thresholds=trees.threshold[order].astype(np.float64),
        values=trees.values[order, 0],
        node_sample_weight=trees.cover[order],
        base=trees.base[0],
        rows=graph.matrix(rows).astype(np.float64),
        background=graph.matrix(background).astype(np.float64),
    )


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def shown(name: str, times: list[tuple[float, float]], rows: int) -> str:
    wall, cpu = (sorted(each[at] * 1e6 / rows for each in times) for at in (0, 1))
    return f"  {name:34} {median(wall):7.1f} µs wall, {median(cpu):7.1f} µs CPU a row ({cpu[0]:.1f} to {cpu[-1]:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, default=1000)
    options = parser.parse_args()
    print(machine())
    random = np.random.default_rng(1)
    rows, background = draw(random, options.rows), draw(random, BACKGROUND_ROWS)
    weights = np.full(BACKGROUND_ROWS, 1 / BACKGROUND_ROWS)
    graph = ModelGraph.read(MODEL.read_bytes())
    assert isinstance(graph.model, Trees)
    widths = [array.shape[1] for array in rows.values()]
    ends = np.cumsum(widths)
    players = {name: np.arange(end - width, end) for name, width, end in zip(rows, widths, ends, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trees.npz")
        write(path, graph, graph.model, rows, background)
        command = [str(PYTHON), str(Path(__file__).with_name("shap_server.py")), str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
            assert peer.stdin is not None and peer.stdout is not None

            def ask(what: str) -> str:
                peer.stdin.write(what + "\n")  # type: ignore[union-attr]
                peer.stdin.flush()  # type: ignore[union-attr]
                return peer.stdout.readline().strip()  # type: ignore[union-attr]

            print(f"shap {peer.stdout.readline().strip()}, {options.rows} rows, {options.rounds} rounds")
            ask("save")
            held = np.load(path.with_suffix(".shap.npz"))
            for algorithm in ALGORITHMS:
                columns = np.arange(len(graph.columns))  # shap knows no players of several columns
                alone = TreeShapley(graph.model, columns, len(columns), graph.matrix(background), weights, algorithm)
                difference = np.abs(alone.values(graph.matrix(rows))[:, :, 0] - held[algorithm]).max()
                print(f"{algorithm}: largest difference from shap {difference:.1e}")
                assert difference < 1e-5
                compare(algorithm, graph, rows, background, weights, players, ask, options.rounds)
            peer.stdin.close()


def compare(
    algorithm: Algorithm,
    graph: ModelGraph,
    rows: Tensors,
    background: Tensors,
    weights: np.ndarray[Any, Any],
    players: dict[str, Any],
    ask: Callable[[str], str],
    rounds: int,
) -> None:
    prepared = TreeValues(graph, background, weights, players, algorithm=algorithm)
    contenders: dict[str, Callable[[], tuple[float, float]]] = {
        "ours": lambda: timed(lambda: tree_values(graph, rows, background, weights, players, algorithm=algorithm)),
        "ours, prepared before": lambda: timed(lambda: prepared.of(rows)),
        "shap's C extension": lambda: tuple(map(float, ask(algorithm).split())),  # type: ignore[arg-type, return-value]
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender()
    for turn in range(rounds):
        for name in list(contenders)[:: 1 if turn % 2 else -1]:
            times[name].append(contenders[name]())
    for name, taken in times.items():
        print(shown(name, taken, len(next(iter(rows.values())))))
    ratios = sorted(a[1] / b[1] for a, b in zip(times["ours"], times["shap's C extension"], strict=True))
    verdict = f", bound {BOUND:g}: {'met' if median(ratios) <= BOUND else 'NOT met'}" * (algorithm == "path_dependent")
    print(f"  ours to shap's: {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}){verdict}")


if __name__ == "__main__":
    main()

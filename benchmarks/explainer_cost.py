"""The explainer beside shap's PermutationExplainer and KernelExplainer, all of them round one predictor behind gRPC.

python -m benchmarks.explainer_cost [--rounds 3] [--rows 100] [--peers permutation kernel kernel-all]
                                    [--evals permutation=46 kernel=150 kernel-all=400] [--max-rows N]

Rows of fraud-detector version 2 (12 features, two of them texts) against its 100 background rows, the probability of fraud. shap
runs at its defaults in its environment (`make .venv-shap/ready`), with texts as codes that its model function turns back; ours is
asked for over gRPC like anybody's. Errors are against the exact attributions, by all coalitions. Both take turns, who begins
changes, with another seed in each round. Seconds are wall time, CPU that of predictor and explainer or shap together; calls and
rows are what the predictor's own statistics count.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import grpc
import numpy as np
from numpy.typing import NDArray

from benchmarks.processes import ROOT, cpu_s, free_port, machine, process
from benchmarks.tree_shap import Tensors, draw
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from infermesh.tensors import add_inputs, read_outputs

__all__ = ["EXACT", "Explained", "Servers", "ours", "peer", "rmse", "served", "sought"]

PYTHON = ROOT / ".venv-shap" / "bin" / "python"
MODEL, VERSION, OUTPUT, FRAUD = "fraud-detector", "2", "probabilities", 1
BOTH_CORES = "0,1"
CALL_S = 290.0
EXACT_ROWS = 10  # explained by one call: it takes some seconds
EXACT: dict[str, str | int] = {"method": "exact"}
BOUND = 10.0
EVALS = {"permutation": 46, "kernel": 150, "kernel-all": 400}  # that are enough for an error that is equal or lower


class Explained(NamedTuple):
    """Attributions [rows, features] and what they took."""

    values: NDArray[np.float64]
    seconds: float
    cpu_s: float
    calls: int
    rows: int


@dataclass(frozen=True)
class Servers:
    """A predictor and an explainer."""

    predictor: str
    explainer: str
    predictor_pid: int
    explainer_pid: int

    def counted(self) -> tuple[int, int]:
        """ModelInfers and rows that the predictor has answered for the model."""
        with grpc.insecure_channel(self.predictor) as channel:
            answer = GRPCInferenceServiceStub(channel).ModelStatistics(
                pb.ModelStatisticsRequest(name=MODEL, version=VERSION), timeout=10
            )
        (of_model,) = answer.model_stats
        return of_model.inference_stats.success.count, of_model.inference_count


@contextlib.contextmanager
def served(max_rows: int | None = None, slice_rows: int | None = None) -> Iterator[Servers]:
    """Both as processes with the samples' settings; `max_rows` is the explainer's `asking.max_rows`, whatever bytes that is, and
    `slice_rows` the predictor's."""
    ports = {name: free_port() for name in ("predictor", "explainer")}

    def start(name: str, **more: str) -> contextlib.AbstractContextManager[int]:
        settings = {
            "SERVER__HOST": "127.0.0.1",
            "SERVER__GRPC_PORT": str(ports[name]),
            "SERVER__HTTP_PORT": "0",
            "SERVER__DRAIN": "0s",
            **more,
        }
        environment = {f"INFERMESH_{name.upper()}__{key}": value for key, value in settings.items()}
        config = str(ROOT / "samples" / "config" / f"{name}.yaml")
        return process(["-m", f"services.{name}", "--config", config], ports[name], environment, BOTH_CORES)

    target = f"127.0.0.1:{ports['predictor']}"
    asking = {"ASKING__MAX_ROWS": str(max_rows), "ASKING__MAX_BYTES": "60MiB"} if max_rows else {}
    slicing = {} if slice_rows is None else {"EXECUTION__SLICE_ROWS": str(slice_rows)}
    with (
        start("predictor", **slicing) as predictor,
        start("explainer", BACKENDS__PREDICTOR__TARGET=target, **asking) as explainer,
    ):
        yield Servers(target, f"127.0.0.1:{ports['explainer']}", predictor, explainer)


def ours(servers: Servers, rows: Tensors, parameters: dict[str, str | int]) -> Explained:
    """One explanation of all rows by one call."""
    request = pb.ModelInferRequest(model_name=f"{MODEL}-explainer", model_version=VERSION)
    request.outputs.add(name="attributions")
    add_inputs(request, rows)
    for name, value in {"classes": FRAUD, **parameters}.items():
        field = "string_param" if isinstance(value, str) else "int64_param"
        request.parameters[name].CopyFrom(pb.InferParameter(**{field: value}))  # type: ignore[arg-type]
    with grpc.insecure_channel(servers.explainer, [("grpc.max_receive_message_length", -1)]) as channel:
        stub = GRPCInferenceServiceStub(channel)
        (calls, sent), cpu = servers.counted(), cpu_s([servers.predictor_pid, servers.explainer_pid])
        began = time.perf_counter()
        answer = stub.ModelInfer(request, timeout=CALL_S, wait_for_ready=True)
        seconds = time.perf_counter() - began
        used = cpu_s([servers.predictor_pid, servers.explainer_pid]) - cpu
    after = servers.counted()
    values = read_outputs(answer)["attributions"][:, :, 0]
    return Explained(values, seconds, used, after[0] - calls, after[1] - sent)


def exact(servers: Servers, rows: Tensors) -> NDArray[np.float64]:
    """By all coalitions, some rows at a time."""
    count = len(next(iter(rows.values())))
    parts = [{name: array[at : at + EXACT_ROWS] for name, array in rows.items()} for at in range(0, count, EXACT_ROWS)]
    return np.concatenate([ours(servers, part, EXACT).values for part in parts])


def rmse(explained: Explained, true: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean((explained.values - true) ** 2)))


Ask = Callable[[str, int, int], Explained]


@contextlib.contextmanager
def peer(servers: Servers, rows: Tensors) -> Iterator[tuple[str, Ask]]:
    """shap in its environment: its version, and what explains the first rows by a method with a seed."""
    background = read_background()
    codes: dict[str, list[NDArray[np.float64]]] = {"rows": [], "background": []}
    inputs, texts = [], {}
    for name, array in rows.items():
        is_text = array.dtype == np.object_
        inputs.append((name, "BYTES" if is_text else "FP32", array.shape[1]))
        both = np.concatenate([background[name], array])
        if is_text:
            known, numbers = np.unique([text.decode() for text in both.ravel()], return_inverse=True)
            texts[name] = known.tolist()
            both = numbers.reshape(both.shape)
        numbers = both.astype(np.float64)
        codes["background"].append(numbers[: len(background[name])])
        codes["rows"].append(numbers[len(background[name]) :])
    told = {"target": servers.predictor, "model": MODEL, "version": VERSION, "inputs": inputs, "texts": texts}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.npz")
        np.savez(path, **{name: np.concatenate(parts, axis=1) for name, parts in codes.items()})  # type: ignore[arg-type]
        path.with_suffix(".json").write_text(json.dumps(told | {"output": OUTPUT, "column": FRAUD}))
        command = [str(PYTHON), "-m", "benchmarks.shap_sampling", str(path)]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdin is not None and child.stdout is not None

            def ask(method: str, seed: int, count: int) -> Explained:
                before, cpu = servers.counted(), cpu_s([servers.predictor_pid])
                child.stdin.write(f"{method} {seed} {count}\n")  # type: ignore[union-attr]
                child.stdin.flush()  # type: ignore[union-attr]
                took = json.loads(child.stdout.readline())  # type: ignore[union-attr]
                used, after = cpu_s([servers.predictor_pid]) - cpu, servers.counted()
                values = np.load(path.with_suffix(".values.npy"))
                calls, sent = after[0] - before[0], after[1] - before[1]
                assert (calls, sent) == (took["calls"], took["rows"]), "somebody else asks this predictor"
                return Explained(values, took["seconds"], took["cpu_s"] + used, calls, sent)

            yield child.stdout.readline().strip(), ask
            child.stdin.close()


def read_background() -> Tensors:
    listed = json.loads((ROOT / "samples/backgrounds/fraud-detector.json").read_text(encoding="utf-8"))["inputs"]
    arrays: Tensors = {}
    for tensor in listed:
        is_text = tensor["datatype"] == "BYTES"
        data = [value.encode() for value in tensor["data"]] if is_text else tensor["data"]
        arrays[tensor["name"]] = np.array(data, object if is_text else "<f4").reshape(tensor["shape"])
    return arrays


def sought(method: str, seed: int, evaluations: int) -> dict[str, str | int]:
    """The parameters of a request."""
    return {"method": method, "seed": seed, "max_evals": evaluations}


def show(name: str, found: list[Explained], true: NDArray[np.float64]) -> None:
    def middle(of: Callable[[Explained], float]) -> float:
        return median(map(of, found))

    print(
        f"  {name:34} {middle(lambda e: e.seconds):7.2f} s {middle(lambda e: e.cpu_s):7.2f} s CPU "
        f"{middle(lambda e: e.calls):6.0f} ModelInfers {middle(lambda e: e.rows):10.0f} rows   "
        f"error {middle(lambda e: rmse(e, true)):.2e}"
    )


def compare(
    servers: Servers, rows: Tensors, true: NDArray[np.float64], ask: Ask, method: str, evaluations: int, rounds: int
) -> None:
    """Print both contenders' figures and their ratios."""
    found: dict[str, list[Explained]] = {"ours": [], "shap": []}
    ours_as = method.removesuffix("-all")
    contenders: dict[str, Callable[[int], Explained]] = {
        "ours": lambda seed: ours(servers, rows, sought(ours_as, seed, evaluations)),
        "shap": lambda seed: ask(method, seed, len(true)),
    }
    for turn in range(rounds):
        for name in list(contenders)[:: 1 if turn % 2 else -1]:
            found[name].append(contenders[name](turn))
    show(f"ours, {ours_as}, {evaluations} evaluations", found["ours"], true)
    show(f"shap, {method}", found["shap"], true)
    for what in ("seconds", "cpu_s", "calls", "rows"):
        ratios = sorted(
            getattr(b, what) / max(getattr(a, what), 1e-9) for a, b in zip(found["ours"], found["shap"], strict=True)
        )
        met = f", wanted {BOUND:g}: {'met' if median(ratios) >= BOUND else 'NOT met'}" * (what in ("seconds", "calls"))
        print(f"    shap / ours, {what:8} {median(ratios):6.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f}){met}")
    errors = [median(rmse(each, true) for each in found[name]) for name in ("ours", "shap")]
    print(f"    error: ours {'equal or lower' if errors[0] <= errors[1] else 'HIGHER'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--peers", nargs="+", default=list(EVALS), choices=EVALS)
    parser.add_argument("--evals", nargs="+", default=[], metavar="PEER=N", help="of ours beside a peer")
    parser.add_argument("--max-rows", type=int, help="the explainer's asking.max_rows; left out: its default")
    options = parser.parse_args()
    evaluations = EVALS | {peer: int(number) for peer, number in (given.split("=") for given in options.evals)}
    rows = draw(np.random.default_rng(1), options.rows)
    with served(options.max_rows) as servers, peer(servers, rows) as (version, ask):
        print(f"{machine()}\nshap {version}, {options.rows} rows, background 100, {options.rounds} rounds in turns")
        true = exact(servers, rows)
        print(f"attributions: root mean square {np.sqrt(np.mean(true**2)):.4f}")
        for method in options.peers:
            compare(servers, rows, true, ask, method, evaluations[method], options.rounds)


if __name__ == "__main__":
    main()

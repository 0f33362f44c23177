"""The log of the transformer as it is composed: real store, real model, real processes; and what others make of its files."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from infermesh.call import Call
from infermesh.cli.backgrounds import app as backgrounds
from infermesh.cli.features import app as features
from infermesh.config import BackendConfig, ServerConfig, TelemetryConfig
from infermesh.deadline import Deadline
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.runtime import Telemetry
from infermesh.service import Stack
from infermesh.telemetry import Metrics, Tracing
from infermesh.tensors import Array, read_outputs
from infermesh.transport import RemoteService, Server
from services.predictor.app import build as build_predictor
from services.predictor.config import PredictorConfig, RepositoryConfig
from services.transformer.app import build
from services.transformer.config import RedisConfig, TransformerConfig
from services.transformer.load import load_csv
from services.transformer.served.records import Damage, files_of, read_records
from services.transformer.writer import FeatureWriter

ROOT = Path(__file__).parents[4]
LOCAL = ServerConfig(host="127.0.0.1", grpc_port=0)
MODEL = "credit-score"

Settings = dict[str, Any]


def remote_of(port: int) -> RemoteService:
    return RemoteService(BackendConfig(target=f"127.0.0.1:{port}"), "asked")


@asynccontextmanager
async def served(name: str, service: Stack) -> AsyncIterator[int]:
    """A service on a port of its own."""
    server = Server(name, LOCAL, inside_mesh=True)
    await server.start()
    server.mount(service)
    await server.set_ready(True)
    yield server.port
    await server.stop(1)


def telemetry(name: str) -> Telemetry:
    return Telemetry(Metrics(name), Tracing(name, TelemetryConfig()))


@pytest.fixture
async def predictor(samples: Path) -> AsyncIterator[int]:
    config = PredictorConfig(repository=RepositoryConfig(root=samples / "models"))
    async with build_predictor(config, telemetry("predictor")) as stack, served("predictor", stack) as port:
        yield port


@pytest.fixture
async def settings(
    samples: Path,
    tmp_path: Path,
    predictor: int,
    redis_config: RedisConfig,
    writer_of: Callable[..., FeatureWriter],
) -> Settings:
    """Those of a transformer that logs every request into the folder `log`, before a store with the samples' features."""
    (tmp_path / "log").mkdir()
    made = {
        "features": str(samples / "config" / "features.yaml"),
        "redis": {"url": redis_config.url, "key_prefix": redis_config.key_prefix, "timeout": "5s"},
        "backends": {name: {"target": f"127.0.0.1:{predictor}"} for name in ("predictor", "explainer")},
        "served_log": {"mode": "file", "folder": str(tmp_path / "log"), "share": 1.0},
    }
    file = TransformerConfig.model_validate(made).feature_file()
    for name, view in file.views.items():
        await load_csv(samples / "features" / view.source, writer_of(file, name), event_time_us=0)
    return made


async def ask(remote: RemoteService, request: pb.ModelInferRequest, request_id: str = "r") -> pb.ModelInferResponse:
    return await remote.infer(request, Call(Deadline.after(10), request_id=request_id))


@asynccontextmanager
async def process(folder: Path, settings: Settings) -> AsyncIterator[tuple[asyncio.subprocess.Process, RemoteService]]:
    """The transformer as a process of its own; ended by its id if the test has not done it."""
    server = {"host": "127.0.0.1", "grpc_port": 0, "http_port": 0, "drain": "0", "grace": "1s"}
    (folder / "transformer.yaml").write_text(yaml.safe_dump({**settings, "server": server}))
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.transformer",
        "--config",
        str(folder / "transformer.yaml"),
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )
    assert child.stderr is not None
    reading: asyncio.Future[bytes] | None = None
    try:
        port, ready = 0, False
        async with asyncio.timeout(30):
            while not ready:
                line = await child.stderr.readline()
                assert line, f"it has ended: {child.returncode}"
                said = json.loads(line) if line.startswith(b"{") else {}
                port = said.get("grpc_port", port)
                ready = said.get("message") == "ready"
        reading = asyncio.ensure_future(child.stderr.read())  # else a full pipe would stop it
        remote = remote_of(port)
        try:
            yield child, remote
        finally:
            await remote.close()
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
        if reading is not None:
            await reading


def records_in(folder: Path) -> tuple[list[str], Damage]:
    """The ids of all requests that are in the log."""
    damage = Damage()
    found = [each for file in files_of([folder]) for each, _ in read_records(file, 0, damage)]
    return [record.request_id for record in found if record is not None], damage


def inputs_in(table: Any, rows: int) -> dict[str, Array]:
    """The model's inputs, from the columns that carry them."""
    found: dict[str, Array] = {}
    for column in table.column_names:
        if column.startswith("input."):
            values = table[column].to_pylist()
            if isinstance(values[0], str):
                found[column[6:]] = np.array([value.encode() for value in values], np.object_).reshape(rows, 1)
            else:
                kind = table.schema.field(column).type
                element = kind.value_type if hasattr(kind, "value_type") else kind
                found[column[6:]] = np.array(values, element.to_pandas_dtype()).reshape(rows, -1)
    return found


async def test_the_model_answers_to_the_logged_inputs_as_it_did(
    settings: Settings, predictor: int, golden: Any, request_of: Any, tmp_path: Path
) -> None:
    """Two transformers log into one folder; from the Parquet file the predictor gets the same inputs, and says the same."""
    cases = [each for each in golden(MODEL) if each["request"]]
    answers = []
    async with AsyncExitStack() as running:
        remotes = []
        for _ in range(2):
            config = TransformerConfig.model_validate(settings)
            stack = await running.enter_async_context(build(config, telemetry("transformer")))
            remotes.append(remote_of(await running.enter_async_context(served("transformer", stack))))
            running.push_async_callback(remotes[-1].close)
        for number, case in enumerate(cases):
            request = request_of(case["request"], model=MODEL, model_version=case["version"])
            answers.append(await ask(remotes[number % 2], request, f"r{number}"))

    done = CliRunner().invoke(features, ["log", str(tmp_path / "log"), "--out", str(tmp_path / "log.parquet")])
    table = pq.read_table(tmp_path / "log.parquet")
    direct = remote_of(predictor)
    again = []
    for number, answer in enumerate(answers):
        kept = table.filter([each == f"r{number}" for each in table["request_id"].to_pylist()])
        assert set(kept["version"].to_pylist()) == {answer.model_version}
        inputs = inputs_in(kept, kept.num_rows)
        again.append(await ask(direct, request_of(inputs, model=MODEL, model_version=answer.model_version)))
    await direct.close()

    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "log").glob("served-*.jsonl"))) == 2
    assert len(answers) >= 2
    for before, after in zip(answers, again, strict=True):
        said, repeated = read_outputs(before), read_outputs(after)
        assert said.keys() == repeated.keys()
        assert all(said[name].tobytes() == repeated[name].tobytes() for name in said if said[name].dtype != np.object_)


async def test_backgrounds_are_made_of_the_files(
    settings: Settings, golden: Any, request_of: Any, tmp_path: Path
) -> None:
    """What explanations compare with are the inputs that the model was served: the names of their columns are a contract."""
    case = next(each for each in golden(MODEL) if each["request"])
    config = TransformerConfig.model_validate(settings)
    async with build(config, telemetry("transformer")) as stack, served("transformer", stack) as port:
        remote = remote_of(port)
        for number in range(3):
            await ask(remote, request_of(case["request"], model=MODEL), f"r{number}")
        await remote.close()
    out = tmp_path / "served"
    background = tmp_path / "background.json"

    written = CliRunner().invoke(features, ["log", str(tmp_path / "log"), "--out", str(out), "--by-day"])
    arguments = ["make", MODEL, "--from", str(out / MODEL), "--summary", "none", "--out", str(background)]
    made = CliRunner().invoke(backgrounds, arguments)

    assert written.exit_code == 0, written.output
    assert made.exit_code == 0, made.output + str(made.exception)
    told = {each["name"] for each in json.loads(background.read_text())["inputs"]}
    assert {"customer_features", "housing", "region"} <= told
    assert told == set(case["inputs"])


async def test_a_process_writes_what_it_took_before_it_ends(
    settings: Settings, golden: Any, request_of: Any, tmp_path: Path
) -> None:
    """SIGTERM: each call that was answered is in the log, and the exit is clean."""
    case = next(each for each in golden(MODEL) if each["request"])
    request = request_of(case["request"], model=MODEL)
    async with process(tmp_path, settings) as (child, remote):
        await asyncio.gather(*[ask(remote, request, f"r{number}") for number in range(50)])
        child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            status = await child.wait()

    found, damage = records_in(tmp_path / "log")
    assert status == 0
    assert sorted(found) == sorted(f"r{number}" for number in range(50))
    assert damage == Damage()


async def test_a_process_that_is_killed_leaves_whole_lines(
    settings: Settings, golden: Any, request_of: Any, tmp_path: Path
) -> None:
    """SIGKILL in the middle: what is there can be read, once each; at most one line has no end."""
    case = next(each for each in golden(MODEL) if each["request"])
    request = request_of(case["request"], model=MODEL)
    async with process(tmp_path, settings) as (child, remote):
        await asyncio.gather(*[ask(remote, request, f"r{number}") for number in range(50)])
        async with asyncio.timeout(20):
            while not records_in(tmp_path / "log")[0]:
                await ask(remote, request, "more")
        os.kill(child.pid, signal.SIGKILL)
        await child.wait()

    found, damage = records_in(tmp_path / "log")
    once = [each for each in found if each != "more"]
    assert once
    assert len(set(once)) == len(once)
    assert damage.lines == 0
    assert len(damage.endless) <= 1


async def test_a_folder_that_is_gone_costs_no_call(
    settings: Settings, golden: Any, request_of: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Calls are answered as ever; what is lost is counted, and logged once and not for each."""
    case = next(each for each in golden(MODEL) if each["request"])
    request = request_of(case["request"], model=MODEL)
    observed = telemetry("transformer")
    config = TransformerConfig.model_validate(settings)

    def counted(outcome: str) -> float | None:
        labels = {"service": "transformer", "outcome": outcome}
        return observed.metrics.registry.get_sample_value("infermesh_transformer_served_records_total", labels)

    async with build(config, observed) as stack, served("transformer", stack) as port:
        (tmp_path / "log").rmdir()
        remote = remote_of(port)
        answers = [await ask(remote, request, f"r{number}") for number in range(20)]
        await remote.close()

    assert all(answer.parameters["infermesh_features"].string_param == "present" for answer in answers)
    assert (counted("written"), counted("failed"), counted("dropped")) == (0, 20, 0)
    assert len([each for each in caplog.messages if "can't be written" in each]) == 1

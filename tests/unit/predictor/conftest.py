"""Small ONNX models made for one test each, and a repository that holds them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from infermesh.protocol import open_inference_pb2 as pb
from infermesh.tensors import add_inputs
from services.predictor.config import ExecutionConfig, PredictorConfig, RepositoryConfig
from services.predictor.predictor import Predictor
from services.predictor.repository.repository import Repository
from services.predictor.source import open_source

SAMPLES = Path(__file__).parents[3] / "samples/models"
Put = Callable[..., Path]
Serve = Callable[..., Awaitable[Predictor]]
MATRIX = 64


def _values(specs: dict[str, tuple[int, Sequence[Any]]]) -> list[Any]:
    return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in specs.items()]


def model(
    nodes: Sequence[Any], inputs: dict[str, Any], outputs: dict[str, Any], **constants: np.ndarray[Any, Any]
) -> bytes:
    """The bytes of a model file."""
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(list(nodes), "g", _values(inputs), _values(outputs), initializers)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    return bytes(proto.SerializeToString())


def add(number: float) -> bytes:
    """y = x + number, for a vector."""
    return model(
        [helper.make_node("Add", ["x", "n"], ["y"])],
        {"x": (TensorProto.FLOAT, ["rows"])},
        {"y": (TensorProto.FLOAT, ["rows"])},
        n=np.array(number, np.float32),
    )


def echo(kind: int, shape: Sequence[Any] = ("rows",)) -> bytes:
    """y = x, for any type."""
    return model([helper.make_node("Identity", ["x"], ["y"])], {"x": (kind, shape)}, {"y": (kind, shape)})


def slow() -> bytes:
    """Takes `n` turns of a small matrix product: some twenty microseconds each, without an end for a large `n`."""
    square = [MATRIX, MATRIX]
    body = helper.make_graph(
        [helper.make_node("MatMul", ["before", "f"], ["after"]), helper.make_node("Identity", ["going"], ["goes_on"])],
        "turn",
        _values(
            {"turn": (TensorProto.INT64, []), "going": (TensorProto.BOOL, []), "before": (TensorProto.FLOAT, square)}
        ),
        _values({"goes_on": (TensorProto.BOOL, []), "after": (TensorProto.FLOAT, square)}),
    )
    return model(
        [
            helper.make_node("Squeeze", ["n"], ["trips"]),
            helper.make_node("Loop", ["trips", "yes", "f"], ["product"], body=body),
            helper.make_node("ReduceMean", ["product"], ["mean"], keepdims=0),
            helper.make_node("Cast", ["mean"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Mul", ["whole", "none"], ["zero"]),
            helper.make_node("Add", ["n", "zero"], ["done"]),
        ],
        {"n": (TensorProto.INT64, [1])},
        {"done": (TensorProto.INT64, [1])},
        f=np.full(square, 1 / MATRIX, np.float32),
        yes=np.array(True),
        none=np.array([0]),
    )


class Models:
    """The graphs of these tests."""

    add = staticmethod(add)
    echo = staticmethod(echo)
    slow = staticmethod(slow)
    model = staticmethod(model)


@pytest.fixture
def models() -> type[Models]:
    return Models


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """`put("m", 1, content)`: a version in the repository; its folder is returned."""

    def put(name: str, version: int | str, content: bytes) -> Path:
        folder = tmp_path / name / str(version)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_bytes(content)
        return folder

    return put


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """`await serve(instances=…, queue={…})`: a Predictor over all that was put."""
    opened: list[Repository] = []

    async def serve(
        root: Path | None = None,
        *,
        models: list[str] | None = None,
        strict: bool = False,
        batching: Any = None,
        queue: Any = None,
        response_cache: Any = None,
        repository: Any = None,
        source: Any = None,
        **execution: Any,
    ) -> Predictor:
        config = PredictorConfig(
            repository=RepositoryConfig(
                **{"root": root or tmp_path, "models": models, "strict_readiness": strict, **(repository or {})}
            ),
            execution=ExecutionConfig(**{"intra_op_threads": 1, "optimized_graph_cache": False, **execution}),
            batching=batching or {},
            queue=queue or {},
            response_cache=response_cache or {},
        )
        held = Repository(config, source or open_source(str(root or tmp_path)))
        opened.append(held)
        await held.load_all()
        return Predictor(held)

    yield serve
    for repository in opened:
        repository.close()


@pytest.fixture
def ask() -> Callable[..., pb.ModelInferRequest]:
    """`ask("m", x=array, version="1", raw=False)`: a request."""

    def ask(
        name: str, *, version: str = "", raw: bool = True, datatypes: Any = None, **arrays: Any
    ) -> pb.ModelInferRequest:
        request = pb.ModelInferRequest(model_name=name, model_version=version, id="7")
        add_inputs(request, arrays, raw=raw, datatypes=datatypes)
        return request

    return ask

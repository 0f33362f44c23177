"""Which case is which, on which hops it is to pass, and what it talks to there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from conformance_wire import WAIT_S, Client, Value, fp32, infer, int64

from infermesh.protocol import open_inference_pb2 as pb

__all__ = [
    "BACKENDS",
    "EXPLAINER_GROUPS",
    "HOPS",
    "NOT_IMPLEMENTED",
    "Case",
    "Refuse",
    "Subject",
    "case",
    "check_refusal",
    "named",
    "subject_of",
    "waited",
]

HOPS = ("predictor", "transformer", "gateway", "explainer")
# The hops behind which the models themselves are; an explainer answers for `<model>-explainer` only.
BACKENDS = HOPS[:3]

# The groups that an explainer passes: its inputs are the model's, its outputs are not.
EXPLAINER_GROUPS = ("SVC", "HLT", "MD", "INF-ID", "INF-OUT", "INF-VER", "INF-PAR", "ERR", "NET")

# RPCs that the contract declares and no hop has.
NOT_IMPLEMENTED = (
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
    "TraceSetting",
    "LogSettings",
)

STATUS_TEXT_BYTES = 1024

# The fixture `refuse`: refuse(request, code, *words of the text, rpc=, key=).
Refuse = Callable[..., grpc.RpcError]


@dataclass(frozen=True)
class Case:
    """The argument of the `case` marker."""

    id: str
    hops: tuple[str, ...]
    each: tuple[str, tuple[Any, ...]] | None
    needs: str


def case(
    name: str, *, each: Mapping[str, Iterable[Any]] | None = None, hops: Sequence[str] = (), needs: str = ""
) -> pytest.MarkDecorator:
    """Mark a test as the case `name`, or as the cases `name.<value>` for each value of the one argument in `each`.

    `hops` narrows what follows from the group in the name. `needs` names a field of `Target` without which it can't be run.
    """
    of_group = HOPS if name.startswith(EXPLAINER_GROUPS) else BACKENDS
    argument = next(((key, tuple(values)) for key, values in (each or {}).items()), None)
    return pytest.mark.case(Case(name, tuple(hop for hop in of_group if hop in (hops or HOPS)), argument, needs))


@dataclass(frozen=True)
class Subject:
    """The model that the cases of every hop talk to: a sum, or at the explainer the explanation of a linear model."""

    model: str
    backend: str  # whose name a refusal may give: an explainer passes on what the model answered
    inputs: tuple[str, ...]
    columns: int
    outputs: tuple[str, ...]  # all of them, in the order of the metadata

    def request(self, rows: int = 2, **rest: Any) -> pb.ModelInferRequest:
        """A good request, with the arguments of `infer`."""
        values = np.arange(rows * self.columns, dtype=np.float32).reshape(rows, self.columns)
        return infer(self.model, *(fp32(name, values) for name in self.inputs), **rest)

    def long_request(self) -> pb.ModelInferRequest:
        """A request that takes about a second, or at the explainer as long as many rows take."""
        return infer("conf-slow", int64("n", [1000])) if self.model == "conf-sum" else self.request(rows=512)

    def with_first(self, value: Value, mode: str = "raw") -> pb.ModelInferRequest:
        """A request whose first input is `value` under its own name, and whose others are good and in the same mode."""
        good = self.request(mode=mode)
        request = infer(self.model, Value(self.inputs[0], value.datatype, value.shape, value.raw), mode=mode)
        request.inputs.extend(good.inputs[1:])
        request.raw_input_contents.extend(good.raw_input_contents[1:])
        return request


def named(client: Client, model: str) -> str:
    """What the hop calls a model: an explainer answers for it under another name."""
    return f"{model}-explainer" if client.target.hop == "explainer" else model


def subject_of(client: Client) -> Subject:
    """The subject of the hop; its outputs come from the metadata."""
    explains = client.target.hop == "explainer"
    model = "conf-linear-explainer" if explains else "conf-sum"
    outputs = tuple(one.name for one in client.call("ModelMetadata", pb.ModelMetadataRequest(name=model)).outputs)
    if explains:
        return Subject(model, "conf-linear", ("x",), 3, outputs)
    return Subject(model, model, ("a", "b"), 4, outputs)


def check_refusal(error: grpc.RpcError, code: grpc.StatusCode, *mentions: object) -> None:
    """Fail unless the status is `code` and its text is fit for a caller and has every word of `mentions`."""
    text = error.details()
    assert error.code() is code, f"{error.code()}: {text}"
    assert text, "a status without a text"
    assert len(text.encode()) <= STATUS_TEXT_BYTES, f"{len(text.encode())} bytes of status text"
    assert "Traceback" not in text and ".py" not in text, text
    assert text.isprintable(), f"what a caller sent is not escaped: {text!r}"
    missing = [str(word) for word in mentions if not re.search(rf"(?<!\w){re.escape(str(word))}(?!\w)", text, re.I)]
    assert not missing, f"{missing} not in {text!r}"


def waited(calls: Iterable[Any]) -> list[Any]:
    """The outcome of each call that was started: its response, or its grpc.RpcError or grpc.FutureCancelledError."""
    outcomes = []
    for call in calls:
        try:
            outcomes.append(call.result(timeout=2 * WAIT_S))
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            outcomes.append(error)
    return outcomes

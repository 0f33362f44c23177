"""Reports of shadows, made by hand, and a gateway that serves them; generated ones come from the comparison itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np

from infermesh.protocol import shadow_reports_pb2 as pb
from infermesh.protocol.open_inference_pb2 import ModelInferResponse
from infermesh.tensors import add_outputs
from services.gateway.compare.comparison import Comparison
from services.gateway.compare.pair import Answered, Kind, Pair
from services.gateway.compare.wire import message_of
from services.gateway.compare_config import CompareConfig

FRAUD = {"classes": ["genuine", "fraud"], "thresholds": [{"output": "probabilities", "column": "fraud", "at": 0.5}]}
EVIL = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'
ESCAPES = "\x1b[2J\x1b]0;owned\x07\u202egnp"

Answer = Callable[[bytes, Any], bytes]


def fraud(probability: float) -> bytes:
    """An answer of one row: its label and both probabilities."""
    both = np.array([[1 - probability, probability]], "<f4")
    message = ModelInferResponse(model_name="fraud-detector", model_version="1")
    outputs = [("label", "INT64", both.argmax(1).astype("<i8")), ("probabilities", "FP32", both)]
    add_outputs(message, outputs, raw=True)
    return message.SerializeToString()


def generated(
    pairs: int, repeats: int, *, bias: float = 0.0, noise: float = 0.01, variant: str = "stable", **settings: Any
) -> pb.Report:
    """The report on a model beside one whose logit is off by `bias`, give or take `noise`. Each 50th copy fails, where
    repeats tell what that means."""
    numbers = np.random.default_rng(7)
    comparison = Comparison(
        "fraud-detector", "candidate", CompareConfig.model_validate({**FRAUD, "bin_from": 200, **settings})
    )
    kinds: list[Kind] = [*["shadow"] * pairs, *["repeat"] * repeats]  # type: ignore[list-item]
    for at, kind in enumerate(kinds):
        logit = numbers.normal(0, 2)
        again = logit + numbers.normal(0, noise) + (bias if kind == "shadow" else 0.0)
        failed = kind == "shadow" and at % 50 == 49 and repeats > 0
        other = Answered(None, 0.5, "DEADLINE_EXCEEDED") if failed else Answered(fraud(_logistic(again)), 0.004)
        pair = Pair(kind, f"call-{at}", 1_800_000_000.0 + at, Answered(fraud(_logistic(logit)), 0.003), other)
        comparison.add(pair)
    return message_of(comparison, comparison.report(), variant)


def hostile(text: str) -> pb.Report:
    """A report in which all that can come from outside is `text`."""
    some, proportion = (
        pb.Histogram(values=[0.0, 0.1, 1.0], counts=[1, 2, 3]),
        pb.Proportion(hits=3, of=6, low=0.1, high=0.9),
    )
    sizes = pb.Quantiles(count=6, p50=0.1, p99=1.0, largest=1.0)
    return pb.Report(
        model=text,
        shadow=text,
        variant=text,
        pairs=6,
        codes=[pb.Codes(primary=text, other=text, count=1)],
        structure=[pb.Count(what=text, count=1)],
        events=[
            pb.Event(what=what, output=text, detail=text, shadow=proportion, repeat=proportion)
            for what in ("rises", "label", text)
        ],
        outputs=[pb.Output(name=text, datatype=text, elements=6, max_abs=sizes, max_rel=sizes, differences=some)],
        shifts=[
            pb.Shift(output=text, column=text, pairs=6, psi=1.0, bins=[text, "b"], primary=[1, 5], shadow=[5, 1]),
            pb.Shift(
                output=text, column=text, pairs=6, psi=1.0, mean=0.1, bins=[text, "NaN"], primary=[1, 5], shadow=[5, 1]
            ),
        ],
        latency=pb.Latency(primary=sizes, shadow=sizes, primary_histogram=some, shadow_histogram=some),
        worst=[pb.Disagreement(request_id=text, what=[text, f"rises {text} x"], where=text, primary=text, other=text)],
        verdict=pb.Verdict(
            state=pb.Verdict.DIFFERS,
            text=text,
            findings=[pb.Finding(what="rises", output=text, detail=text, text=text)],
            notes=[text],
        ),
    )


@contextmanager
def gateway(report: Answer | None = None, reset: Answer | None = None) -> Iterator[str]:
    """A server with the RPCs of `ShadowReports` that are given; its address."""
    given = {"Report": report, "Reset": reset}
    handlers = {name: grpc.unary_unary_rpc_method_handler(answer) for name, answer in given.items() if answer}
    service = pb.DESCRIPTOR.services_by_name["ShadowReports"].full_name
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextmanager
def serving(*reports: pb.Report, not_compared: dict[str, int] | None = None) -> Iterator[str]:
    """A gateway with these reports, by model and shadow, as the real one chooses them."""

    def report(data: bytes, context: Any) -> bytes:
        asked = pb.ReportRequest.FromString(data)
        found = [each for each in reports if asked.model in ("", each.model) and asked.shadow in ("", each.shadow)]
        if not found and asked.model:
            context.abort(grpc.StatusCode.NOT_FOUND, f"model {asked.model}: nothing is compared")
        return pb.ReportResponse(reports=found, not_compared=not_compared or {}).SerializeToString()

    with gateway(report) as address:
        yield address


def _logistic(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))

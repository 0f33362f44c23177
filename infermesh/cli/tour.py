"""The short tour of the samples: real predictions, features from the store, a split, a shadow, an explanation."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from infermesh.cli.answer import CLASSES
from infermesh.cli.asking import asked
from infermesh.cli.bars import share_bar
from infermesh.cli.explain import reason_lines
from infermesh.cli.explanation import EXPLAINED, Explanation, chart
from infermesh.cli.failure import Failure
from infermesh.cli.golden import Golden, read_request
from infermesh.cli.launch import Launched
from infermesh.cli.processes import samples_folder
from infermesh.cli.promises import check_shadows, check_split, check_sum
from infermesh.cli.scrape import scrape
from infermesh.cli.shadow import shadow_reports
from infermesh.cli.shadow_words import state_of
from infermesh.cli.split import Promise, read_promise
from infermesh.cli.store import look_up
from infermesh.cli.values import names_in
from infermesh.errors import NotFound, Unimplemented
from infermesh.names import EXPLAINER_SUFFIX
from infermesh.parameters import VARIANT
from infermesh.protocol.open_inference_pb2 import ModelInferResponse
from infermesh.transport.outside import OutsideCaller

__all__ = ["DEMO_KEY", "tour"]

DEMO_KEY = "infermesh-demo-key"  # of the samples' keys.yaml; nothing but samples lies behind it

FRAUD, IRIS, CANCER, CREDIT = "fraud-detector", "iris", "breast-cancer", "credit-score"
REFUSED = "defaulted"  # the class that reasons are told for
REASONS = 4
CALLS = 200
SHOWN_FEATURES = 3
SHOWN_FINDINGS = 3
STICKY_CALLS = 20
SHADOW_WAIT_S = 3.0  # for copies that are still under way
SHADOW_PAUSE_S = 0.2


@dataclass(frozen=True)
class Prediction:
    """One answer in words."""

    label: str
    share: float
    version: str
    variant: str
    seconds: float


def tour(running: Launched, key: str, out: Console) -> None:
    """Take it; a few seconds. Raises Failure when a call is refused, or an answer is not what the samples promise."""
    with asked(running.mesh.address("gateway"), key) as caller:
        missing = _missing(caller)
        if missing:
            raise Failure(f"the tour asks the sample models, and {', '.join(missing)} can't answer")
        _models(running, caller, out)
        _split(running, caller, out)
        _shadow(running, caller, out)
        _explanation(running, caller, out)
        _reasons(caller, out)


# ---- one call to each model


def _models(running: Launched, caller: OutsideCaller, out: Console) -> None:
    out.print(_title("one call to each model"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("model", style="bold")
    table.add_column("asked")
    table.add_column("answer", style="green")
    table.add_column("", no_wrap=True)
    table.add_column("by", no_wrap=True)
    table.add_column("ms", justify="right", style="cyan")
    asked_of = ((IRIS, _iris_words()), (CANCER, _patient_words()), (FRAUD, _card_words()), (CREDIT, _customer_words()))
    for model, words in asked_of:
        answer = _ask(caller, Golden.of(model))
        table.add_row(
            model, words, f"{answer.label} {answer.share:.1%}", share_bar(answer.share, 8, "green"),
            f"v{answer.version} {answer.variant}", f"{answer.seconds * 1000:.1f}",
        )  # fmt: skip
    out.print(table)
    for view, entity in (
        ("patient", Golden.of(CANCER).values["patient_id"]),
        ("card", Golden.of(FRAUD).values["card_id"]),
    ):
        row = look_up(running.config / "transformer.yaml", running.redis_url, view, entity)
        if not row:
            raise Failure(f"the store has no features of {view} {entity}")
        some = ", ".join(f"{name} {value:g}" for name, value in list(row.items())[:SHOWN_FEATURES])
        more = f" and {len(row) - SHOWN_FEATURES} more" if len(row) > SHOWN_FEATURES else ""
        out.print(Text.assemble((f"  store, {entity}: ", "bright_black"), some, (more, "bright_black")))


def _iris_words() -> str:
    return "sepal {:g} × {:g}, petal {:g} × {:g} cm".format(*Golden.of(IRIS).tensors[0]["data"])


def _patient_words() -> str:
    return "patient {patient_id}".format(**Golden.of(CANCER).values)


def _card_words() -> str:
    values = Golden.of(FRAUD).values
    when = f"{int(values['hour'])}:{int(values['hour'] % 1 * 60):02d}"
    return "{card_id}, {amount} EUR, {merchant_category}, {when}, {country}".format(**values, when=when)


def _customer_words() -> str:
    return "customer {customer_id}, {amount:g} EUR, {term_months:g} months".format(**Golden.of(CREDIT).values)


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _ask(caller: OutsideCaller, golden: Golden) -> Prediction:
    classes = names_in(caller.metadata(golden.model).properties.get(CLASSES, ""))
    started = time.perf_counter()
    response = caller.infer(golden.request())
    seconds = time.perf_counter() - started
    shares = golden.check(response)
    best = int(shares.argmax())
    label = classes[best] if best < len(classes) else str(best)
    return Prediction(label, float(shares[best]), response.model_version, _variant(response), seconds)


def _variant(response: ModelInferResponse) -> str:
    return response.parameters[VARIANT].string_param if VARIANT in response.parameters else ""


# ---- the split


def _split(running: Launched, caller: OutsideCaller, out: Console) -> None:
    promise = read_promise(running.config / "routes.yaml", FRAUD)
    cards = _cards()[:CALLS]
    started = time.perf_counter()
    variants = {card: _variant(caller.infer(Golden.of(FRAUD).request(card_id=card))) for card in cards}
    seconds = time.perf_counter() - started
    counts = Counter(variants.values())
    out.print(_title(f"{len(cards)} calls to {FRAUD}, each with another card, in {seconds:.1f} s"))
    out.print(split_table(promise, counts))
    check_split(promise, counts)
    card = next((card for card, variant in variants.items() if variant != promise.largest), cards[0])
    again = {_variant(caller.infer(Golden.of(FRAUD).request(card_id=card))) for _ in range(STICKY_CALLS)}
    if again != {variants[card]}:
        raise Failure(f"card {card} was answered by {variants[card]}, and then by {', '.join(sorted(again))}")
    out.print(
        Text.assemble(
            ("  sticky: ", "bright_black"),
            f"{card} was answered by {variants[card]}, and so it was {STICKY_CALLS} times more",
        )
    )


def split_table(promise: Promise, counts: Mapping[str, int]) -> RenderableType:
    """The variants' shares of some calls beside their weights; ± is two standard deviations of a fair draw."""
    total = sum(counts.values())
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("variant", style="bold")
    for title in ("version", "weight", "expected", "calls", "share"):
        table.add_column(title, justify="right")
    table.add_column("")
    for variant in promise.variants:
        share = promise.share(variant)
        spread = 2 * (total * share * (1 - share)) ** 0.5
        got = counts.get(variant.name, 0)
        table.add_row(
            variant.name, variant.version, f"{variant.weight:g}", f"{total * share:.0f} ± {spread:.0f}", str(got),
            f"{got / total:.1%}" if total else "", share_bar(got / total if total else 0.0, 30, "cyan"),
        )  # fmt: skip
    for name in sorted(counts.keys() - {variant.name for variant in promise.variants}):
        table.add_row(Text(name or "(none)", "red"), "", "", "", str(counts[name]), f"{counts[name] / total:.1%}", "")
    return table


def _cards() -> list[str]:
    lines = (samples_folder() / "features" / "cards.csv").read_text(encoding="utf-8").splitlines()
    return [line.split(",", 1)[0] for line in lines[1:]]


# ---- the shadow


def _shadow(running: Launched, caller: OutsideCaller, out: Console) -> None:
    promise = read_promise(running.config / "routes.yaml", FRAUD)
    if not promise.shadows:
        return
    calls, counts = _shadow_counts(running, [shadow.name for shadow in promise.shadows])
    out.print(_title(f"what the shadow saw of these {calls} calls"))
    out.print(shadow_table(promise, calls, counts))
    check_shadows(promise, calls, counts)
    _comparison(caller, out)


def _comparison(caller: OutsideCaller, out: Console) -> None:
    """What the gateway says of the answers; nothing where it does not compare."""
    try:
        reports = shadow_reports(caller, FRAUD).reports
    except (NotFound, Unimplemented):
        return
    report = max(reports, key=lambda each: each.pairs)
    state = state_of(report)
    out.print(
        Text.assemble("  ", (f"{report.shadow} beside {report.variant}", "bold"), ": ", (state.word, state.style))
    )
    for finding in report.verdict.findings[:SHOWN_FINDINGS]:
        out.print(Text.assemble(("  ● ", state.style), finding.text))
    out.print(Text(f"  all of it, with plots: infermesh shadow report {FRAUD} --html report.html", "bright_black"))


def _shadow_counts(running: Launched, names: list[str]) -> tuple[int, dict[str, dict[str, int]]]:
    """Calls, and copies by shadow and outcome, when no copy is under way any more."""
    pause = threading.Event()
    end = time.monotonic() + SHADOW_WAIT_S
    before: dict[str, dict[str, int]] = {}
    while True:
        samples = scrape(running.mesh.http_address("gateway"))
        if samples is None:
            raise Failure("the gateway does not tell its metrics")
        counts: dict[str, dict[str, int]] = {name: {} for name in names}
        for labels, value in samples.all("infermesh_gateway_shadow_total"):
            if labels["model"] == FRAUD and labels["shadow"] in counts and value:
                counts[labels["shadow"]][labels["outcome"]] = int(value)
        if counts == before or time.monotonic() >= end:
            return int(samples.total("infermesh_requests_total", model=FRAUD)), counts
        before = counts
        pause.wait(SHADOW_PAUSE_S)


def shadow_table(promise: Promise, calls: int, counts: Mapping[str, Mapping[str, int]]) -> RenderableType:
    """The copies of each shadow by what became of them, beside the fraction that it should get."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("shadow", style="bold")
    for title in ("version", "fraction", "expected", "copies"):
        table.add_column(title, justify="right")
    table.add_column("outcome")
    for shadow in promise.shadows:
        got = counts.get(shadow.name, {})
        spread = 2 * (calls * shadow.fraction * (1 - shadow.fraction)) ** 0.5
        outcomes = ", ".join(f"{number} {outcome}" for outcome, number in sorted(got.items())) or "none"
        table.add_row(
            shadow.name, shadow.version, f"{shadow.fraction:.0%}", f"{calls * shadow.fraction:.0f} ± {spread:.0f}",
            str(sum(got.values())), outcomes,
        )  # fmt: skip
    return table


# ---- the explanation


def _explanation(running: Launched, caller: OutsideCaller, out: Console) -> None:
    request = Golden.of(FRAUD).request()
    request.model_name = FRAUD + EXPLAINER_SUFFIX
    started = time.perf_counter()
    response = caller.infer(request)
    seconds = time.perf_counter() - started
    explanation = Explanation.read(response)
    out.print(_title(f"why: {FRAUD}, explained in {seconds * 1000:.0f} ms"))
    row = look_up(running.config / "transformer.yaml", running.redis_url, "card", Golden.of(FRAUD).values["card_id"])
    values = {name: _plain(value) for name, value in {**Golden.of(FRAUD).values, **row}.items()}
    position = explanation.output("fraud") if "fraud" in explanation.outputs else explanation.output()
    out.print(chart(explanation, position, 0, values))
    check_sum(explanation)
    Golden.of(FRAUD).check_values(response.model_version, np.asarray(explanation.predictions, np.float64))


def _reasons(caller: OutsideCaller, out: Console) -> None:
    """The sentences that an applicant is told, from the model's own templates."""
    request = read_request(CREDIT)
    request.model_name = CREDIT + EXPLAINER_SUFFIX
    request.parameters["classes"].string_param = REFUSED
    request.parameters["reasons"].int64_param = REASONS
    for name in (*EXPLAINED, "reasons"):
        request.outputs.add(name=name)
    started = time.perf_counter()
    explanation = Explanation.read(caller.infer(request))
    seconds = time.perf_counter() - started
    out.print(_title(f"what an applicant is told: {CREDIT}, in {seconds * 1000:.0f} ms"))
    chance = float(np.asarray(explanation.predictions, np.float64)[0, 0])
    out.print(Text.assemble("  ", (f"{REFUSED} {chance:.0%}", "bold"), ", because of"))
    out.print(reason_lines(explanation, 0))
    check_sum(explanation)
    if not any(explanation.reasons):
        raise Failure(f"{CREDIT}: its explanation has no reasons")


def _missing(caller: OutsideCaller) -> list[str]:
    ready = {model.name for model in caller.index(only_ready=True).models}
    return [model for model in (IRIS, CANCER, FRAUD, CREDIT) if model not in ready]


def _title(text: str) -> Rule:
    return Rule(Text(text, "bold"), style="bright_black", align="left")

"""A comparison's report as a message of `protos/shadow_reports.proto`."""

from __future__ import annotations

from infermesh.protocol import shadow_reports_pb2 as pb
from services.gateway.compare.comparison import Comparison
from services.gateway.compare.histogram import LogHistogram
from services.gateway.compare.proportion import Proportion
from services.gateway.compare.report import EventReport, OutputReport, Quantiles, Report, ShiftReport, State
from services.gateway.compare.worst import Disagreement

__all__ = ["message_of"]

_STATES: dict[State, pb.Verdict.State] = {
    "not enough": pb.Verdict.NOT_ENOUGH,
    "differs": pb.Verdict.DIFFERS,
    "within noise": pb.Verdict.WITHIN_NOISE,
    "nothing seen": pb.Verdict.NOTHING_SEEN,
}


def message_of(comparison: Comparison, report: Report, variant: str) -> pb.Report:
    """All that the report says, and the histograms behind its quantiles."""
    message = pb.Report(
        model=report.model,
        shadow=report.shadow,
        variant=variant,
        pairs=report.pairs,
        repeats=report.repeats,
        first_s=report.first_s,
        last_s=report.last_s,
        codes=[_codes(*each) for each in report.codes],
        repeat_codes=[_codes(*each) for each in report.repeat_codes],
        structure=[pb.Count(what=what, count=count) for what, count in report.structure],
        events=[_event(each) for each in report.events],
        outputs=[_output(comparison, each) for each in report.outputs],
        shifts=[_shift(each) for each in report.shifts],
        worst=[_disagreement(each) for each in report.worst],
    )
    latency = report.latency
    primary_s, shadow_s = comparison.latencies
    message.latency.CopyFrom(
        pb.Latency(
            primary=_quantiles(latency.primary),
            shadow=_quantiles(latency.shadow),
            median_difference=latency.median_difference,
            primary_histogram=_histogram(primary_s),
            shadow_histogram=_histogram(shadow_s),
        )
    )
    verdict = report.verdict
    message.verdict.CopyFrom(
        pb.Verdict(
            state=_STATES[verdict.state],
            text=verdict.text,
            notes=verdict.notes,
            findings=[
                pb.Finding(what=e.what, output=e.output, detail=e.detail, text=e.text, p_adjusted=e.p_adjusted)
                for e in verdict.findings
            ],
        )
    )
    return message


def _codes(primary: str, other: str, count: int) -> pb.Codes:
    return pb.Codes(primary=primary, other=other, count=count)


def _proportion(of: Proportion) -> pb.Proportion:
    return pb.Proportion(hits=of.hits, of=of.of, low=of.low, high=of.high)


def _quantiles(of: Quantiles) -> pb.Quantiles:
    return pb.Quantiles(count=of.count, p50=of.p50, p99=of.p99, largest=of.largest)


def _histogram(of: LogHistogram) -> pb.Histogram:
    values = list(of.values())
    return pb.Histogram(values=[value for value, _ in values], counts=[count for _, count in values])


def _event(of: EventReport) -> pb.Event:
    return pb.Event(
        what=of.what,
        output=of.output,
        detail=of.detail,
        shadow=_proportion(of.shadow),
        repeat=_proportion(of.repeat),
        p=of.p,
        p_adjusted=of.p_adjusted,
    )


def _output(comparison: Comparison, of: OutputReport) -> pb.Output:
    differences, differences_repeat = comparison.differences(of.name)
    return pb.Output(
        name=of.name,
        datatype=of.datatype,
        elements=of.elements,
        differing=of.differing,
        max_abs=_quantiles(of.max_abs),
        max_abs_repeat=_quantiles(of.max_abs_repeat),
        max_rel=_quantiles(of.max_rel),
        max_rel_repeat=_quantiles(of.max_rel_repeat),
        max_abs_p=of.max_abs_p,
        max_abs_p_adjusted=of.max_abs_p_adjusted,
        overlap=of.overlap,
        overlap_repeat=of.overlap_repeat,
        differences=_histogram(differences),
        differences_repeat=_histogram(differences_repeat),
    )


def _shift(of: ShiftReport) -> pb.Shift:
    return pb.Shift(
        output=of.output,
        column=of.column,
        pairs=of.pairs,
        psi=of.psi,
        p=of.p,
        p_adjusted=of.p_adjusted,
        mean=of.mean,
        mean_low=of.mean_low,
        mean_high=of.mean_high,
        bins=of.bins,
        primary=of.primary,
        shadow=of.shadow,
    )


def _disagreement(of: Disagreement) -> pb.Disagreement:
    return pb.Disagreement(
        request_id=of.request_id,
        at_s=of.at_s,
        severity=of.severity,
        what=of.what,
        where=of.where,
        primary=of.primary,
        other=of.other,
    )

from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReportRequest(_message.Message):
    __slots__ = ("model", "shadow")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    model: str
    shadow: str
    def __init__(self, model: _Optional[str] = ..., shadow: _Optional[str] = ...) -> None: ...

class ReportResponse(_message.Message):
    __slots__ = ("reports", "not_compared")
    class NotComparedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    NOT_COMPARED_FIELD_NUMBER: _ClassVar[int]
    reports: _containers.RepeatedCompositeFieldContainer[Report]
    not_compared: _containers.ScalarMap[str, int]
    def __init__(self, reports: _Optional[_Iterable[_Union[Report, _Mapping]]] = ..., not_compared: _Optional[_Mapping[str, int]] = ...) -> None: ...

class ResetRequest(_message.Message):
    __slots__ = ("model", "shadow")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    model: str
    shadow: str
    def __init__(self, model: _Optional[str] = ..., shadow: _Optional[str] = ...) -> None: ...

class ResetResponse(_message.Message):
    __slots__ = ("forgotten",)
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    forgotten: int
    def __init__(self, forgotten: _Optional[int] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("model", "shadow", "variant", "pairs", "repeats", "first_s", "last_s", "codes", "repeat_codes", "structure", "events", "outputs", "shifts", "latency", "worst", "verdict")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    REPEATS_FIELD_NUMBER: _ClassVar[int]
    FIRST_S_FIELD_NUMBER: _ClassVar[int]
    LAST_S_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    REPEAT_CODES_FIELD_NUMBER: _ClassVar[int]
    STRUCTURE_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    SHIFTS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    WORST_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    model: str
    shadow: str
    variant: str
    pairs: int
    repeats: int
    first_s: float
    last_s: float
    codes: _containers.RepeatedCompositeFieldContainer[Codes]
    repeat_codes: _containers.RepeatedCompositeFieldContainer[Codes]
    structure: _containers.RepeatedCompositeFieldContainer[Count]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    outputs: _containers.RepeatedCompositeFieldContainer[Output]
    shifts: _containers.RepeatedCompositeFieldContainer[Shift]
    latency: Latency
    worst: _containers.RepeatedCompositeFieldContainer[Disagreement]
    verdict: Verdict
    def __init__(self, model: _Optional[str] = ..., shadow: _Optional[str] = ..., variant: _Optional[str] = ..., pairs: _Optional[int] = ..., repeats: _Optional[int] = ..., first_s: _Optional[float] = ..., last_s: _Optional[float] = ..., codes: _Optional[_Iterable[_Union[Codes, _Mapping]]] = ..., repeat_codes: _Optional[_Iterable[_Union[Codes, _Mapping]]] = ..., structure: _Optional[_Iterable[_Union[Count, _Mapping]]] = ..., events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[Output, _Mapping]]] = ..., shifts: _Optional[_Iterable[_Union[Shift, _Mapping]]] = ..., latency: _Optional[_Union[Latency, _Mapping]] = ..., worst: _Optional[_Iterable[_Union[Disagreement, _Mapping]]] = ..., verdict: _Optional[_Union[Verdict, _Mapping]] = ...) -> None: ...

class Codes(_message.Message):
    __slots__ = ("primary", "other", "count")
    PRIMARY_FIELD_NUMBER: _ClassVar[int]
    OTHER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    primary: str
    other: str
    count: int
    def __init__(self, primary: _Optional[str] = ..., other: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class Count(_message.Message):
    __slots__ = ("what", "count")
    WHAT_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    what: str
    count: int
    def __init__(self, what: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class Proportion(_message.Message):
    __slots__ = ("hits", "of", "low", "high")
    HITS_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    hits: int
    of: int
    low: float
    high: float
    def __init__(self, hits: _Optional[int] = ..., of: _Optional[int] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("what", "output", "detail", "shadow", "repeat", "p", "p_adjusted")
    WHAT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    REPEAT_FIELD_NUMBER: _ClassVar[int]
    P_FIELD_NUMBER: _ClassVar[int]
    P_ADJUSTED_FIELD_NUMBER: _ClassVar[int]
    what: str
    output: str
    detail: str
    shadow: Proportion
    repeat: Proportion
    p: float
    p_adjusted: float
    def __init__(self, what: _Optional[str] = ..., output: _Optional[str] = ..., detail: _Optional[str] = ..., shadow: _Optional[_Union[Proportion, _Mapping]] = ..., repeat: _Optional[_Union[Proportion, _Mapping]] = ..., p: _Optional[float] = ..., p_adjusted: _Optional[float] = ...) -> None: ...

class Quantiles(_message.Message):
    __slots__ = ("count", "p50", "p99", "largest")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    P50_FIELD_NUMBER: _ClassVar[int]
    P99_FIELD_NUMBER: _ClassVar[int]
    LARGEST_FIELD_NUMBER: _ClassVar[int]
    count: int
    p50: float
    p99: float
    largest: float
    def __init__(self, count: _Optional[int] = ..., p50: _Optional[float] = ..., p99: _Optional[float] = ..., largest: _Optional[float] = ...) -> None: ...

class Histogram(_message.Message):
    __slots__ = ("values", "counts")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    counts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, values: _Optional[_Iterable[float]] = ..., counts: _Optional[_Iterable[int]] = ...) -> None: ...

class Output(_message.Message):
    __slots__ = ("name", "datatype", "elements", "differing", "max_abs", "max_abs_repeat", "max_rel", "max_rel_repeat", "max_abs_p", "max_abs_p_adjusted", "overlap", "overlap_repeat", "differences", "differences_repeat")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    DIFFERING_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_REPEAT_FIELD_NUMBER: _ClassVar[int]
    MAX_REL_FIELD_NUMBER: _ClassVar[int]
    MAX_REL_REPEAT_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_P_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_P_ADJUSTED_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_REPEAT_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_REPEAT_FIELD_NUMBER: _ClassVar[int]
    name: str
    datatype: str
    elements: int
    differing: int
    max_abs: Quantiles
    max_abs_repeat: Quantiles
    max_rel: Quantiles
    max_rel_repeat: Quantiles
    max_abs_p: float
    max_abs_p_adjusted: float
    overlap: float
    overlap_repeat: float
    differences: Histogram
    differences_repeat: Histogram
    def __init__(self, name: _Optional[str] = ..., datatype: _Optional[str] = ..., elements: _Optional[int] = ..., differing: _Optional[int] = ..., max_abs: _Optional[_Union[Quantiles, _Mapping]] = ..., max_abs_repeat: _Optional[_Union[Quantiles, _Mapping]] = ..., max_rel: _Optional[_Union[Quantiles, _Mapping]] = ..., max_rel_repeat: _Optional[_Union[Quantiles, _Mapping]] = ..., max_abs_p: _Optional[float] = ..., max_abs_p_adjusted: _Optional[float] = ..., overlap: _Optional[float] = ..., overlap_repeat: _Optional[float] = ..., differences: _Optional[_Union[Histogram, _Mapping]] = ..., differences_repeat: _Optional[_Union[Histogram, _Mapping]] = ...) -> None: ...

class Shift(_message.Message):
    __slots__ = ("output", "column", "pairs", "psi", "p", "p_adjusted", "mean", "mean_low", "mean_high", "bins", "primary", "shadow")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    PSI_FIELD_NUMBER: _ClassVar[int]
    P_FIELD_NUMBER: _ClassVar[int]
    P_ADJUSTED_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    MEAN_LOW_FIELD_NUMBER: _ClassVar[int]
    MEAN_HIGH_FIELD_NUMBER: _ClassVar[int]
    BINS_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    output: str
    column: str
    pairs: int
    psi: float
    p: float
    p_adjusted: float
    mean: float
    mean_low: float
    mean_high: float
    bins: _containers.RepeatedScalarFieldContainer[str]
    primary: _containers.RepeatedScalarFieldContainer[int]
    shadow: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, output: _Optional[str] = ..., column: _Optional[str] = ..., pairs: _Optional[int] = ..., psi: _Optional[float] = ..., p: _Optional[float] = ..., p_adjusted: _Optional[float] = ..., mean: _Optional[float] = ..., mean_low: _Optional[float] = ..., mean_high: _Optional[float] = ..., bins: _Optional[_Iterable[str]] = ..., primary: _Optional[_Iterable[int]] = ..., shadow: _Optional[_Iterable[int]] = ...) -> None: ...

class Latency(_message.Message):
    __slots__ = ("primary", "shadow", "median_difference", "primary_histogram", "shadow_histogram")
    PRIMARY_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_HISTOGRAM_FIELD_NUMBER: _ClassVar[int]
    SHADOW_HISTOGRAM_FIELD_NUMBER: _ClassVar[int]
    primary: Quantiles
    shadow: Quantiles
    median_difference: float
    primary_histogram: Histogram
    shadow_histogram: Histogram
    def __init__(self, primary: _Optional[_Union[Quantiles, _Mapping]] = ..., shadow: _Optional[_Union[Quantiles, _Mapping]] = ..., median_difference: _Optional[float] = ..., primary_histogram: _Optional[_Union[Histogram, _Mapping]] = ..., shadow_histogram: _Optional[_Union[Histogram, _Mapping]] = ...) -> None: ...

class Disagreement(_message.Message):
    __slots__ = ("request_id", "at_s", "severity", "what", "where", "primary", "other")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    AT_S_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_FIELD_NUMBER: _ClassVar[int]
    OTHER_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    at_s: float
    severity: float
    what: _containers.RepeatedScalarFieldContainer[str]
    where: str
    primary: str
    other: str
    def __init__(self, request_id: _Optional[str] = ..., at_s: _Optional[float] = ..., severity: _Optional[float] = ..., what: _Optional[_Iterable[str]] = ..., where: _Optional[str] = ..., primary: _Optional[str] = ..., other: _Optional[str] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("what", "output", "detail", "text", "p_adjusted")
    WHAT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    P_ADJUSTED_FIELD_NUMBER: _ClassVar[int]
    what: str
    output: str
    detail: str
    text: str
    p_adjusted: float
    def __init__(self, what: _Optional[str] = ..., output: _Optional[str] = ..., detail: _Optional[str] = ..., text: _Optional[str] = ..., p_adjusted: _Optional[float] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("state", "text", "findings", "notes")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Verdict.State]
        NOT_ENOUGH: _ClassVar[Verdict.State]
        DIFFERS: _ClassVar[Verdict.State]
        WITHIN_NOISE: _ClassVar[Verdict.State]
        NOTHING_SEEN: _ClassVar[Verdict.State]
    STATE_UNSPECIFIED: Verdict.State
    NOT_ENOUGH: Verdict.State
    DIFFERS: Verdict.State
    WITHIN_NOISE: Verdict.State
    NOTHING_SEEN: Verdict.State
    STATE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    state: Verdict.State
    text: str
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, state: _Optional[_Union[Verdict.State, str]] = ..., text: _Optional[str] = ..., findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...

"""The explainer's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator
from pydantic_settings import SettingsConfigDict

from infermesh.config import BackendConfig, ConfigPath, Duration, Model, ServiceConfig, Size
from infermesh.config.types import from_file

__all__ = [
    "AskingConfig",
    "BackgroundSet",
    "BackgroundsConfig",
    "DeadlineConfig",
    "ExplainerConfig",
    "LimitsConfig",
    "MethodsConfig",
    "ModelsConfig",
    "RetryConfig",
]

MAX_EXACT_FEATURES = 16  # 65,536 coalitions; beyond it one row takes minutes, and the matrix of weights tens of MiB


class BackgroundSet(Model):
    """One background: where its rows come from, and how they become few. Exactly one of the three sources is given."""

    file: ConfigPath | None = None
    """A file in OIP's JSON form, or a `.csv` with a header."""
    parquet: ConfigPath | None = None
    """A Parquet file, or a folder of them, such as what was served with the features looked up; needs the extra `parquet`."""
    payload_log: ConfigPath | None = None
    """The folder of the gateway's payload log: what callers of this model sent."""
    inputs: dict[str, str | list[str]] = Field(default_factory=dict)
    """Of Parquet and CSV: the column, or columns side by side, of each input; left out: the columns `input.<name>`, or if there
    are none, every column is an input of its own name."""
    rows: int = Field(100, ge=1, le=10_000)
    """Rows of the set; more than `max_rows` of them are thinned again."""
    from_rows: int = Field(10_000, ge=1, le=1_000_000)
    """Rows of the source that are drawn, each with the same chance, before they are summed up."""
    summary: Literal["none", "kmeans", "stratified"] = "none"
    """`none`: rows at random; `kmeans`: a row out of the middle of each cluster, with its weight; `stratified`: a row of each
    quantile of `by`."""
    by: str = ""
    """Of `stratified`: an input, `input[column]`, a column of the table, `output.<name>`, or `prediction`."""
    seed: int = Field(0, ge=0)
    """Of all draws."""

    @model_validator(mode="after")
    def _one_source(self) -> BackgroundSet:
        given = [name for name in ("file", "parquet", "payload_log") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of file, parquet, payload_log, got {', '.join(given) or 'none'}")
        if self.inputs and self.payload_log is not None:
            raise ValueError("inputs: a payload log names its inputs itself")
        if (self.summary == "stratified") is not bool(self.by):
            raise ValueError("by: expected with summary: stratified, and only there")
        return self


class BackgroundsConfig(Model):
    """The rows that stand for "feature unknown"."""

    root: ConfigPath = Path("samples/backgrounds")
    """Folder with `<model>.json` (the default set of a model) and `<model>/<name>.json` (further ones), in OIP's JSON form."""
    max_rows: int = Field(100, ge=1, le=10_000)
    """Rows of a set that are used; a larger set is thinned evenly. Every evaluation asks the model about that many rows."""
    missing: Literal["refuse", "zeros"] = "refuse"
    """For a model without a set: refuse to explain it, or explain against one row of zeros and empty strings."""
    sets: dict[str, dict[str, BackgroundSet]] = Field(default_factory=dict)
    """Further sets, by model and name; the one called `default` is what is used when a request names none. One that is declared
    here wins over a file of the folder."""


class MethodsConfig(Model):
    """How much work an explanation may be."""

    exact_features: int = Field(12, ge=1, le=MAX_EXACT_FEATURES)
    """Models with at most as many features can be explained exactly; the work doubles with each feature."""
    exact_rows: int = Field(1_000_000, ge=1)
    """`auto` explains exactly while the rows to ask about (rows × coalitions × background) are at most as many."""
    pairs: int = Field(32, ge=2)
    """Antithetic pairs of permutations, when the request does not say `max_evals`; `kernel` takes as many evaluations."""
    max_evals: int = Field(100_000, ge=2)
    """The most evaluations per row that a request may ask for."""


def _folder(value: object, info: ValidationInfo) -> object:
    """A relative folder starts at the configuration file's, as in the predictor's settings; a URL is what it is."""
    if isinstance(value, Path):
        return str(value)
    return str(from_file(value, info)) if isinstance(value, str) and value and "://" not in value else value


class ModelsConfig(Model):
    """The files of the models, for the methods `tree` and `linear`."""

    root: Annotated[str, BeforeValidator(_folder)] = ""
    """The predictor's repository, a folder or a URL with `<model>/<version>/model.onnx`. Empty: those methods are refused."""


class AskingConfig(Model):
    """How the model is asked."""

    priority: int = Field(16, ge=1)
    """The parameter `priority` of all questions, whatever the caller's is; a number past the predictor's last level is its last
    one, so that predictions go first."""

    max_rows: int = Field(131_072, ge=1)
    """Rows of one ModelInfer. The predictor runs them in slices, between which predictions have their turn; where a backend runs
    them whole, predictions wait behind them, and 4096 is a better number."""
    max_bytes: Size = "16MiB"  # type: ignore[assignment]
    """Size of one ModelInfer and of its answer; a single row may be larger. Some servers take no more than 4MiB."""
    in_flight: int = Field(8, ge=1)
    """ModelInfers at a time, of all explanations together."""
    in_flight_each: int = Field(4, ge=1)
    """ModelInfers at a time, of one explanation."""
    threads: int = Field(2, ge=1, le=64)
    """Threads that build rows and sum up answers."""


class LimitsConfig(Model):
    """What is refused."""

    rows: int = Field(10_000, ge=1)
    """Rows of one request."""
    features: int = Field(1024, ge=1)
    """Features of a model."""
    concurrent: int = Field(16, ge=1)
    """Explanations that are worked on at a time; others wait."""
    queue: int = Field(4096, ge=0)
    """Explanations that wait; more are refused with RESOURCE_EXHAUSTED."""
    queue_bytes: Size = "256MiB"  # type: ignore[assignment]
    """Requests of explanations that wait, together; more are refused likewise. One that is larger waits alone."""


class DeadlineConfig(Model):
    """Ends for calls."""

    default: Duration = "30s"  # type: ignore[assignment]
    """For calls that come without a deadline."""
    maximum: Duration = "5m"  # type: ignore[assignment]
    """No call lasts longer, whatever its caller asks for."""
    reserve: Duration = "200ms"  # type: ignore[assignment]
    """Sampling stops this long before the deadline, or a fifth of the time that it has if that is less, and answers."""


class RetryConfig(Model):
    """Other attempts of a single ModelInfer, after a replica of the backend went away: without them the whole explanation
    would be made again by whoever asked for it."""

    attempts: int = Field(3, ge=1, le=10)
    """Attempts in all; 1: no retries."""
    budget_share: float = Field(0.2, ge=0, le=1)
    """Share of the ModelInfers of the last ten seconds that may be retried."""
    budget_minimum: float = Field(3, ge=0, le=1000)
    """Retries a second besides; those of ten seconds may be made at once: what was under way at a replica that died."""


class ExplainerConfig(ServiceConfig):
    """Settings of the explainer."""

    model_config = SettingsConfigDict(env_prefix="INFERMESH_EXPLAINER__")

    backends: dict[str, BackendConfig] = Field({"predictor": BackendConfig(target="predictor:8001")})
    """Services that can be asked, by name."""
    backend: str = "predictor"
    """The one of them that holds the models."""
    backgrounds: BackgroundsConfig = BackgroundsConfig()
    methods: MethodsConfig = MethodsConfig()
    models: ModelsConfig = ModelsConfig()
    asking: AskingConfig = AskingConfig()
    limits: LimitsConfig = LimitsConfig()
    deadline: DeadlineConfig = DeadlineConfig()
    retry: RetryConfig = RetryConfig()

    @model_validator(mode="after")
    def _has_its_backend(self) -> ExplainerConfig:
        if self.backend not in self.backends:
            raise ValueError(f"backend: expected one of {', '.join(self.backends) or '(none)'}, got {self.backend!r}")
        return self

"""The predictor's settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationInfo, model_validator
from pydantic_settings import SettingsConfigDict

from infermesh.config import Duration, Model, ServiceConfig, Size
from infermesh.config.types import ConfigPath, from_file

__all__ = [
    "BatchingConfig",
    "CacheConfig",
    "DeadlineConfig",
    "ExecutionConfig",
    "Location",
    "PredictorConfig",
    "QueueConfig",
    "RepositoryConfig",
    "ResponseCacheConfig",
]


def _location(value: object, info: ValidationInfo) -> object:
    if isinstance(value, Path):
        return str(value)
    if not isinstance(value, str):
        return value
    if "://" not in value:
        return str(from_file(value, info))
    from services.predictor.source.root_url import check_root  # here: the folder's other files need this one

    check_root(value)
    return value


Location = Annotated[str, BeforeValidator(_location)]
"""A folder, or the URL of one: `s3://bucket/models`, `gs://…`, `https://…`. A relative folder starts at the folder of the
configuration file when there is one."""


def _without_secrets(value: object, name: str = "") -> object:
    if isinstance(value, dict):
        # Of headers only the names may be told.
        return {key: _without_secrets(each, "token" if name == "headers" else str(key)) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_secrets(each, name) for each in value]
    if re.search(r"key|secret|token|passw|credential|auth|signature", name, re.IGNORECASE):
        return "…"
    return re.sub(r"(?<=://)[^/]*@", "…@", value) if isinstance(value, str) else value


StorageOptions = Annotated[
    dict[Literal["s3", "gs", "http", "https"], dict[str, Any]], PlainSerializer(_without_secrets, when_used="json")
]


class CacheConfig(Model):
    """Where models of a URL are kept on this machine."""

    folder: ConfigPath | None = None
    """Folder of the cache, shared by restarts; left out: `infermesh/models` in the user's cache folder."""
    max_bytes: Size = Field("20GiB", ge=1)  # type: ignore[assignment]
    """Past it the model files that were not used for longest go; those that are loaded stay."""
    timeout: Duration = Field("15s", gt=0)  # type: ignore[assignment]
    """Longest that a URL may take to list a model, and that a download may stay without a byte; then the root counts as away."""
    download_timeout: Duration = Field("1h", gt=0)  # type: ignore[assignment]
    """Longest that one file may take to be downloaded."""


class RepositoryConfig(Model):
    """Where the models are, and which of them are loaded when."""

    root: Location | list[Location] = "samples/models"
    """Folder with `<model>/<version>/model.onnx`, or its URL (s3, gs, http, https), or a list of several."""
    mode: Literal["all", "explicit", "watch"] = "all"
    """`all`: what is there at the start; `explicit`: only what is asked for by RPC; `watch`: all, and what changes later."""
    models: list[str] | None = None
    """Models to load at start; left out: as `mode` says. Others can be loaded by RPC."""
    poll: Duration = Field("10s", gt=0)  # type: ignore[assignment]
    """In `watch`: how often a root is looked at; a folder also when it tells of a change. In every mode: how often a root that
    was away is asked for what is missing."""
    settle: Duration = "1s"  # type: ignore[assignment]
    """In `watch`: how long files have to stay as they are before they are loaded, so that none is read half copied."""
    load_timeout: Duration = Field("5m", gt=0)  # type: ignore[assignment]
    """A load that takes longer counts as failed, and readiness waits for it no more; when it ends after all, it takes over."""
    strict_readiness: bool = False
    """Whether one model that fails to load keeps the predictor unready; its reason is in the index either way."""
    cache: CacheConfig = CacheConfig()
    storage_options: StorageOptions = {}
    """Of fsspec's filesystems, by scheme: `{s3: {endpoint_url: "http://minio:9000"}}`, `{https: {headers: {…}}}`. Credentials are
    better left to the environment, where s3fs and gcsfs look for them; `config show` hides those that are given here."""


class ExecutionConfig(Model):
    """How models run."""

    instances: int = Field(1, ge=1, le=256)
    """Runs of one model version at a time on each device; they share the session and its weights."""
    intra_op_threads: int = Field(0, ge=0)
    """Threads inside one operator; 0: as many as the CPU quota of this container."""
    inter_op_threads: int = Field(1, ge=1)
    """Operators of one run at a time; more than 1 runs independent branches of the graph side by side."""
    graph_optimization: Literal["disabled", "basic", "extended", "all"] = "all"
    """How far ONNX Runtime may rewrite a model's graph when it loads it."""
    optimized_graph_cache: bool = True
    """Whether the rewritten graph is kept beside the model, where that can be written, so that the next start skips the work."""
    providers: list[Literal["cpu", "cuda", "tensorrt", "openvino"]] = Field(["cpu"], min_length=1)
    """Execution providers, the preferred one first; operators that one can't run go to the next."""
    missing_provider: Literal["fail", "fall_back"] = "fail"
    """What happens when one of `providers` is not there: the model is not loaded, or it runs on those that are."""
    devices: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1)
    """Devices of the first provider, by number; each has a session with weights of its own. The CPU is one device."""
    memory_limit: Size = Field("0B", ge=0)  # type: ignore[assignment]
    """Most that the runs of one version may take on a device, beside its weights; 0: no limit. A run that needs more fails with
    RESOURCE_EXHAUSTED, and no other does."""
    inline_below: Duration = "200us"  # type: ignore[assignment]
    """A model whose warm-up runs take less, nearly all of them, runs without a hop to a thread; 0: none does."""
    slice_rows: int = Field(4096, ge=0)
    """Rows that are run at once: a larger request runs in slices, between which others have their turn, if the model answers a
    row the same whatever is run with it, which is tried out on made-up rows; 0: requests run whole."""
    profile_folder: ConfigPath | None = None
    """Where profiles that somebody asks for are written; left out: `infermesh-profiles` in the system's folder for temporary
    files."""


class BatchingConfig(Model):
    """Requests that wait for a model may run together. What runs inline is never batched: a hop would cost more than the run."""

    enabled: bool = False
    """Whether requests that arrive while all instances are busy form the next batch; a lone request never waits for others."""
    max_rows: int = Field(64, ge=1)
    """Rows of a batch; a larger request runs by itself, whole."""
    max_bytes: Size = Field("64MiB", ge=1)  # type: ignore[assignment]
    """Bytes of a batch's inputs."""
    unchecked: bool = False
    """Whether rows are taken to be independent where made-up rows can't show it. Without it such a model is not loaded; data for
    the check may be given in `warm_up`."""


class QueueConfig(Model):
    """Requests that wait for a free instance of one model version."""

    max_requests: int = Field(4096, ge=0)
    """Requests that wait; more are refused with RESOURCE_EXHAUSTED and a pushback."""
    priority_levels: int = Field(3, ge=1, le=16)
    """Levels of the request parameter `priority`: 1 runs first; a number past the last level counts as the last."""
    default_priority: int = Field(2, ge=1)
    """Level of requests that name none (or 0). Shadow copies always have the last level."""
    refuse_late: bool = True
    """Whether a request is refused at once when the wait that is expected is longer than its deadline allows."""


class ResponseCacheConfig(Model):
    """Answers that are kept, for models whose callers ask the same again."""

    enabled: bool = False
    """Whether equal requests to one version are answered from memory. Only for models without randomness."""
    max_bytes: Size = Field("64MiB", ge=1)  # type: ignore[assignment]
    """Bytes of the answers that are kept for one model version; those that were not asked for longest go."""


class DeadlineConfig(Model):
    """Ends for calls."""

    default: Duration = "30s"  # type: ignore[assignment]
    """For calls that come without a deadline."""
    maximum: Duration = "5m"  # type: ignore[assignment]
    """No call lasts longer, whatever its caller asks for."""


class PredictorConfig(ServiceConfig):
    """Settings of the predictor. `execution`, `batching`, `queue` and `response_cache` hold for every model whose own
    `config.yaml` does not say otherwise."""

    model_config = SettingsConfigDict(env_prefix="INFERMESH_PREDICTOR__")

    repository: RepositoryConfig = RepositoryConfig()
    execution: ExecutionConfig = ExecutionConfig()
    batching: BatchingConfig = BatchingConfig()
    queue: QueueConfig = QueueConfig()
    response_cache: ResponseCacheConfig = ResponseCacheConfig()
    deadline: DeadlineConfig = DeadlineConfig()

    @model_validator(mode="after")
    def _loads_reach_all(self) -> PredictorConfig:
        if self.repository.mode == "explicit" and self.server.processes > 1:
            raise ValueError(
                "repository.mode explicit: a load reaches one process; expected `server.processes: 1` with it"
            )
        return self

"""What a model version says of itself: OIP metadata, and configuration and statistics in Triton's form."""

from __future__ import annotations

from collections.abc import Mapping

from infermesh.protocol import open_inference_pb2 as pb
from services.predictor.execution.signature import TensorSpec
from services.predictor.model_config import ModelSettings, VersionPolicy, WarmUp
from services.predictor.model_version import ModelVersion

__all__ = ["config_message", "metadata_message", "statistics_message"]

PLATFORM = "onnxruntime_onnx"
ON_GPU = ("cuda", "tensorrt")
GRAPH_LEVELS = {
    "basic": -1,
    "extended": 1,
    "disabled": 2,
}  # Triton's ONNX Runtime backend; `all` is what it does unasked


def metadata_message(version: ModelVersion, versions: list[str]) -> pb.ModelMetadataResponse:
    """Inputs and outputs from the session; the model file's own metadata as properties.

    OIP has no word for inputs that may be left out: their names are in the property `infermesh_optional_inputs`.
    """
    tensor = pb.ModelMetadataResponse.TensorMetadata
    message = pb.ModelMetadataResponse(
        name=version.model,
        versions=versions,
        platform=PLATFORM,
        inputs=[tensor(name=s.name, datatype=s.datatype, shape=s.shape) for s in version.signature.inputs],
        outputs=[tensor(name=s.name, datatype=s.datatype, shape=s.shape) for s in version.signature.outputs],
        properties=version.session.properties,
    )
    if version.signature.optional:
        message.properties["infermesh_optional_inputs"] = ",".join(sorted(version.signature.optional))
    return message


def config_message(version: ModelVersion, policy: VersionPolicy, labels: Mapping[str, int]) -> pb.ModelConfig:
    """How the version is served, in Triton's words where it has them; the rest are parameters. `policy` and `labels` are the
    model's as they are now: they change without a load.

    `max_batch_size` is 0: shapes are whole. With another number Triton's clients would take the first dimension to be left out of
    `dims`, and add it to what they send; not every ONNX model has one. perf_analyzer is told the rows by `--shape` then.
    """
    settings = version.settings
    on_gpu = version.session.providers_in_use[0] in ON_GPU
    message = pb.ModelConfig(
        name=version.model,
        platform=PLATFORM,
        backend="onnxruntime",
        runtime="onnxruntime",
        version_policy=_version_policy(policy),
        input=[
            pb.ModelInput(
                name=s.name, data_type=_data_type(s), dims=s.shape, optional=s.name in version.signature.optional
            )
            for s in version.signature.inputs
        ],
        output=[pb.ModelOutput(name=s.name, data_type=_data_type(s), dims=s.shape) for s in version.signature.outputs],
        instance_group=[
            pb.ModelInstanceGroup(
                name=f"{version.model}_0",
                count=settings.execution.instances,
                kind=pb.ModelInstanceGroup.KIND_GPU if on_gpu else pb.ModelInstanceGroup.KIND_CPU,
                gpus=version.session.devices if on_gpu else (),
            )
        ],
        default_model_filename="model.onnx",
        optimization=_optimization(settings),
        model_warmup=[
            _warm_up(number, each, rows) for number, each in enumerate(settings.warm_up) for rows in each.rows
        ],
        model_transaction_policy=pb.ModelTransactionPolicy(decoupled=False),
        response_cache=pb.ModelResponseCache(enable=settings.response_cache.enabled),
    )
    if settings.batching.enabled:
        message.dynamic_batching.CopyFrom(_dynamic_batching(settings))
    for key, value in _parameters(version, labels).items():
        message.parameters[key].string_value = value
    return message


def statistics_message(version: ModelVersion) -> pb.ModelStatistics:
    """What the version has done, with the size of its file as the memory that is known to be taken on each device."""
    kind = "GPU" if version.session.providers_in_use[0] in ON_GPU else "CPU"
    memory = [pb.MemoryUsage(type=kind, id=device, byte_size=version.size_bytes) for device in version.session.devices]
    return version.statistics.message(version.model, version.version_text, memory)


def _version_policy(policy: VersionPolicy) -> pb.ModelVersionPolicy:
    if policy.latest is not None:
        return pb.ModelVersionPolicy(latest=pb.ModelVersionPolicy.Latest(num_versions=policy.latest))
    if policy.specific is not None:
        return pb.ModelVersionPolicy(specific=pb.ModelVersionPolicy.Specific(versions=policy.specific))
    return pb.ModelVersionPolicy(all=pb.ModelVersionPolicy.All())


def _optimization(settings: ModelSettings) -> pb.ModelOptimizationPolicy:
    level = GRAPH_LEVELS.get(settings.execution.graph_optimization, 0)
    return pb.ModelOptimizationPolicy(graph=pb.ModelOptimizationPolicy.Graph(level=level))


def _dynamic_batching(settings: ModelSettings) -> pb.ModelDynamicBatching:
    """A batch is formed of what waits, and never waited for: the delay is 0. `preferred_batch_size` is the bound, in rows."""
    return pb.ModelDynamicBatching(
        preferred_batch_size=[min(settings.batching.max_rows, 2**31 - 1)],
        priority_levels=settings.queue.priority_levels,
        default_priority_level=settings.queue.default_priority,
        default_queue_policy=pb.ModelQueuePolicy(
            timeout_action=pb.ModelQueuePolicy.REJECT,
            allow_timeout_override=True,
            max_queue_size=min(settings.queue.max_requests, 2**32 - 1),
        ),
    )


def _warm_up(number: int, warm_up: WarmUp, rows: int) -> pb.ModelWarmup:
    """One per size of batch. What each input is given is named; its shape is the model's where the settings leave it."""
    message = pb.ModelWarmup(name=f"warm_up_{number}_rows_{rows}", batch_size=rows, count=warm_up.runs)
    for name, given in warm_up.inputs.items():
        each = message.inputs[name]
        each.dims.extend(given.shape or ())
        if given.file:
            each.input_data_file = given.file
        elif given.data == "zero":
            each.zero_data = True
        else:
            each.random_data = True
    return message


def _parameters(version: ModelVersion, labels: Mapping[str, int]) -> dict[str, str]:
    """Settings that Triton's form has no field for."""
    settings = version.settings
    parameters = {
        "execution.providers": ",".join(version.session.providers_in_use),
        "intra_op_thread_count": str(settings.execution.intra_op_threads),
        "inter_op_thread_count": str(settings.execution.inter_op_threads),
        "execution.runs_inline": str(version.runs_inline).lower(),
        "queue.max_requests": str(settings.queue.max_requests),
        "queue.priority_levels": str(settings.queue.priority_levels),
        "queue.default_priority": str(settings.queue.default_priority),
        "queue.refuse_late": str(settings.queue.refuse_late).lower(),
    }
    if settings.batching.enabled:
        parameters["batching.max_bytes"] = str(settings.batching.max_bytes)
    if settings.response_cache.enabled:
        parameters["response_cache.max_bytes"] = str(settings.response_cache.max_bytes)
    return parameters | {f"label.{label}": str(number) for label, number in labels.items()}


def _data_type(spec: TensorSpec) -> pb.DataType:
    return pb.DataType.Value(  # type: ignore[return-value]  # an int at run time, whatever the stub says
        "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
    )

"""What a model version says of itself: OIP metadata, and configuration in Triton's form."""

from __future__ import annotations

from infermesh.protocol import open_inference_pb2 as pb
from services.predictor.model_version import ModelVersion

__all__ = ["config_message", "metadata_message"]

PLATFORM = "onnxruntime_onnx"


def metadata_message(version: ModelVersion, versions: list[str]) -> pb.ModelMetadataResponse:
    """Inputs and outputs from the session; the model file's own metadata as properties."""
    tensor = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name=version.model,
        versions=versions,
        platform=PLATFORM,
        inputs=[tensor(name=s.name, datatype=s.datatype, shape=s.shape) for s in version.signature.inputs],
        outputs=[tensor(name=s.name, datatype=s.datatype, shape=s.shape) for s in version.signature.outputs],
        properties=version.session.properties,
    )


def config_message(version: ModelVersion) -> pb.ModelConfig:
    """Whole shapes, so max_batch_size is 0: clients that batch by it must not add a dimension."""
    return pb.ModelConfig(
        name=version.model,
        platform=PLATFORM,
        backend="onnxruntime",
        input=[
            pb.ModelInput(name=s.name, data_type=_data_type(s.datatype), dims=s.shape) for s in version.signature.inputs
        ],
        output=[
            pb.ModelOutput(name=s.name, data_type=_data_type(s.datatype), dims=s.shape)
            for s in version.signature.outputs
        ],
        instance_group=[
            pb.ModelInstanceGroup(count=version.settings.execution.instances, kind=pb.ModelInstanceGroup.KIND_CPU)
        ],
        default_model_filename="model.onnx",
    )


def _data_type(datatype: str) -> pb.DataType:
    return pb.DataType.Value(  # type: ignore[return-value]  # an int at run time, whatever the stub says
        "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
    )

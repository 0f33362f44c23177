"""What a client has to send, from what the model takes."""

from __future__ import annotations

from infermesh.protocol.open_inference_pb2 import ModelMetadataResponse
from services.transformer.plan import JoinPlan

__all__ = ["as_the_client_sees_it", "faults_of"]

TensorMetadata = ModelMetadataResponse.TensorMetadata


def as_the_client_sees_it(metadata: ModelMetadataResponse, plan: JoinPlan) -> ModelMetadataResponse:
    """The model's metadata with the ids first, in the place of what is looked up; renamed inputs under the request's names."""
    of_the_request = {of_the_model: name for name, of_the_model in plan.renamed.items()}
    inputs = [
        TensorMetadata(name=of_the_request.get(tensor.name, tensor.name), datatype=tensor.datatype, shape=tensor.shape)
        for tensor in metadata.inputs
        if tensor.name not in plan.looked_up
    ]
    ids = [TensorMetadata(name=name, datatype=datatype, shape=[-1, 1]) for name, datatype in plan.entities.items()]
    described = ModelMetadataResponse()
    described.CopyFrom(metadata)  # with fields that nobody here knows
    del described.inputs[:]
    described.inputs.extend([*ids, *(tensor for tensor in inputs if tensor.name not in plan.entities)])
    return described


def faults_of(metadata: ModelMetadataResponse, plan: JoinPlan) -> list[str]:
    """In what the feature file and the model disagree: inputs that the model does not have, other datatypes, other widths."""
    model = {tensor.name: tensor for tensor in metadata.inputs}
    faults = [
        f'input "{name}": the model has none of this name'
        for name in [*plan.looked_up, *plan.renamed.values()]
        if name not in model
    ]
    for name, columns in plan.looked_up.items():
        if (tensor := model.get(name)) is None:
            continue
        if tensor.datatype != columns.datatype:
            faults.append(
                f'input "{name}": the model takes {tensor.datatype}, the feature file makes {columns.datatype}'
            )
        shape = tuple(tensor.shape)
        if len(shape) != len(columns.shape) or shape[1:] not in (columns.shape[1:], (-1,)):
            faults.append(
                f'input "{name}": the model takes {list(shape)}, the feature file makes {list(columns.shape)}'
            )
    return faults

"""What a client has to send, from what the model takes."""

from __future__ import annotations

from infermesh.protocol.open_inference_pb2 import ModelMetadataResponse
from services.transformer.after.after_model import AfterModel
from services.transformer.plan import JoinPlan

__all__ = ["as_the_client_sees_it", "faults_of"]

TensorMetadata = ModelMetadataResponse.TensorMetadata


def as_the_client_sees_it(
    metadata: ModelMetadataResponse, plan: JoinPlan, after: AfterModel | None = None
) -> ModelMetadataResponse:
    """The model's metadata with the ids first, in the place of what is looked up, then the fields of which columns are made.

    Renamed inputs have the request's names. The outputs are those after the steps.
    """
    of_the_request = {of_the_model: name for name, of_the_model in plan.renamed.items()}
    inputs = [
        TensorMetadata(name=of_the_request.get(tensor.name, tensor.name), datatype=tensor.datatype, shape=tensor.shape)
        for tensor in metadata.inputs
        if tensor.name not in plan.looked_up
    ]
    ids = [TensorMetadata(name=name, datatype=datatype, shape=[-1, 1]) for name, datatype in plan.entities.items()]
    described = ModelMetadataResponse()
    described.CopyFrom(metadata)  # with fields that nobody here knows
    fields = [
        TensorMetadata(name=name, datatype=of.datatype, shape=[-1, of.type.width]) for name, of in plan.fields.items()
    ]
    del described.inputs[:]
    taken = plan.entities.keys() | plan.fields.keys()
    described.inputs.extend([*ids, *fields, *(tensor for tensor in inputs if tensor.name not in taken)])
    if after is not None:
        del described.outputs[:]
        described.outputs.extend(after.described(metadata))
    return described


def faults_of(metadata: ModelMetadataResponse, plan: JoinPlan, after: AfterModel | None = None) -> list[str]:
    """In what the feature file and the model disagree: inputs that the model does not have, other datatypes, other widths; and
    outputs that do not fit the steps after it."""
    model = {tensor.name: tensor for tensor in metadata.inputs}
    faults = [
        f'input "{name}": the model has none of this name'
        for name in [*plan.looked_up, *plan.renamed.values()]
        if name not in model
    ]
    for name, columns in plan.looked_up.items():
        if (tensor := model.get(name)) is not None:
            faults += _differences(tensor, columns.datatype, list(columns.shape), "makes")
    for name, of in plan.fields.items():
        passed = model.get(plan.renamed.get(name, ""))
        if passed is not None and passed.datatype != of.datatype:
            faults += _differences(passed, of.datatype, list(passed.shape), f'takes "{name}" as')
    return faults if after is None else [*faults, *after.faults(metadata)]


def _differences(tensor: TensorMetadata, datatype: str, shape: list[int], does: str) -> list[str]:
    takes = list(tensor.shape)
    faults = []
    if tensor.datatype != datatype:
        faults.append(f'input "{tensor.name}": the model takes {tensor.datatype}, the feature file {does} {datatype}')
    if len(takes) != len(shape) or any(a not in (b, -1) for a, b in zip(takes[1:], shape[1:], strict=True)):
        faults.append(f'input "{tensor.name}": the model takes {takes}, the feature file {does} {shape}')
    return faults

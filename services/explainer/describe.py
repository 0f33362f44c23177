"""What the explainer says of itself: OIP metadata, and configuration in Triton's form."""

from __future__ import annotations

import json

from infermesh.errors import InvalidRequest, MeshError
from infermesh.names import EXPLAINER_SUFFIX
from infermesh.protocol import open_inference_pb2 as pb
from services.explainer.answer import NAMED_ONLY, OUTPUTS, OutputSpec
from services.explainer.backgrounds import Backgrounds
from services.explainer.groups import GROUPS, grouped
from services.explainer.link import LINKS
from services.explainer.parameters import METHODS
from services.explainer.players import Players
from services.explainer.reasons import REASONS
from services.explainer.signature import CLASSES, COLUMNS, Signature

__all__ = ["config_message", "index_message", "metadata_message"]

PLATFORM = "infermesh_explainer"


def metadata_message(signature: Signature, backgrounds: Backgrounds, most_features: int) -> pb.ModelMetadataResponse:
    """The model's inputs, the explainer's outputs, and as properties what a request may choose from.

    The number of classes is -1: the parameters `output` and `classes` change it; that of features is without parameter
    `groups`. A model that can't be explained is described with the reason.
    """
    tensor = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name=signature.model + EXPLAINER_SUFFIX,
        versions=signature.versions,
        platform=PLATFORM,
        inputs=[tensor(name=s.name, datatype=s.datatype, shape=s.shape) for s in signature.inputs],
        outputs=[tensor(name=s.name, datatype=s.datatype, shape=_shape(s, signature, most_features)) for s in OUTPUTS],
        properties=_properties(signature, backgrounds, most_features),
    )


def config_message(config: pb.ModelConfig, signature: Signature, most_features: int) -> pb.ModelConfig:
    """The model's configuration with the explainer's name and outputs; whole shapes, so there is no batch dimension to add."""
    return pb.ModelConfig(
        name=signature.model + EXPLAINER_SUFFIX,
        platform=PLATFORM,
        backend="infermesh",
        input=[
            pb.ModelInput(name=one.name, data_type=one.data_type, dims=spec.shape)
            for one in config.input
            for spec in signature.inputs
            if spec.name == one.name
        ],
        output=[
            pb.ModelOutput(
                name=s.name,
                data_type=pb.TYPE_STRING if s.datatype == "BYTES" else pb.TYPE_FP64,
                dims=_shape(s, signature, most_features),
            )
            for s in OUTPUTS
        ],
    )


def index_message(index: pb.RepositoryIndexResponse) -> pb.RepositoryIndexResponse:
    """The explainers of the models in an index."""
    return pb.RepositoryIndexResponse(
        models=[
            pb.RepositoryIndexResponse.ModelIndex(
                name=one.name + EXPLAINER_SUFFIX, version=one.version, state=one.state, reason=one.reason
            )
            for one in index.models
        ]
    )


def _has_fixed_width(signature: Signature) -> bool:
    """Whether the model, and not the request, says how many features there are."""
    return all(spec.width >= 0 for spec in signature.inputs)


def _players(signature: Signature, most_features: int) -> Players:
    """Those of a request that names no groups. Raises FailedPrecondition for too many features."""
    features = Players.of(signature, {spec.name: spec.shape[1:] for spec in signature.inputs}, most_features)
    return grouped(features, "", signature, InvalidRequest)


def _shape(output: OutputSpec, signature: Signature, most_features: int) -> list[int]:
    features = sum(spec.width for spec in signature.inputs) if _has_fixed_width(signature) else -1
    if GROUPS in signature.properties and 1 <= features <= most_features:
        features = len(_players(signature, most_features))
    size = {"N": -1, "M": features, "K": -1}
    return [size[letter] for letter in output.shape]


def _properties(signature: Signature, backgrounds: Backgrounds, most_features: int) -> dict[str, str]:
    passed = {
        key: value
        for key, value in signature.properties.items()
        if key in (CLASSES, GROUPS, REASONS) or key.startswith(COLUMNS)
    }
    told = {
        **passed,
        "infermesh.model": signature.model,
        "infermesh.methods": json.dumps(METHODS),
        "infermesh.links": json.dumps(LINKS),
        "infermesh.outputs.named": json.dumps([each.name for each in NAMED_ONLY]),
        "infermesh.backgrounds": json.dumps(backgrounds.names(signature.model)),
        "infermesh.backgrounds.sets": json.dumps(backgrounds.described(signature.model)),
    }
    try:
        signature.check_rows()
        told["infermesh.output"] = signature.output().name
        if not _has_fixed_width(signature):
            told["infermesh.background"] = backgrounds.default(signature.model)
        else:
            row_shapes = {spec.name: spec.shape[1:] for spec in signature.inputs}
            told["infermesh.features"] = json.dumps(_players(signature, most_features).names)
            background = backgrounds.find(signature, row_shapes)
            told["infermesh.background"] = background.name
            told["infermesh.background.rows"] = str(len(background))
    except MeshError as error:
        told["infermesh.refused"] = error.message
    return told

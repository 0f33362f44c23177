"""MD: metadata that is true to what infer accepts, versions, configuration and statistics."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from conformance_cases import BACKENDS, Subject, case, named
from conformance_models import MODELS, Tensor
from conformance_wire import Client, Value, answer, bytes_raw, infer, size_of

from infermesh.protocol import open_inference_pb2 as pb

ROWS = 2

# datatype of OIP → of Triton's configuration, for the outputs that an explainer may have
CONFIG_TYPES = {"FP32": pb.TYPE_FP32, "FP64": pb.TYPE_FP64, "INT64": pb.TYPE_INT64, "BYTES": pb.TYPE_STRING}


@case("MD-tensors", each={"model": MODELS}, hops=BACKENDS)
def test_metadata_tells_the_tensors_of_the_model(client: Client, model: str) -> None:
    """ModelMetadata gives every input and output with name, datatype and shape, -1 for a dimension of any size."""
    metadata = client.call("ModelMetadata", pb.ModelMetadataRequest(name=model))

    assert metadata.name == model
    assert metadata.platform
    assert _tensors(metadata.inputs) == MODELS[model].inputs
    assert _tensors(metadata.outputs) == MODELS[model].outputs


@case("MD-accepts", each={"model": MODELS}, hops=BACKENDS)
def test_infer_accepts_what_metadata_tells(client: Client, model: str) -> None:
    """A request that is made from the metadata alone is served, and its outputs are those of the metadata."""
    _check_true_to_infer(client, model)


@case("MD-subject")
def test_infer_accepts_what_metadata_of_the_subject_tells(client: Client, subject: Subject) -> None:
    """A request that is made from the metadata alone is served by every hop, the explainer too."""
    _check_true_to_infer(client, subject.model)


@case("MD-versions")
def test_metadata_lists_the_versions(client: Client) -> None:
    """ModelMetadata lists the versions that may be asked for, with or without a version in the request."""
    model = named(client, "conf-versions")
    of_any = client.call("ModelMetadata", pb.ModelMetadataRequest(name=model))
    of_one = client.call("ModelMetadata", pb.ModelMetadataRequest(name=model, version="2"))

    assert sorted(of_any.versions) == ["1", "10", "2"]
    assert of_one.name == model
    assert "2" in of_one.versions


@case("MD-subject-versions")
def test_every_version_that_metadata_lists_answers(client: Client, subject: Subject) -> None:
    """A version that ModelMetadata lists is ready, and answers under its own number."""
    versions = client.call("ModelMetadata", pb.ModelMetadataRequest(name=subject.model)).versions

    assert versions
    for version in versions:
        assert client.call("ModelReady", pb.ModelReadyRequest(name=subject.model, version=version)).ready
        assert client.infer(subject.request(version=version)).model_version == version


@case("MD-config")
def test_config_tells_the_tensors_of_the_model(client: Client) -> None:
    """ModelConfig gives the inputs and outputs of a model with their types."""
    model = named(client, "conf-mixed")
    config = client.call("ModelConfig", pb.ModelConfigRequest(name=model)).config

    assert config.name == model
    assert {one.name: one.data_type for one in config.input} == {
        "number": pb.TYPE_FP32,
        "count": pb.TYPE_INT64,
        "text": pb.TYPE_STRING,
    }
    outputs = {one.name: one.data_type for one in config.output}
    if model != "conf-mixed":  # an explainer's own outputs, which only the metadata knows
        told = client.call("ModelMetadata", pb.ModelMetadataRequest(name=model)).outputs
        assert outputs == {one.name: CONFIG_TYPES[one.datatype] for one in told}
        return
    assert outputs == {
        "number_out": pb.TYPE_FP32,
        "count_out": pb.TYPE_INT64,
        "text_out": pb.TYPE_STRING,
        "half_out": pb.TYPE_FP16,
    }


@case("MD-config-dims")
def test_config_and_metadata_agree_on_shapes(client: Client) -> None:
    """The dims of ModelConfig are the shape of ModelMetadata, less the first dimension if there is a max_batch_size."""
    model = named(client, "conf-sum")
    config = client.call("ModelConfig", pb.ModelConfigRequest(name=model)).config
    metadata = client.call("ModelMetadata", pb.ModelMetadataRequest(name=model))

    left_out = 1 if config.max_batch_size else 0
    assert [tuple(one.dims) for one in config.input] == [(-1, 4)[left_out:]] * 2
    assert [list(one.dims) for one in config.output] == [one.shape[left_out:] for one in metadata.outputs]
    assert metadata.outputs


@case("MD-statistics")
def test_statistics_count_the_calls(client: Client, subject: Subject) -> None:
    """ModelStatistics counts, for a model and version, the calls that succeeded and the rows that they had."""
    before = _statistics(client, subject.model)
    for _ in range(3):
        client.infer(subject.request(rows=2))
    after = _statistics(client, subject.model)

    assert (after.name, after.version) == (subject.model, "1")
    assert after.inference_stats.success.count - before.inference_stats.success.count == 3
    assert after.inference_count - before.inference_count >= 6
    assert after.execution_count > before.execution_count
    assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns


@case("MD-statistics-all")
def test_statistics_without_a_name_cover_every_model(client: Client) -> None:
    """ModelStatistics without a name covers every model that is loaded, each version on its own."""
    statistics = client.call("ModelStatistics", pb.ModelStatisticsRequest()).model_stats

    loaded = {(named(client, name), str(version)) for name, model in MODELS.items() for version in model.versions}
    assert loaded <= {(one.name, one.version) for one in statistics}


def _statistics(client: Client, model: str) -> pb.ModelStatistics:
    (one,) = client.call("ModelStatistics", pb.ModelStatisticsRequest(name=model, version="1")).model_stats
    return one


def _check_true_to_infer(client: Client, model: str) -> None:
    metadata = client.call("ModelMetadata", pb.ModelMetadataRequest(name=model))

    response = client.infer(infer(model, *(_zeros(one) for one in _tensors(metadata.inputs))))

    outputs = answer(response)
    assert [(one.name, one.datatype) for one in metadata.outputs] == [
        (one.name, one.datatype) for one in outputs.values()
    ]
    for told, came in zip(_tensors(metadata.outputs), outputs.values(), strict=True):
        assert len(told.shape) == len(came.shape), told
        assert all(size in (-1, got) for size, got in zip(told.shape, came.shape, strict=True)), (told, came.shape)


def _zeros(one: Tensor) -> Value:
    shape = tuple(ROWS if size == -1 else size for size in one.shape)
    elements = int(np.prod(shape))
    if one.datatype == "BYTES":
        return Value(one.name, one.datatype, shape, bytes_raw([b"text"] * elements))
    return Value(one.name, one.datatype, shape, bytes(elements * size_of(one.datatype)))


def _tensors(told: Iterable[pb.ModelMetadataResponse.TensorMetadata]) -> tuple[Tensor, ...]:
    return tuple(Tensor(one.name, one.datatype, tuple(one.shape)) for one in told)

"""What a model version says of itself, in Triton's form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from infermesh.call import Call
from infermesh.protocol import open_inference_pb2 as pb


async def config_of(predictor: Any, name: str = "m") -> pb.ModelConfig:
    return (await predictor.config(pb.ModelConfigRequest(name=name), Call())).config


async def test_by_default_there_is_nothing_of_batches(serve: Any, put: Any, models: Any) -> None:
    """All versions, one instance on the CPU, no batching, no cache, whole shapes; the queue is told as parameters."""
    put("m", 1, models.add(1))

    config = await config_of(await serve())

    assert config.version_policy.WhichOneof("policy_choice") == "all"
    assert not config.HasField("dynamic_batching")
    assert not config.response_cache.enable
    assert config.max_batch_size == 0
    assert (config.instance_group[0].kind, list(config.instance_group[0].gpus)) == (
        pb.ModelInstanceGroup.KIND_CPU,
        [],
    )
    assert config.optimization.graph.level == 0
    assert not config.model_transaction_policy.decoupled
    assert config.parameters["queue.max_requests"].string_value == "4096"
    assert config.parameters["execution.providers"].string_value == "cpu"


async def test_the_settings_of_the_engine_are_told_in_tritons_words(serve: Any, put: Any, models: Any) -> None:
    """Batching with the queue's bound and levels, graph level, cache, warm-up by size of batch, version policy and labels."""
    folder = put("m", 3, models.add(1))
    (folder.parent / "config.yaml").write_text(
        "versions: {latest: 2}\n"
        "labels: {stable: 3}\n"
        "batching: {enabled: true, max_rows: 16}\n"
        "queue: {max_requests: 100, priority_levels: 5, default_priority: 4}\n"
        "response_cache: {enabled: true, max_bytes: 1MiB}\n"
        "execution: {graph_optimization: extended}\n"
        "warm_up: [{rows: [1, 16], runs: 2, inputs: {x: {data: zero}}}]\n"
    )

    config = await config_of(await serve(inline_below="0s"))

    batching = config.dynamic_batching
    assert config.version_policy.latest.num_versions == 2
    assert (list(batching.preferred_batch_size), batching.max_queue_delay_microseconds) == ([16], 0)
    assert (batching.priority_levels, batching.default_priority_level) == (5, 4)
    assert batching.default_queue_policy.max_queue_size == 100
    assert batching.default_queue_policy.allow_timeout_override
    assert config.optimization.graph.level == 1
    assert config.response_cache.enable
    assert config.parameters["response_cache.max_bytes"].string_value == str(2**20)
    assert config.parameters["label.stable"].string_value == "3"
    assert [(w.batch_size, w.count, w.inputs["x"].zero_data) for w in config.model_warmup] == [
        (1, 2, True),
        (16, 2, True),
    ]


async def test_inputs_that_may_be_left_out_are_told(serve: Any, put: Any, models: Any) -> None:
    """In the configuration as `optional`, in the metadata, which has no word for it, as a property."""
    vector = (TensorProto.FLOAT, ["rows"])
    put("m", 1, weights_with_a_default(models, vector))
    predictor = await serve()

    config = await config_of(predictor)
    told = await predictor.metadata(pb.ModelMetadataRequest(name="m"), Call())

    assert {i.name: i.optional for i in config.input} == {"x": False, "n": True}
    assert told.properties["infermesh_optional_inputs"] == "n"


def weights_with_a_default(models: Any, vector: Any) -> bytes:
    node = helper.make_node("Add", ["x", "n"], ["y"])
    return bytes(
        models.model([node], {"x": vector, "n": (TensorProto.FLOAT, [])}, {"y": vector}, n=np.array(2, np.float32))
    )


async def test_statistics_tell_the_memory_that_is_known(serve: Any, put: Any, models: Any) -> None:
    """The size of the model's file, on the device where it is loaded."""
    put("m", 1, models.add(1))
    predictor = await serve()

    answer = await predictor.statistics(pb.ModelStatisticsRequest(name="m"), Call())

    (usage,) = answer.model_stats[0].memory_usage
    assert (usage.type, usage.id, usage.byte_size) == ("CPU", 0, len(models.add(1)))


async def test_a_policy_that_changed_without_a_load_is_told(serve: Any, put: Any, models: Any, tmp_path: Path) -> None:
    """Which versions are loaded is a setting of the model: versions that stay loaded do not keep the old one."""
    for version in (1, 2):
        put("m", version, models.add(1))
    predictor = await serve()
    kept = predictor.repository.resolve("m", "2")

    (tmp_path / "m/config.yaml").write_text("versions: {specific: [2]}")
    await predictor.repository.refresh("m")

    assert predictor.repository.resolve("m", "") is kept
    assert list((await config_of(predictor)).version_policy.specific.versions) == [2]

"""`infermesh models show`: what a model takes and gives, how it is served, and what it has done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich import box
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from infermesh.cli.asking import DEFAULT_TARGET, Key, Target, Timeout, asked
from infermesh.cli.console import out
from infermesh.config.types import duration_text
from infermesh.errors import Unimplemented
from infermesh.protocol import open_inference_pb2 as pb

__all__ = ["show_model"]

LABEL = "label."  # parameters of ModelConfig that begin so: the label, and the version that it stands for

SAID = ("queue.max_requests", "queue.priority_levels")  # parameters that stand in the rows of their own
STAGES = ("queue", "compute_input", "compute_infer", "compute_output")


def show_model(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    version: Annotated[
        str, typer.Option("--version", metavar="VERSION", help="Number or label; left out: the newest.")
    ] = "",
    target: Target = DEFAULT_TARGET,
    key: Key = "",
    timeout: Timeout = 30.0,
) -> None:
    """Show a model: its inputs and outputs, how it is served, and what its versions have done."""
    with asked(target, key, timeout) as caller:
        metadata = caller.metadata(model, version)
        try:
            config = caller.config(model, version)
            statistics = caller.statistics(model, version)
        except Unimplemented:  # a server that is no infermesh may have neither
            config, statistics = pb.ModelConfig(), []
    out.print(Text(metadata.name, "bold"))
    served = [("versions", ", ".join(metadata.versions)), ("labels", _labels(config)), ("platform", metadata.platform)]
    out.print(Padding(_facts([*served, *_served(config)]), (0, 0, 0, 2)))
    if metadata.properties:
        out.print(Text("\nproperties", "bold"))
        out.print(Padding(_facts(sorted(metadata.properties.items())), (0, 0, 1, 2)))
    for title, table in (
        ("inputs", _tensors(metadata.inputs, {each.name for each in config.input if each.optional})),
        ("outputs", _tensors(metadata.outputs, set())),
        ("statistics", _counts(statistics)),
        ("batches", _batches(statistics)),
    ):
        if table.row_count:
            out.print(Text(title, "bold"))
            out.print(Padding(table, (0, 0, 0, 2)))


def _facts(rows: Sequence[tuple[str, str]]) -> RenderableType:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in rows:
        if value:
            facts.add_row(Text(name), Text(value))
    return facts


def _served(config: pb.ModelConfig) -> Iterator[tuple[str, str]]:
    """The parts of the configuration that say something, in words."""
    if config.HasField("version_policy"):
        policy = config.version_policy
        match policy.WhichOneof("policy_choice"):
            case "latest":
                yield "version policy", f"the newest {policy.latest.num_versions}"
            case "specific":
                yield "version policy", f"versions {', '.join(map(str, policy.specific.versions))}"
            case _:
                yield "version policy", "all"
    groups = []
    for group in config.instance_group:
        kind = pb.ModelInstanceGroup.Kind.Name(group.kind).removeprefix("KIND_")
        devices = f" on {', '.join(map(str, group.gpus))}" if group.gpus else ""
        groups.append(f"{group.count} × {kind}{devices}")
    yield "instances", ", ".join(groups)
    if config.HasField("dynamic_batching"):
        batching = config.dynamic_batching
        sizes = f"up to {max(batching.preferred_batch_size)} rows" if batching.preferred_batch_size else "on"
        yield "batching", sizes
        queue = batching.default_queue_policy.max_queue_size
        levels = f", {batching.priority_levels} priority levels" if batching.priority_levels else ""
        yield "queue", f"up to {queue} requests{levels}" if queue else levels.removeprefix(", ")
    elif config.name:
        yield "batching", "off"
    if config.HasField("response_cache"):
        yield "response cache", "on" if config.response_cache.enable else "off"
    yield "warm-up", ", ".join(f"{each.batch_size} rows × {each.count or 1}" for each in config.model_warmup)
    for name, parameter in sorted(config.parameters.items()):
        if not name.startswith(LABEL) and name not in SAID:
            yield name, parameter.string_value


def _labels(config: pb.ModelConfig) -> str:
    labels = {
        name.removeprefix(LABEL): p.string_value for name, p in config.parameters.items() if name.startswith(LABEL)
    }
    return ", ".join(f"{label} → {version}" for label, version in sorted(labels.items()))


def _tensors(tensors: Sequence[pb.ModelMetadataResponse.TensorMetadata], optional: set[str]) -> Table:
    table = _table("name", "datatype", "shape")
    for tensor in tensors:
        shape = f"[{', '.join('?' if size < 0 else str(size) for size in tensor.shape)}]"
        table.add_row(
            Text(tensor.name), tensor.datatype, Text(shape + (" optional" if tensor.name in optional else ""))
        )
    return table


def _counts(statistics: Sequence[pb.ModelStatistics]) -> Table:
    numbers = ("requests", "failed", "rows", "runs", "queue", "read", "compute", "write")
    hits = any(each.inference_stats.cache_hit.count for each in statistics)
    table = _table("version", *numbers, *(["cache hits"] if hits else []), "last call", right=(*numbers, "cache hits"))
    for each in statistics:
        totals = each.inference_stats
        table.add_row(
            each.version,
            f"{totals.success.count + totals.fail.count:,}",
            f"{totals.fail.count:,}",
            f"{each.inference_count:,}",
            f"{each.execution_count:,}",
            *(_average(getattr(totals, stage)) for stage in STAGES),
            *([f"{totals.cache_hit.count:,}"] if hits else []),
            _moment(each.last_inference),
        )
    return table


def _batches(statistics: Sequence[pb.ModelStatistics]) -> Table:
    table = _table("version", "rows in a run", "runs", "compute", right=("rows in a run", "runs", "compute"))
    for each in statistics:
        for batch in sorted(each.batch_stats, key=lambda batch: batch.batch_size):
            runs = batch.compute_infer
            table.add_row(each.version, f"{batch.batch_size:,}", f"{runs.count:,}", _average(runs))
    return table


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=column in right)
    return table


def _average(duration: pb.StatisticDuration) -> str:
    """The average of a sum of nanoseconds, in three digits."""
    if not duration.count:
        return "–"
    seconds = duration.ns / duration.count / 1e9
    if not seconds:
        return "0"
    for unit, factor in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def _moment(milliseconds: int) -> str:
    if not milliseconds:
        return "never"
    ago = max(0.0, datetime.now(UTC).timestamp() - milliseconds / 1000)
    return "now" if ago < 1 else f"{duration_text(float(int(ago) if ago < 120 else 60 * (ago // 60)))} ago"

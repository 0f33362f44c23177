"""What the comparison of shadows costs in `gateway_cost`, and whether all of it was done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks.gateways import CALL_S, Did
from benchmarks.pairs import Contender
from benchmarks.processes import cpu_s
from infermesh.protocol import shadow_reports_pb2 as pb
from infermesh.protocol.shadow_reports_pb2_grpc import ShadowReportsStub

__all__ = ["MODULE", "Cost", "costs", "not_compared", "taken"]

MODULE = "services.gateway.compare"
MOST_SKIPPED = 0.01  # of the copies that were answered: of a call whose caller went nothing is compared


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time of a gateway's process and of its comparing one, since they began."""

    gateway_s: float
    worker_s: float

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.gateway_s - other.gateway_s, self.worker_s - other.worker_s)

    def told(self, calls: int, pairs: int) -> str:
        """What a call and a pair cost; what the processes did between the rounds is in it."""
        return (
            f"the gateway's process alone {self.gateway_s / calls * 1e6:.0f} µs per call; the comparing process "
            f"{self.worker_s / pairs * 1e6:.0f} µs per pair, {self.worker_s / calls * 1e6:.1f} µs per call"
        )


def costs(contender: Contender) -> Cost:
    """Read both. Raises RuntimeError when no process compares."""
    workers = [child for pid in contender.pids for child in _children(pid) if MODULE in _arguments(child)]
    if not workers:
        raise RuntimeError(f"{contender.name}: no process of {MODULE} is there")
    worker_s = cpu_s(workers)
    return Cost(cpu_s(contender.pids) - worker_s, worker_s)


def taken(contender: Contender) -> int:
    """Pairs and repeats that the comparing process has counted, after all that it was handed before."""
    metadata = (("x-api-key", contender.key),)
    with grpc.insecure_channel(contender.target) as channel:
        response = ShadowReportsStub(channel).Report(pb.ReportRequest(), timeout=CALL_S, metadata=metadata)
    return sum(each.pairs + each.repeats for each in response.reports)


def not_compared(did: Did, counted: int) -> list[str]:
    """What is wrong with the comparison; nothing when nearly every copy was compared, and each pair handed over was counted."""
    faults = [f"{did.pairs[outcome]} pairs were {outcome}" for outcome in ("dropped", "lost") if did.pairs[outcome]]
    copies = did.copies["mirrored"]
    if did.pairs["compared"] < (1 - MOST_SKIPPED) * copies or not copies:
        faults.append(f"of {copies} copies that were answered {did.pairs['compared']} were compared")
    handed = did.pairs["compared"] + did.pairs["repeated"]
    if counted != handed:
        faults.append(f"{handed} pairs were handed over, and {counted} counted")
    return faults


def _children(pid: int) -> list[int]:
    return [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]


def _arguments(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")

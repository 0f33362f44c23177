"""How often a caller may call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from infermesh.call import Call
from infermesh.errors import MeshError, ResourceExhausted, quoted
from infermesh.service import Filter
from services.gateway.gcra import Gcra, Limit

__all__ = ["RateLimit"]


@dataclass(kw_only=True)
class RateLimit(Filter):
    """Refuses calls past the caller's rate with RESOURCE_EXHAUSTED and the time to come back.

    Every RPC counts as one call, each message of a stream too. The limit is this replica's alone. Without authentication a
    caller is the host that it calls from.
    """

    default: Limit
    callers: Mapping[str, Limit] = field(default_factory=dict)  # those who have one of their own
    enforce: bool = True
    observe: Callable[[str], None]  # the name of a caller who is past its rate; empty: not known by name
    tell: Callable[[str, str, Call, MeshError], None] = lambda rpc, model, call, error: None  # for the log
    limits: Gcra = field(default_factory=Gcra)

    async def admit(self, rpc: str, model: str, version: str, call: Call) -> None:
        name = call.caller.name
        wait_s = self.limits.take(name or _host(call.peer), self.callers.get(name, self.default))
        if wait_s:
            self.observe(name)
            if self.enforce:
                refusal = ResourceExhausted(
                    f"{rpc}: the caller {quoted(name)} is past its rate; come back in {wait_s:.3f} s",
                    reason="RATE_LIMITED",
                    rejected=True,
                    retry_after_s=wait_s,
                )
                self.tell(rpc, model, call, refusal)
                raise refusal

    def __repr__(self) -> str:
        return f"RateLimit({1e9 / self.default.interval_ns:g}/s{'' if self.enforce else ', observe'})"


def _host(peer: str) -> str:
    """`ipv4:10.0.0.7` of `ipv4:10.0.0.7:51234`; the colons keep it apart from the names of callers in most cases, and no harm
    is done in the others: it only shares a limit."""
    return peer.rpartition(":")[0] or "anonymous"

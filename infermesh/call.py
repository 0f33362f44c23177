"""What travels beside a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from infermesh.deadline import NO_DEADLINE, Deadline
from infermesh.journal import Journal

__all__ = ["ANONYMOUS", "Call", "Caller"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a name for the log, a tenant for limits and routing, and what it may do.

    `models` are exact names or prefixes that end in `*`; None: all. The right to use a model covers its explainer.
    """

    name: str = ""
    tenant: str = ""
    scopes: frozenset[str] = frozenset()
    models: tuple[str, ...] | None = None


ANONYMOUS = Caller()


@dataclass(slots=True)
class Call:
    """Everything about one RPC that is not in its message; an explicit argument everywhere, there are no context variables.

    `metadata` is what the caller sent, keys in lower case, the first value of each key. What hops tell each other is parsed
    into fields of its own: `request_id`, `trace` (W3C traceparent, tracestate and baggage), `variant`, `shadow`, `attempt`.
    `identities` are the names in the certificate of whoever is on the other side of the connection: `uri:…`, `dns:…`, `cn:…`.
    `tried` are the addresses where earlier attempts failed, which are asked last.
    `gateways` is how many of them it has come through, so that one that goes in circles can be refused.
    `trailing` is what filters tell the caller beside the answer: keys in lower case, values in printable ASCII. None: nobody is
    told, here or on other hops. The outermost filter that wants a key runs first and has it: look before you write.
    `journal` is what an audit is told of the call; None: there is none. A shadow copy has none either: it is nobody's call.
    `caller` is filled by the service's authentication, which takes what the caller may not wish for out of `metadata`; everything
    else changes only in a copy made by `derive`.
    """

    deadline: Deadline = NO_DEADLINE
    caller: Caller = ANONYMOUS
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold credentials
    request_id: str = ""
    trace: Mapping[str, str] = field(default_factory=dict)
    variant: str = ""
    shadow: bool = False
    attempt: int = 1
    peer: str = ""
    identities: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    gateways: int = 0
    trailing: dict[str, str] | None = field(default=None, repr=False)
    journal: Journal | None = field(default=None, repr=False)

    def derive(
        self,
        *,
        deadline: Deadline | None = None,
        trace: Mapping[str, str] | None = None,
        variant: str | None = None,
        shadow: bool | None = None,
        attempt: int | None = None,
        caller: Caller | None = None,
        request_id: str | None = None,
        tried: tuple[str, ...] | None = None,
    ) -> Call:
        """A copy with some fields changed. Written out, because `dataclasses.replace` costs three times as much per call."""
        return Call(
            self.deadline if deadline is None else deadline,
            self.caller if caller is None else caller,
            self.metadata,
            self.request_id if request_id is None else request_id,
            self.trace if trace is None else trace,
            self.variant if variant is None else variant,
            self.shadow if shadow is None else shadow,
            self.attempt if attempt is None else attempt,
            self.peer,
            self.identities,
            self.tried if tried is None else tried,
            self.gateways,
            None if shadow else self.trailing,  # nobody reads what is told beside a copy's answer
            None if shadow else self.journal,
        )

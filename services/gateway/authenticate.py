"""Who calls, and whether they may."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from infermesh.call import Call, Caller
from infermesh.errors import MeshError, PermissionDenied, Unauthenticated, Unavailable, quoted
from infermesh.service import Filter
from services.gateway.identity import presented
from services.gateway.jwt_tokens import Tokens
from services.gateway.key_ring import KeyRing
from services.gateway.permission import may_use, scope_for

__all__ = ["DEBUG_HEADER", "VARIANT_HEADER", "Authenticate"]

# The keys of the mesh that a caller may send, with the scope `variant`: a wish for a variant, and for word of how it was chosen.
VARIANT_HEADER = "x-infermesh-variant"
DEBUG_HEADER = "x-infermesh-debug"
_WISHES = (VARIANT_HEADER, DEBUG_HEADER)


@dataclass(kw_only=True)
class Authenticate(Filter):
    """Finds the caller by its API key, token or certificate and refuses what it may not do; `call.caller` is set here and
    nowhere else. Which of several counts, `presented` says.

    Every RPC that is admitted at all needs a credential. UNAUTHENTICATED: none, or one that is not known, not good or expired.
    UNAVAILABLE: a token, while the keys to verify it could not be fetched yet.
    PERMISSION_DENIED: a scope is missing, or the model is none of the caller's, in the same words whether it exists or not.
    A wish for a variant without the scope for it is dropped like every other key of the mesh that a caller sends: the call is
    then one without it. With `enforce` off nothing is refused or dropped, but it is observed, and callers who are known are
    still named.
    """

    keys: KeyRing
    tokens: Tokens | None = None  # None: no tokens are taken
    enforce: bool = True
    observe: Callable[[str], None]  # the reason of a refusal
    observe_dropped: Callable[[], None]  # a wish for a variant
    tell: Callable[[str, str, Call, MeshError], None] = lambda rpc, model, call, error: (
        None
    )  # rpc, model, call, error: for the log

    async def admit(self, rpc: str, model: str, version: str, call: Call) -> None:
        try:
            kind, credential = presented(call.metadata, tokens=self.tokens is not None)
            if kind == "token" and self.tokens is not None:
                caller = await self.tokens.caller_of(credential, call)
            elif kind == "nothing" and call.identities:
                caller = self.keys.caller_of_certificate(call.identities)
            else:
                caller = self.keys.caller_of(credential)
            call.caller = caller
            _check(caller, rpc, model)
        except (Unauthenticated, PermissionDenied, Unavailable) as refusal:
            self.observe(refusal.reason)
            if self.enforce:
                self.tell(rpc, model, call, refusal)
                raise
            return
        metadata = call.metadata
        if (VARIANT_HEADER in metadata or DEBUG_HEADER in metadata) and "variant" not in caller.scopes:
            self.observe_dropped()
            if self.enforce:
                call.metadata = {key: value for key, value in metadata.items() if key not in _WISHES}

    def __repr__(self) -> str:
        return "Authenticate" if self.enforce else "Authenticate(observe)"


def _check(caller: Caller, rpc: str, model: str) -> None:
    scope = scope_for(rpc, model)
    if scope and scope not in caller.scopes:
        raise PermissionDenied(
            f"{rpc}: the caller {quoted(caller.name)} needs the scope {scope}", reason="SCOPE_MISSING"
        )
    if model and not may_use(caller, model):
        raise PermissionDenied(
            f"model {quoted(model)}: the caller {quoted(caller.name)} may not use it", reason="MODEL_FORBIDDEN"
        )

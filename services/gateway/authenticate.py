"""Who calls, and whether they may."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from infermesh.call import Call, Caller
from infermesh.errors import MeshError, PermissionDenied, Unauthenticated, quoted
from infermesh.service import Filter
from services.gateway.key_ring import KeyRing
from services.gateway.permission import may_use, scope_for

__all__ = ["VARIANT_HEADER", "Authenticate"]

API_KEY = "x-api-key"
AUTHORIZATION = "authorization"
BEARER = "bearer "
VARIANT_HEADER = "x-infermesh-variant"  # the one key of the mesh that a caller may send, with the scope `variant`


@dataclass(kw_only=True)
class Authenticate(Filter):
    """Finds the caller by its API key and refuses what it may not do; `call.caller` is set here and nowhere else.

    Every RPC that is admitted at all needs a key. UNAUTHENTICATED: no key, or one that is not known or has expired.
    PERMISSION_DENIED: a scope is missing, or the model is none of the caller's, in the same words whether it exists or not.
    A wish for a variant without the scope for it is dropped like every other key of the mesh that a caller sends: the call is
    then one without it. With `enforce` off nothing is refused or dropped, but it is observed, and callers who are known are
    still named.
    """

    keys: KeyRing
    enforce: bool = True
    observe: Callable[[str], None]  # the reason of a refusal
    observe_dropped: Callable[[], None]  # a wish for a variant
    tell: Callable[[str, str, Call, MeshError], None] = lambda rpc, model, call, error: (
        None
    )  # rpc, model, call, error: for the log

    async def admit(self, rpc: str, model: str, version: str, call: Call) -> None:
        try:
            caller = self.keys.caller_of(_key_in(call.metadata))
            call.caller = caller
            _check(caller, rpc, model)
        except (Unauthenticated, PermissionDenied) as refusal:
            self.observe(refusal.reason)
            if self.enforce:
                self.tell(rpc, model, call, refusal)
                raise
            return
        if VARIANT_HEADER in call.metadata and "variant" not in caller.scopes:
            self.observe_dropped()
            if self.enforce:
                call.metadata = {key: value for key, value in call.metadata.items() if key != VARIANT_HEADER}

    def __repr__(self) -> str:
        return "Authenticate" if self.enforce else "Authenticate(observe)"


def _key_in(metadata: Mapping[str, str]) -> str:
    key = metadata.get(API_KEY, "")
    if key:
        return key
    authorization = metadata.get(AUTHORIZATION, "")
    return authorization[len(BEARER) :].strip() if authorization[: len(BEARER)].lower() == BEARER else ""


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

"""Who calls, and whether they may."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from infermesh.call import Call, Caller
from infermesh.errors import PermissionDenied, Unauthenticated, quoted
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
    With `enforce` off nothing is refused, but the reasons are observed, and callers who are known are still named.
    """

    keys: KeyRing
    enforce: bool = True
    observe: Callable[[str], None]  # the reason of a refusal

    async def admit(self, rpc: str, model: str, version: str, call: Call) -> None:
        try:
            caller = self.keys.caller_of(_key_in(call.metadata))
            call.caller = caller
            _check(caller, rpc, model, call.metadata)
        except (Unauthenticated, PermissionDenied) as refusal:
            self.observe(refusal.reason)
            if self.enforce:
                raise

    def __repr__(self) -> str:
        return "Authenticate" if self.enforce else "Authenticate(observe)"


def _key_in(metadata: Mapping[str, str]) -> str:
    key = metadata.get(API_KEY, "")
    if key:
        return key
    authorization = metadata.get(AUTHORIZATION, "")
    return authorization[len(BEARER) :].strip() if authorization[: len(BEARER)].lower() == BEARER else ""


def _check(caller: Caller, rpc: str, model: str, metadata: Mapping[str, str]) -> None:
    scope = scope_for(rpc, model)
    if scope and scope not in caller.scopes:
        raise PermissionDenied(
            f"{rpc}: the caller {quoted(caller.name)} needs the scope {scope}", reason="SCOPE_MISSING"
        )
    if model and not may_use(caller, model):
        raise PermissionDenied(
            f"model {quoted(model)}: the caller {quoted(caller.name)} may not use it", reason="MODEL_FORBIDDEN"
        )
    if VARIANT_HEADER in metadata and "variant" not in caller.scopes:
        raise PermissionDenied(
            f"{VARIANT_HEADER}: the caller {quoted(caller.name)} needs the scope variant to choose one",
            reason="VARIANT_FORBIDDEN",
        )

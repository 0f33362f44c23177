"""What a caller may do: scopes for what is asked, models for what it is asked about."""

from __future__ import annotations

from typing import Literal

from infermesh.call import Caller
from infermesh.names import explained_model

__all__ = ["Scope", "may_use", "scope_for"]

Scope = Literal["infer", "explain", "admin", "variant"]

_SCOPES = {
    "ModelInfer": "infer",
    "ModelStreamInfer": "infer",
    "RepositoryModelLoad": "admin",
    "RepositoryModelUnload": "admin",
    "ShadowReset": "admin",
}


def scope_for(rpc: str, model: str) -> str:
    """The scope that an RPC needs; empty: credentials alone are enough."""
    scope = _SCOPES.get(rpc, "")
    return "explain" if scope == "infer" and explained_model(model) else scope


def may_use(caller: Caller, model: str) -> bool:
    """Whether the caller may use a model, existing or not. The right to use a model covers its explainer."""
    if caller.models is None:
        return True
    model = explained_model(model) or model
    return any(model.startswith(m[:-1]) if m.endswith("*") else model == m for m in caller.models)

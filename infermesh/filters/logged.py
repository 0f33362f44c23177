"""A line in the log for each call that was refused."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from infermesh.call import Call
from infermesh.errors import MeshError, quoted
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.service import Filter, Infer

__all__ = ["Logged"]

INFERENCES = ("ModelInfer", "ModelStreamInfer")
MAX_REQUEST_ID = 128

_log = logging.getLogger(__name__)


@dataclass
class Logged(Filter):
    """Tells at INFO, in one line and without a stack, who was refused what and why; a call that succeeds costs nothing.

    It has to stand above authentication, which names the caller. The line has code, reason, hop, caller, model and request id,
    and nothing else of what was sent: no key. At most `lines_per_s` are written; the next line has the number of those left out.
    Filters stand round inferences alone: whoever does not admit another RPC says so to `not_admitted`.
    """

    lines_per_s: int = 10
    clock: Callable[[], float] = time.monotonic
    log: logging.Logger = field(default=_log, repr=False)
    _since: float = field(default=float("-inf"), init=False, repr=False)
    _lines: int = field(default=0, init=False, repr=False)
    _left_out: int = field(default=0, init=False, repr=False)

    async def __call__(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        try:
            return await then(request, call)
        except MeshError as error:
            self._tell("ModelInfer", request.model_name, call, error)
            raise

    def not_admitted(self, rpc: str, model: str, call: Call, error: MeshError) -> None:
        """Tell of a refusal that `admit` raises; inferences are left out, since theirs comes by here."""
        if rpc not in INFERENCES:
            self._tell(rpc, model, call, error)

    def _tell(self, rpc: str, model: str, call: Call, error: MeshError) -> None:
        if not self.log.isEnabledFor(logging.INFO):
            return
        now = self.clock()
        if now - self._since >= 1.0:
            self._since, self._lines = now, 0
        if self._lines >= self.lines_per_s:
            self._left_out += 1
            return
        self._lines += 1
        left_out, self._left_out = self._left_out, 0
        caller, request_id = quoted(call.caller.name), quoted(call.request_id, MAX_REQUEST_ID)
        self.log.info(
            "%s %s (%s)%s: caller %s, model %s, request %s%s",
            rpc,
            error.code,
            error.reason,
            f" at {quoted(error.hop)}" if error.hop else "",
            caller,
            quoted(model),
            request_id,
            f"; {left_out} more before it are not in the log" if left_out else "",
            extra={
                "rpc": rpc,
                "code": error.code,
                "reason": quoted(error.reason)[1:-1],
                "caller": caller[1:-1],
                "model": quoted(model)[1:-1],
                "request_id": request_id[1:-1],
                "left_out": left_out,
            },
        )

    def __repr__(self) -> str:
        return "Logged"

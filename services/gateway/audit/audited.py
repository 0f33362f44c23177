"""The filters of the audit: round the whole call, at the end of admission, and round each asking of a backend."""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections.abc import Callable
from dataclasses import dataclass

from infermesh.call import Call
from infermesh.errors import DeadlineExceeded, Internal, MeshError
from infermesh.journal import Journal
from infermesh.parameters import FALLBACK, MODEL, VARIANT
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.sample import is_sampled
from infermesh.service import Filter, Infer
from services.gateway.audit.entry import MAX_NAME, Entry

__all__ = ["Admitted", "Attempted", "Audited"]

CANCELLED = "CANCELLED"
OK = "OK"
INFERENCES = ("ModelInfer", "ModelStreamInfer")


@dataclass(kw_only=True)
class Audited(Filter):
    """Gives an entry for each inference, however it ends, to `write`, which must not wait.

    It stands outside of authentication, which names the caller: refusals have entries too. A message of a stream has its entry
    when its first answer is there. `sample` is the share of calls that have one; with `failures` those that fail have
    one in any case.
    """

    write: Callable[[Entry], None]
    label: Callable[[str], str]  # a model as its route names it; empty: no route
    sample: float = 1.0
    failures: bool = True
    peer: bool = True
    clock: Callable[[], float] = time.perf_counter  # the one of the journal
    wall: Callable[[], float] = time.time

    async def admit(self, rpc: str, model: str, version: str, call: Call) -> None:
        if rpc in INFERENCES and (self.failures or is_sampled(call.request_id, self.sample)):
            call.journal = Journal(rpc)

    async def __call__(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        journal = call.journal
        if journal is None:
            return await then(request, call)
        try:
            response = await then(request, call)
        except MeshError as error:
            self._failed(request, call, journal, error, error.code, error.reason, error.hop)
            raise
        except CancelledError as error:
            code = DeadlineExceeded.code if call.deadline.expired else CANCELLED
            self._failed(request, call, journal, error, code)
            raise
        except Exception as error:
            self._failed(request, call, journal, error, Internal.code, Internal.default_reason)
            raise
        if self.failures and not is_sampled(call.request_id, self.sample):
            return response
        variant = model = fallback = ""
        if parameters := response.parameters:
            variant = parameters[VARIANT].string_param if VARIANT in parameters else ""
            model = parameters[MODEL].string_param if MODEL in parameters else ""
            fallback = parameters[FALLBACK].string_param if FALLBACK in parameters else ""
        self._write(
            request,
            call,
            journal,
            (model, response.model_version, variant, fallback),
            (OK, "", ""),
            response.ByteSize(),
        )
        return response

    def _failed(
        self,
        request: ModelInferRequest,
        call: Call,
        journal: Journal,
        error: BaseException,
        code: str,
        reason: str = "",
        hop: str = "",
    ) -> None:
        answered = ("", "", getattr(error, "variant", ""), "")
        self._write(request, call, journal, answered, (code, reason, hop), 0)

    def _write(
        self,
        request: ModelInferRequest,
        call: Call,
        journal: Journal,
        answered: tuple[str, str, str, str],
        outcome: tuple[str, str, str],
        response_bytes: int,
    ) -> None:
        asked = request.model_name
        self.write(
            Entry(
                journal,
                self.clock(),
                self.wall(),
                call.request_id,
                call.trace,
                call.caller,
                call.peer if self.peer else "",
                asked[:MAX_NAME],
                self.label(asked),
                answered[0] or (asked[:MAX_NAME] if outcome[0] == OK else ""),
                answered[1],
                answered[2],
                answered[3],
                *outcome,
                request.ByteSize(),
                response_bytes,
            )
        )

    def __repr__(self) -> str:
        return "Audited" if self.sample >= 1 else f"Audited({self.sample:g})"


class Admitted(Filter):
    """Notes when a call had passed all that may refuse it: the innermost filter before the routes."""

    async def __call__(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        if (journal := call.journal) is not None:
            journal.admitted_at = time.perf_counter()
        return await then(request, call)

    def __repr__(self) -> str:
        return "Admitted"


class Attempted(Filter):
    """Notes each asking of a backend: the innermost filter round it, inside of retries."""

    def __init__(self, backend: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self.backend = backend
        self.clock = clock

    async def __call__(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        journal = call.journal
        if journal is None:
            return await then(request, call)
        began = self.clock()
        try:
            response = await then(request, call)
        except MeshError as error:
            journal.attempted(self.backend, error.code, began, self.clock(), error.endpoint)
            raise
        except CancelledError:
            code = DeadlineExceeded.code if call.deadline.expired else CANCELLED
            journal.attempted(self.backend, code, began, self.clock())
            raise
        except Exception:
            journal.attempted(self.backend, Internal.code, began, self.clock())
            raise
        journal.attempted(self.backend, OK, began, self.clock())
        return response

    def __repr__(self) -> str:
        return "Attempted"

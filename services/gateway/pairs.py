"""Both answers to one request on their way to be compared: the primary's, and that of a shadow or of the primary itself."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

from infermesh.call import Call
from infermesh.errors import MeshError
from infermesh.parameters import FALLBACK, VARIANT
from infermesh.protocol.open_inference_pb2 import ModelInferResponse
from infermesh.service import InferenceService

__all__ = ["Again", "OpenPair", "Pairs"]

Offer = Callable[[bytes, bytes, bytes], bool]  # head, the primary's answer, the other one
Again = Callable[[str, str], InferenceService | None]  # variant and version that answered → the same once more

MAX_ID = 128  # characters of a request id that are kept
CANCELLED = "CANCELLED"


class Pairs:
    """The pairs of one shadow of one model.

    `repeat` is the share of the mirrored calls that are asked of the primary again. Handed over, by `offer`, is what was
    answered, as bytes, in a turn of the loop of its own: the answer is on its way to the caller by then. Not handed over, and
    counted as `skipped`: answers over `max_bytes`, answers of a fallback, which is not the primary, and calls whose caller went.
    """

    def __init__(
        self,
        model: str,
        shadow: str,
        *,
        offer: Offer,
        again: Again,
        repeat: float,
        max_bytes: int,
        observe: Callable[[str], None],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.model = model
        self.shadow = shadow
        self.repeat = repeat
        self._offer = offer
        self._again = again
        self._max_bytes = max_bytes
        self._observe = observe
        self._wall_clock = wall_clock

    def begin(self, call: Call, *, repeats: bool = False) -> OpenPair:
        """A pair without answers; `repeats`: the other one is the primary's own."""
        return OpenPair(self, call.request_id, repeats=repeats)

    def again(self, response: ModelInferResponse) -> InferenceService | None:
        """What gave this answer, in the version that did; None where it was no variant of the split."""
        if FALLBACK in response.parameters:
            return None
        return self._again(response.parameters[VARIANT].string_param, response.model_version)

    def keep(self, end: _End) -> None:
        """One end is known: write its answer out when it is on its way to the caller, and let it go."""
        asyncio.get_running_loop().call_soon(end.write, self._max_bytes)

    def complete(self, pair: OpenPair) -> None:
        """Both ends are known."""
        asyncio.get_running_loop().call_soon(self._hand_over, pair)

    def _hand_over(self, pair: OpenPair) -> None:
        primary, other = pair.primary, pair.other
        assert primary is not None
        assert other is not None
        if primary.is_too_large or other.is_too_large or pair.is_fallback or CANCELLED in (primary.code, other.code):
            self._observe("skipped")
            return
        head = {
            "kind": "repeat" if pair.repeats else "shadow",
            "model": self.model,
            "shadow": self.shadow,
            "variant": pair.variant,
            "request_id": pair.request_id[:MAX_ID],
            "at_s": self._wall_clock(),
            "primary": [primary.code, primary.seconds, primary.version],
            "other": [other.code, other.seconds, other.version],
        }
        if self._offer(json.dumps(head).encode(), primary.data, other.data):
            self._observe("repeated" if pair.repeats else "compared")
        else:
            self._observe("dropped")


class OpenPair:
    """A pair whose ends come in any order."""

    __slots__ = ("_pairs", "is_fallback", "other", "primary", "repeats", "request_id", "variant")

    def __init__(self, pairs: Pairs, request_id: str, *, repeats: bool) -> None:
        self._pairs = pairs
        self.request_id = request_id
        self.repeats = repeats
        self.variant = ""
        self.is_fallback = False
        self.primary: _End | None = None
        self.other: _End | None = None

    def primary_answered(self, response: ModelInferResponse, seconds: float) -> None:
        self.variant = response.parameters[VARIANT].string_param if VARIANT in response.parameters else ""
        self.is_fallback = FALLBACK in response.parameters
        self.primary = _End(None if self.is_fallback else response, "OK", seconds)
        self._ended(self.primary)

    def primary_failed(self, error: BaseException, seconds: float) -> None:
        self.variant = getattr(error, "variant", "")
        self.primary = _End(None, _code(error), seconds)
        self._ended(self.primary)

    def other_answered(self, response: ModelInferResponse, seconds: float) -> None:
        self.other = _End(response, "OK", seconds)
        self._ended(self.other)

    def other_failed(self, error: BaseException, seconds: float) -> None:
        self.other = _End(None, _code(error), seconds)
        self._ended(self.other)

    def _ended(self, end: _End) -> None:
        if end.response is not None:
            self._pairs.keep(end)
        if self.primary is not None and self.other is not None:
            self._pairs.complete(self)


class _End:
    """How a call ended. `data` is the answer as bytes, once it is written; one over the bound is none."""

    __slots__ = ("code", "data", "is_too_large", "response", "seconds", "version")

    def __init__(self, response: ModelInferResponse | None, code: str, seconds: float) -> None:
        self.response = response
        self.code = code
        self.seconds = seconds
        self.version = response.model_version[:MAX_ID] if response is not None else ""
        self.data = b""
        self.is_too_large = False

    def write(self, max_bytes: int) -> None:
        assert self.response is not None
        data = self.response.SerializeToString()  # which is how protobuf would measure it, too
        self.response = None
        self.is_too_large = len(data) > max_bytes
        if not self.is_too_large:
            self.data = data


def _code(error: BaseException) -> str:
    if isinstance(error, MeshError):
        return error.code
    if isinstance(error, asyncio.CancelledError):
        return CANCELLED
    return "DEADLINE_EXCEEDED" if isinstance(error, TimeoutError) else "INTERNAL"

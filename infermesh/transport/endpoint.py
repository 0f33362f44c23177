"""One address behind a backend: its channel, its breaker, and what is known of it."""

from __future__ import annotations

import grpc

from infermesh.breaker import Breaker
from infermesh.transport.channel import Channel
from infermesh.transport.status import HOP

__all__ = ["Endpoint"]

_OWN = frozenset(
    {  # statuses that grpc makes up when a server answers nothing, or nothing that makes sense
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.CANCELLED,
    }
)


class Endpoint:
    """What a call is sent to. `breaker` None: it is never left out for its failures.

    `is_ready`: connected, and its health says SERVING, as the channel saw last. `is_away`: it could not be connected, or does not
    serve, since it was ready last.
    """

    __slots__ = ("address", "answers", "breaker", "channel", "in_flight", "is_away", "is_ready", "on_trial")

    def __init__(self, address: str, channel: Channel, breaker: Breaker | None) -> None:
        self.address = address
        self.channel = channel
        self.breaker = breaker
        self.in_flight = 0
        self.answers = 0
        self.is_ready = False
        self.is_away = False
        self.on_trial = False  # the call that is just being picked is its trial

    def trial(self) -> int:
        """Whether the call that is just being picked is its trial: the period of its breaker, 0 if not. It is told once."""
        if not self.on_trial or self.breaker is None:
            return 0
        self.on_trial = False
        return self.breaker.period

    def answered(self, trial: int, took_s: float | None = None) -> None:
        """It answered, be it with a refusal; `took_s` is for inferences that succeeded."""
        self.answers += 1
        if self.breaker is not None:
            if took_s is not None:
                self.breaker.took(took_s)
            self.breaker.success(trial=trial)

    def broke(self, trial: int) -> None:
        """It answered what is no answer."""
        if self.breaker is not None:
            self.breaker.failure(trial=trial)

    def failed(self, failure: grpc.aio.AioRpcError, *, had_s: float, answers: int, trial: int) -> bool:
        """Judge a call that did not end OK; false: it says nothing about the endpoint.

        `answers` is how many there had been when the call was sent: an endpoint that answered others meanwhile is not hung, be
        this call's deadline what it may, nor is one that had less time than half of its answers take. A status that a hop of the
        mesh signed is an answer.
        """
        code = failure.code()
        if any(key == HOP for key, _ in failure.trailing_metadata() or ()):
            self.answered(trial)
        elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
            patience_s = self.breaker.patience_s if self.breaker is not None else 0.0
            if self.answers != answers or had_s < patience_s:
                return False
            self.broke(trial)
        elif code in _OWN:
            self.broke(trial)
        else:
            self.answered(trial)
        return True

    def __repr__(self) -> str:
        state = "ready" if self.is_ready else "away" if self.is_away else "connecting"
        return f"Endpoint({self.address}, {state}{'' if self.breaker is None else f', {self.breaker!r}'})"

"""One root of several, asked so that who asks has an end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from services.predictor.source.source import Source, SourceAway

__all__ = ["Asked"]

MOST_OWED = 4  # questions that a root owes the answer of; past them it is asked nothing, until it answers

T = TypeVar("T")


class Asked:
    """Asks a root in threads of its own: one that hangs, as on a network file system, can't be ended, and is left to itself.
    There are few of them: what is owed is not asked again, and a root that owes a number of answers is away at once."""

    def __init__(self, root: Source) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._owed: dict[str, Future[Any]] = {}  # what was asked, by what it is about, and not answered in time

    def begin(self, about: str, question: Callable[[], T]) -> Future[T]:
        """The answer to come. Raises SourceAway at once where it is of no use to ask."""
        with self._lock:
            owed = about in self._owed or len(self._owed) >= MOST_OWED
        if owed:
            raise SourceAway(f"{self.root.location}: no answer yet to what it was asked before")
        answer: Future[T] = Future()
        try:
            threading.Thread(target=_answer, args=(question, answer), name="ask a root", daemon=True).start()
        except RuntimeError as error:
            raise SourceAway(f"{self.root.location}: no thread could be started to ask it: {error}") from None
        return answer

    def result(self, about: str, answer: Future[T], timeout_s: float, given_s: float) -> T:
        """What it answers, or raises. Raises SourceAway when what is left of the time that it was given is over."""
        try:
            return answer.result(max(0.0, timeout_s))
        except TimeoutError:
            if answer.done():  # an error of its own
                raise
        with self._lock:
            if not answer.done():
                self._owed[about] = answer
        answer.add_done_callback(lambda _: self._paid(about, answer))
        raise SourceAway(f"{self.root.location}: no answer within {given_s:g} s")

    def _paid(self, about: str, answer: Future[Any]) -> None:
        with self._lock:
            if self._owed.get(about) is answer:
                del self._owed[about]


def _answer(question: Callable[[], T], answer: Future[T]) -> None:
    try:
        result = question()
    except BaseException as error:
        answer.set_exception(error)
    else:
        answer.set_result(result)

"""The thread of one instance."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread

__all__ = ["Worker"]

Job = Callable[[], None]


class Worker:
    """Does jobs one at a time in a thread of its own. `device` is a position in `devices`.

    Beside `concurrent.futures.ThreadPoolExecutor`, whose futures and locks nobody needs here, it saves 10 µs for each job.
    The thread is a daemon: whoever owns it ends what runs in it before the interpreter goes.
    """

    __slots__ = ("_jobs", "_name", "_thread", "device")

    def __init__(self, name: str, device: int) -> None:
        self.device = device
        self._name = name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread: Thread | None = None

    def start(self) -> None:
        """Start the thread, if it has not been. Raises RuntimeError when the system gives no thread; a later call may succeed."""
        if self._thread is None:
            thread = Thread(target=_work, args=(self._jobs,), name=self._name, daemon=True)
            thread.start()
            self._thread = thread  # not before: one that never ran can't be waited for

    def do(self, job: Job) -> None:
        """Hand over a job, which must raise nothing, when the thread was started."""
        self._jobs.put(job)

    def stop(self) -> Thread | None:
        """Let the thread go when it has done what it was given; returned, if there is one. It can be started again."""
        thread = self._thread
        if thread is not None:
            self._jobs.put(None)
            self._thread, self._jobs = None, SimpleQueue()
        return thread


def _work(jobs: SimpleQueue[Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # with the tensors that it holds: the next one may be long in coming

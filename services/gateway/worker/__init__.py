"""Work that is done beside calls, in a process of its own: it may be slow, hang or die, and no call is the later for it.

`Feed` is the gateway's end: it starts the process, hands it frames without ever waiting, and starts it again when it ends or
hangs. `work` is the process's end, round a `Worker`.
"""

from services.gateway.worker.feed import Feed
from services.gateway.worker.work import Worker, work

__all__ = ["Feed", "Worker", "work"]

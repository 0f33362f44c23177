"""A bound on the memory that one version's runs take on the CPU."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import onnxruntime as ort

from infermesh.config.types import size_text
from infermesh.tensors import Array
from services.predictor.load_failed import LoadFailed

__all__ = ["bounded_arena", "out_of_memory", "shrink"]

IDLE_BYTES = 2**20  # of the arena that stays registered: nobody allocates from it

# ONNX Runtime has no option for the size of one session's CPU arena, but a session that uses the environment's arena keeps the
# one that was registered when it was made, and registering another leaves it with that (1.32). So an arena of its own is
# registered for each session, one at a time, and an empty one after it: the environment must not keep the memory of a version
# that has gone.
_registering = threading.Lock()
_SAME_AS_REQUESTED = 1  # grow by what is asked for: doubling would spend half of the limit on what nobody asked for

_BOUND = re.compile(r"Available memory of (\d+) is smaller than requested bytes of (\d+)")
_NONE_LEFT = re.compile(r"Failed to allocate memory for requested buffer of size (\d+)|std::bad_alloc")


@contextmanager
def bounded_arena(options: Any, limit_bytes: int) -> Iterator[None]:
    """Sessions made inside with these SessionOptions have an arena of at most this size, all runs of them together; 0: no bound.

    What runs allocate comes from it: intermediate results, scratch and outputs. Weights do not, nor the characters of strings.
    Sessions with a bound are made one after the other. Raises LoadFailed when this ONNX Runtime can't do it.
    """
    if not limit_bytes:
        yield
        return
    options.add_session_config_entry("session.use_env_allocators", "1")
    # A pattern takes what the first run of a shape took, in one block, before each run of that shape; where sizes depend on
    # values, one large run would hold the room of all that come after it.
    options.enable_mem_pattern = False
    with _registering:
        _register(limit_bytes)
        try:
            yield
        finally:
            _register(IDLE_BYTES)


def shrink(session: Any, arrays: Mapping[str, Array]) -> None:
    """Give back what the arena holds and no run uses: its blocks have the sizes that earlier runs asked for, and two of them are
    no room for one that is larger. The run ends before its first operator; what it is for is done at its end."""
    options = ort.RunOptions()
    options.terminate = True
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    with suppress(Exception):  # that it was ended
        session.run(None, arrays, options)


def out_of_memory(text: str, limit_bytes: int) -> str | None:
    """What to say when ONNX Runtime's message is that memory was not enough; None: it is about something else."""
    if match := _BOUND.search(text):
        left, wanted = (size_text(int(size)) for size in match.groups())
        return f"{wanted} more are needed, {left} are left of execution.memory_limit, which is {size_text(limit_bytes)}"
    if match := _NONE_LEFT.search(text):
        return f"this machine did not give {f'{size_text(int(match[1]))} of memory' if match[1] else 'the memory'}"
    return None


def _register(limit_bytes: int) -> None:
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    try:
        ort.create_and_register_allocator(
            memory, ort.OrtArenaCfg({"max_mem": limit_bytes, "arena_extend_strategy": _SAME_AS_REQUESTED})
        )
    except Exception as error:  # ONNX Runtime raises a class per cause, of no common base
        raise LoadFailed(
            f"execution.memory_limit: ONNX Runtime {ort.__version__} can't bound a session's memory ({str(error)[:200]}), "
            "expected 1.32 or newer"
        ) from None

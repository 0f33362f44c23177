"""Several loads at a time, in threads and in processes, and processes that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from services.predictor.load_failed import LoadFailed
from services.predictor.source import Source

Open = Callable[..., Source]
CONTENT = bytes(range(256)) * 4000
LOAD = """
import sys
from services.predictor.config import CacheConfig
from services.predictor.source import open_source
source = open_source(sys.argv[1], CacheConfig(folder=sys.argv[2]), {})
source.look("m")
print(source.version_folder("m", "1"), source.counts.downloads, flush=True)
sys.stdin.readline()  # the folder is in use until then
"""


def start(url: str, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LOAD, url, str(cache)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[4],
    )


def test_two_threads_download_a_version_once(index: Any, open_root: Open) -> None:
    """The second waits for the first, and a load of another version waits for neither."""
    index.put("m/1/model.onnx", CONTENT)
    index.put("other/1/model.onnx", b"other")
    source = open_root(index)
    for name in ("m", "other"):
        source.look(name)
    asked, go_on = threading.Event(), threading.Event()

    def slow(reply: Any) -> bool:
        if "/m/1/model.onnx" in reply.path:
            asked.set()
            go_on.wait(30)
        return False

    index.answer = slow
    with ThreadPoolExecutor(3) as threads:
        both = [threads.submit(source.version_folder, "m", "1") for _ in range(2)]
        assert asked.wait(30)
        other = threads.submit(source.version_folder, "other", "1").result(30)
        go_on.set()
        folders = {each.result(30) for each in both}

    assert (other / "model.onnx").read_bytes() == b"other"
    assert len(folders) == 1 and sum("/m/1/" in request for request in index.downloads()) == 1


def test_two_processes_share_a_cache(index: Any, cache: Path) -> None:
    """Started at the same moment with nothing there, both have the whole version."""
    index.put("m/1/model.onnx", CONTENT)
    both = [start(index.url, cache) for _ in range(2)]

    said = [process.communicate("\n", timeout=60)[0].split() for process in both]

    assert said[0][0] == said[1][0]
    assert (Path(said[0][0]) / "model.onnx").read_bytes() == CONTENT
    assert len([path for path in (cache / "objects").rglob("*") if path.is_file()]) == 1


def test_what_another_process_uses_is_not_removed(index: Any, cache: Path, open_root: Open) -> None:
    """It is refused as in use while that process lives, and goes when it has been killed."""
    index.put("m/1/model.onnx", b"1" * 80_000)
    index.put("n/1/model.onnx", b"2" * 80_000)
    other = start(index.url, cache)
    assert other.stdout is not None
    folder = Path(other.stdout.readline().split()[0])
    source = open_root(index, max_bytes="100kB")
    source.look("n")

    with pytest.raises(LoadFailed, match="in use"):
        source.version_folder("n", "1")
    assert (folder / "model.onnx").exists()
    other.kill()
    other.communicate(timeout=30)

    assert (source.version_folder("n", "1") / "model.onnx").exists()
    assert not folder.exists()


def test_a_process_that_is_killed_in_a_download_leaves_nothing_that_is_used(
    index: Any, cache: Path, open_root: Open
) -> None:
    """kill -9 halfway: the next process downloads the file whole, and removes what was left."""
    index.put("m/1/model.onnx", CONTENT)
    halfway, never = threading.Event(), threading.Event()

    def half(reply: Any) -> bool:
        if not reply.path.endswith("model.onnx") or halfway.is_set():
            return False
        reply.handler.send_response(200)
        reply.handler.send_header("Content-Length", str(len(CONTENT)))
        reply.handler.end_headers()
        reply.handler.wfile.write(CONTENT[: len(CONTENT) // 2])
        reply.handler.wfile.flush()
        halfway.set()
        return bool(index.hang(reply))

    index.answer = half
    killed = start(index.url, cache)
    until = time.monotonic() + 60
    while not any(path.stat().st_size > 1000 for path in cache.glob("partial/*/*")):
        assert killed.poll() is None and time.monotonic() < until
        never.wait(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=30)
    left = list(cache.glob("partial/*/*"))

    source = open_root(index)
    source.look("m")
    folder = source.version_folder("m", "1")

    assert (folder / "model.onnx").read_bytes() == CONTENT
    assert len(left) == 1 and not list(cache.glob("partial/*/*"))

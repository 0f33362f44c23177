"""What a process imports is what it needs: each start of a service pays for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

SERVICES = ("gateway", "transformer", "predictor", "explainer")


def test_a_supervisor_has_nothing_that_calls_alone_need() -> None:
    """No gRPC, no ONNX Runtime, no Redis, no spans: it takes no call."""
    script = (
        f"import sys, {', '.join(f'services.{service}.__main__' for service in SERVICES)}, infermesh.runtime.supervised\n"
        "print(*(name for name in sys.argv[1:] if name in sys.modules))"
    )
    heavy = ("grpc", "onnxruntime", "redis", "opentelemetry")

    ended = subprocess.run(
        [sys.executable, "-c", script, *heavy], capture_output=True, text=True, timeout=60, check=True
    )

    assert ended.stdout.split() == []


def test_the_packages_still_have_their_names() -> None:
    """Those that are imported late are found under the package, and others are not."""
    import infermesh.runtime
    import infermesh.telemetry
    import infermesh.transport

    for package in (infermesh.runtime, infermesh.telemetry, infermesh.transport):
        for name in package.__all__:
            assert getattr(package, name).__module__.startswith(("infermesh.", "collections"))
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            _ = package.nothing

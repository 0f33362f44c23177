"""Is a service ready for traffic? Asked by `grpc.health.v1`, from here or as `python -m infermesh.transport.probe HOST:PORT`."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

__all__ = ["is_serving", "wait_until_serving"]

POLL_S = 0.05
CHECK_S = 1.0  # a service that needs longer to say that it serves does not


def is_serving(target: str, service: str = "", timeout_s: float = CHECK_S) -> bool:
    """Whether `host:port` says SERVING within the time; false also when nobody answers, or not in this protocol.

    `service`: "" asks for readiness, "live" for the process alone.
    """
    options = [
        ("grpc.use_local_subchannel_pool", 1),  # a shared one would remember an earlier failure, and wait after it
        ("grpc.enable_http_proxy", 0),
    ]
    with grpc.insecure_channel(target, options=options) as channel:
        asked = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=timeout_s)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def wait_until_serving(
    target: str, timeout_s: float, *, service: str = "", give_up: Callable[[], bool] = lambda: False
) -> bool:
    """Ask until it serves; false when the time is over, or as soon as `give_up` says so. Blocks the thread."""
    pause = threading.Event()
    end = time.monotonic() + timeout_s
    while not give_up():
        remaining = end - time.monotonic()
        if remaining <= 0:
            return False
        if is_serving(target, service, min(CHECK_S, remaining)):
            return True
        pause.wait(min(POLL_S, remaining))
    return False


def main() -> int:
    """Exit status 0: it serves; 1: it does not. For health checks in containers, whose images have no command line of ours."""
    parser = argparse.ArgumentParser(prog="python -m infermesh.transport.probe", description=__doc__)
    parser.add_argument("target", metavar="HOST:PORT")
    parser.add_argument(
        "--service", default="", help='"" (the default) asks for readiness, "live" for the process alone'
    )
    parser.add_argument(
        "--wait", type=float, default=0.0, metavar="SECONDS", help="ask again until it serves, this long"
    )
    given = parser.parse_args()
    if given.wait:
        serving = wait_until_serving(given.target, given.wait, service=given.service)
    else:
        serving = is_serving(given.target, given.service)
    print(f"{given.target} {'serves' if serving else 'does not serve'}")
    return 0 if serving else 1


if __name__ == "__main__":
    sys.exit(main())

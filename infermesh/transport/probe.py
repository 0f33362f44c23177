"""Is a service ready for traffic? Asked by `grpc.health.v1`, from here or as `python -m infermesh.transport.probe HOST:PORT`.

The images run this file by its path: it imports nothing else of the mesh.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

__all__ = ["ClientTls", "is_serving", "open_channel", "wait_until_serving"]

POLL_S = 0.05
CHECK_S = 1.0  # a service that needs longer to say that it serves does not


@dataclass(frozen=True)
class ClientTls:
    """How a caller outside the mesh makes a TLS connection: paths of PEM files, and the name in the server's certificate.

    Empty: `ca` the roots that the system trusts, `cert` and `key` no certificate of ours, `server_name` the host of the target.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""
    server_name: str = ""

    @classmethod
    def of(cls, environ: Mapping[str, str] = os.environ) -> ClientTls | None:
        """What INFERMESH_TLS_CA, _CERT, _KEY and _SERVER_NAME say; None, and so plain text, when none of them is set."""
        tls = cls(*(environ.get(f"INFERMESH_TLS_{name}", "") for name in ("CA", "CERT", "KEY", "SERVER_NAME")))
        return tls if tls != cls() else None

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises OSError for a file that can't be read."""
        ca, key, cert = (Path(each).read_bytes() if each else None for each in (self.ca, self.key, self.cert))
        return grpc.ssl_channel_credentials(ca, key, cert)


def open_channel(target: str, options: list[tuple[str, Any]], tls: ClientTls | None) -> grpc.Channel:
    """A blocking channel. Raises OSError for certificates that can't be read."""
    if tls is None:
        return grpc.insecure_channel(target, options=options)
    name = [("grpc.ssl_target_name_override", tls.server_name)] if tls.server_name else []
    return grpc.secure_channel(target, tls.credentials(), options=[*options, *name])


def is_serving(target: str, service: str = "", timeout_s: float = CHECK_S, *, tls: ClientTls | None = None) -> bool:
    """Whether `host:port` says SERVING within the time; false also when nobody answers, or not in this protocol.

    `service`: "" asks for readiness, "live" for the process alone. Raises OSError for certificates that can't be read.
    """
    options = [
        ("grpc.use_local_subchannel_pool", 1),  # a shared one would remember an earlier failure, and wait after it
        ("grpc.enable_http_proxy", 0),
    ]
    with open_channel(target, options, tls) as channel:
        asked = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=timeout_s)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def wait_until_serving(
    target: str,
    timeout_s: float,
    *,
    service: str = "",
    give_up: Callable[[], bool] = lambda: False,
    tls: ClientTls | None = None,
) -> bool:
    """Ask until it serves; false when the time is over, or as soon as `give_up` says so. Blocks the thread."""
    pause = threading.Event()
    end = time.monotonic() + timeout_s
    while not give_up():
        remaining = end - time.monotonic()
        if remaining <= 0:
            return False
        if is_serving(target, service, min(CHECK_S, remaining), tls=tls):
            return True
        pause.wait(min(POLL_S, remaining))
    return False


def main() -> int:
    """Exit status 0: it serves; 1: it does not. For health checks in containers, whose images have no command line of ours."""
    parser = argparse.ArgumentParser(
        prog="python -m infermesh.transport.probe",
        description="Is a service ready for traffic? Asked by grpc.health.v1.",
        epilog="TLS by INFERMESH_TLS_CA, INFERMESH_TLS_CERT, INFERMESH_TLS_KEY (PEM files) and INFERMESH_TLS_SERVER_NAME.",
    )
    parser.add_argument("target", metavar="HOST:PORT")
    parser.add_argument(
        "--service", default="", help='"" (the default) asks for readiness, "live" for the process alone'
    )
    parser.add_argument(
        "--wait", type=float, default=0.0, metavar="SECONDS", help="ask again until it serves, this long"
    )
    given = parser.parse_args()
    tls = ClientTls.of()
    try:
        if given.wait:
            serving = wait_until_serving(given.target, given.wait, service=given.service, tls=tls)
        else:
            serving = is_serving(given.target, given.service, tls=tls)
    except OSError as error:
        print(f"{given.target} can't be asked: {error}")
        return 1
    print(f"{given.target} {'serves' if serving else 'does not serve'}")
    return 0 if serving else 1


if __name__ == "__main__":
    sys.exit(main())

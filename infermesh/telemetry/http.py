"""The HTTP port for machines: `/metrics`, `/live`, `/ready`."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from infermesh.config import PortTaken

__all__ = ["TelemetryServer"]

MAX_CONNECTIONS = 32  # each has a thread; the oldest goes for a new one, so that who holds many keeps no probe out

_log = logging.getLogger(__name__)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128  # with the default of 5 a burst of connections makes a probe wait for a second
    allow_reuse_address = True
    address_family = socket.AF_INET

    def __init__(self, *arguments: Any) -> None:
        self._open: dict[socket.socket, None] = {}
        self._lock = threading.Lock()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread; past the bound the oldest connection is ended, and with it its thread."""
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                oldest = next(iter(self._open))
                del self._open[oldest]
                with contextlib.suppress(OSError):  # it has gone by itself
                    oldest.shutdown(socket.SHUT_RDWR)
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close the connection, which is answered."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller who goes away, or says nothing for too long, is nothing to log."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            _log.error("internal error in the HTTP port", exc_info=error)

    def server_bind(self) -> None:
        """Bind without the reverse lookup of the host's name, which can take seconds."""
        # A service that is started again must not wait for the connections of the last scrape to be forgotten (TIME_WAIT).
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _Quiet(WSGIRequestHandler):
    timeout = 10  # seconds without a byte from the caller, who holds a thread

    def log_message(self, *arguments: Any) -> None:
        """A scrape every few seconds is nothing to log."""


class TelemetryServer:
    """Answers in threads of its own, so that a scrape does not wait for the event loop, nor the loop for it."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry, is_ready: Callable[[], bool]) -> None:
        """Bind and start. Raises PortTaken."""
        self._metrics = make_wsgi_app(registry)
        self._is_ready = is_ready
        try:
            self._server = make_server(host, port, self._answer, server_class=_Server, handler_class=_Quiet)
        except OSError as error:
            raise PortTaken(f"HTTP port {host}:{port} can't be listened on: {error.strerror}") from None
        self.port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="telemetry-http", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            return list(self._metrics(environ, start_response))
        if path in ("/live", "/ready"):
            good = path == "/live" or self._is_ready()
            start_response("200 OK" if good else "503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"ok\n" if good else b"not ready\n"]
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"here are /metrics, /live and /ready\n"]

"""How Envoy is set up: a pure function of the settings.

Envoy does here what the transport does on the other engine and no policy: HTTP/2, TLS, bounds, the access log. Field names are
those of Envoy's API, v3 (https://www.envoyproxy.io/docs/envoy/latest/api-v3/api).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infermesh.engine.settings import Settings
from infermesh.transport.tls import Pem

__all__ = ["Places", "bootstrap", "certificates"]

MIB = 1 << 20
WINDOW_OF_STREAM = 1 * MIB  # what a client can push at a handler that does not read
WINDOW_OF_CONNECTION = 4 * MIB
MAX_HEADERS = 200
MAX_HEADERS_KIB = 16  # as grpc's own core takes at most
LONGEST_STREAM_S = 3600  # a stream that nobody ends, a health Watch too; its caller asks again
LONGEST_CONNECTION_S = 10 * 365 * 86_400  # "never": a timer that the drain shortens has to be there
GOAWAY_S = 0.5  # between the notice that a connection ends and its end: a round trip, for what is on its way
HEADER_LIST_BYTES = 0x6  # the HTTP/2 setting SETTINGS_MAX_HEADER_LIST_SIZE
# Calls that a caller takes back within a second, until its connection is closed if they are half of its calls. Envoy's own 500
# is what a gateway with a deadline of 100 ms before one hung model has after three seconds at 100 calls a second; all else on
# the connection is cut then, too.
MAX_TAKEN_BACK = 10_000
MAX_TAKEN_BACK_RATE = 1_000  # a second, whatever becomes of the others: some 5 % of a core
LEAVING, NOT_LEAVING = "1", "0"  # what is in the file `Places.leaving`

_TYPE = "type.googleapis.com/envoy."
_HTTP = "extensions.filters.http."
_LEVELS = {"warning": "warn"}
_RUNTIME = {
    "overload.premature_reset_total_stream_count": MAX_TAKEN_BACK,
    "overload.premature_reset_min_stream_lifetime_seconds": 0,  # a call that has lasted for a second is none of them
}


@dataclass(frozen=True)
class Places:
    """Files of one Envoy process, all in a folder that is its user's alone."""

    admin: Path
    """Unix socket of Envoy's administration, which can end it and show what it knows."""
    leaving: Path
    """A number: `LEAVING` makes Envoy send GOAWAY on all connections, idle ones too."""
    certificates: Path
    """A folder with the files of `certificates`."""
    module: Path
    """pyvoy's shared library."""
    app: str
    """`module:attribute` of the ASGI application."""


def bootstrap(settings: Settings, port: int, places: Places) -> dict[str, Any]:
    """Envoy's configuration for one process that listens on this port, beside others."""
    return {
        "node": {"id": "infermesh", "cluster": settings.service},  # asked for where secrets are read from a file
        "admin": {"address": {"pipe": {"path": str(places.admin), "mode": 0o600}}},
        "static_resources": {"listeners": [_listener(settings, port, places)]},
        "overload_manager": _overload(settings, places),
        "layered_runtime": {"layers": [{"name": "engine", "static_layer": _RUNTIME}]},
        **(_application_log(settings) if settings.log_json else {}),
    }


def log_level(settings: Settings) -> str:
    """Envoy's word for the level; below warnings it tells of each connection, which is nothing to log."""
    level = "warning" if settings.log_level == "info" else settings.log_level
    return _LEVELS.get(level, level)


def certificates(pem: Pem) -> dict[str, dict[str, Any]]:
    """What each file in the folder `Places.certificates` holds, by its name; Envoy takes one over when it is replaced by
    a rename. A file has one secret: Envoy refuses more."""
    chain, key = {"inline_string": pem.cert.decode()}, {"inline_string": pem.key.decode()}
    files = {"server": {"tls_certificate": {"certificate_chain": chain, "private_key": key}}}
    if pem.ca:
        files["clients"] = {"validation_context": {"trusted_ca": {"inline_string": pem.ca.decode()}}}
    kind = f"{_TYPE}extensions.transport_sockets.tls.v3.Secret"
    return {f"{name}.json": {"resources": [{"@type": kind, "name": name, **secret}]} for name, secret in files.items()}


def _listener(settings: Settings, port: int, places: Places) -> dict[str, Any]:
    chain: dict[str, Any] = {
        "filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": _http(settings, places)},
        ],
        "transport_socket_connect_timeout": _seconds(settings.headers_within_s),
    }
    if settings.tls:
        chain["transport_socket"] = _tls(settings, places)
    return {
        "name": "grpc",
        "address": {"socket_address": {"address": settings.host, "port_value": port}},
        "enable_reuse_port": True,  # the kernel spreads connections over the processes
        "per_connection_buffer_limit_bytes": 1 * MIB,
        "tcp_backlog_size": 1024,
        # A connection that says nothing is closed before there is anything to ping it.
        "listener_filters": [_inspector("tls" if settings.tls else "http")],
        "listener_filters_timeout": _seconds(settings.headers_within_s),
        "filter_chains": [chain],
    }


def _inspector(kind: str) -> dict[str, Any]:
    name = f"{kind.capitalize()}Inspector"
    typed = {"@type": f"{_TYPE}extensions.filters.listener.{kind}_inspector.v3.{name}"}
    return {"name": f"envoy.filters.listener.{kind}_inspector", "typed_config": typed}


def _http(settings: Settings, places: Places) -> dict[str, Any]:
    config: dict[str, Any] = {
        "@type": f"{_TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "grpc",
        "codec_type": "HTTP2",
        "http2_protocol_options": {
            "max_concurrent_streams": settings.max_streams,
            "initial_stream_window_size": WINDOW_OF_STREAM,
            "initial_connection_window_size": WINDOW_OF_CONNECTION,
            "connection_keepalive": {
                "interval": _seconds(settings.ping_every_s),
                "timeout": _seconds(settings.ping_within_s),
            },
            # A client that knows fails a call with more by itself; from four times as much on, its connection would be closed.
            "custom_settings_parameters": [{"identifier": HEADER_LIST_BYTES, "value": MAX_HEADERS_KIB << 10}],
            # nghttp2 has a bound of its own, of 1,000 and 33 a second (envoyproxy/envoy#30882): one call in a hundred that its
            # caller gives up is more, at 5,000 a second.
            "stream_reset_burst": MAX_TAKEN_BACK,
            "stream_reset_rate": MAX_TAKEN_BACK_RATE,
            # One bad call is not the end of all others on its connection.
            "override_stream_error_on_invalid_http_message": True,
        },
        "common_http_protocol_options": {
            "max_headers_count": MAX_HEADERS,
            "max_stream_duration": _seconds(LONGEST_STREAM_S),
            "max_connection_duration": _seconds(settings.max_connection_age_s or LONGEST_CONNECTION_S),
            "idle_timeout": _seconds(settings.idle_s),  # gently: who calls again connects again
        },
        "max_request_headers_kb": MAX_HEADERS_KIB,
        "request_headers_timeout": _seconds(settings.headers_within_s),
        "stream_flush_timeout": _seconds(settings.unread_s),
        "stream_idle_timeout": "0s",  # a health Watch says nothing for hours
        "drain_timeout": _seconds(GOAWAY_S),
        # Metadata arrives as the caller wrote it.
        "generate_request_id": False,
        "preserve_external_request_id": True,
        "skip_xff_append": True,
        "server_header_transformation": "PASS_THROUGH",
        # A caller can't write this header itself: it is dropped, and set from the certificate that the connection has shown.
        "forward_client_cert_details": "SANITIZE_SET" if settings.mutual else "SANITIZE",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"]}]},
        "http_filters": [_only_grpc(), _python(places)],
        "local_reply_config": _refusals(),
    }
    if settings.mutual:
        config["set_current_client_cert_details"] = {"cert": True}
    if settings.access_log:
        config["access_log"] = [_access_log(settings)]
    return config


def _only_grpc() -> dict[str, Any]:
    """What is no gRPC call never reaches Python, where such a call would hang or lose its status."""
    return {
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": f"{_TYPE}{_HTTP}rbac.v3.RBAC",
            "rules": {
                "action": "ALLOW",
                "policies": {
                    "grpc": {
                        "principals": [{"any": True}],
                        "permissions": [
                            {
                                "and_rules": {
                                    "rules": [
                                        {"header": {"name": ":method", "string_match": {"exact": "POST"}}},
                                        {
                                            "header": {
                                                "name": ":path",  # the whole of it: no query either
                                                "string_match": {
                                                    "safe_regex": {"regex": "/[A-Za-z0-9_.]+/[A-Za-z0-9_]+"}
                                                },
                                            }
                                        },
                                        {"header": {"name": "te", "string_match": {"exact": "trailers"}}},
                                        {"header": _is_grpc()},
                                    ]
                                }
                            }
                        ],
                    }
                },
            },
        },
    }


def _refusals() -> dict[str, Any]:
    """A caller who speaks gRPC reads UNIMPLEMENTED (which Envoy makes of 404), anybody else that this is no HTTP service."""

    def mapper(status: int, filters: list[dict[str, Any]]) -> dict[str, Any]:
        forbidden = {
            "status_code_filter": {
                "comparison": {"op": "EQ", "value": {"default_value": 403, "runtime_key": "engine.refused"}}
            }
        }
        both = [forbidden, *filters]
        return {
            "filter": {"and_filter": {"filters": both}} if len(both) > 1 else forbidden,
            "status_code": status,
            "body": {"inline_string": "expected a gRPC call: POST /package.Service/Method, te: trailers"},
        }

    return {"mappers": [mapper(404, [{"header_filter": {"header": _is_grpc()}}]), mapper(415, [])]}


def _is_grpc() -> dict[str, Any]:
    return {
        "name": "content-type",
        "string_match": {"safe_regex": {"regex": "application/grpc([+;].*)?"}},  # and not grpc-web
    }


def _python(places: Places) -> dict[str, Any]:
    told = {"app": places.app, "interface": "asgi", "root_path": "", "lifespan": True, "loop": "uvloop"}
    return {
        "name": "python",
        "typed_config": {
            "@type": f"{_TYPE}{_HTTP}dynamic_modules.v3.DynamicModuleFilter",
            "dynamic_module_config": {"module": {"local": {"filename": str(places.module)}}},
            "filter_name": "pyvoy",
            "terminal_filter": True,
            "filter_config": {
                "@type": "type.googleapis.com/google.protobuf.StringValue",
                "value": json.dumps({**told, "worker_threads": 1}),  # one loop: services are written for one
            },
        },
    }


def _tls(settings: Settings, places: Places) -> dict[str, Any]:
    def secret(name: str) -> dict[str, Any]:
        source = {
            "path_config_source": {"path": str(places.certificates / f"{name}.json")},
            "resource_api_version": "V3",
        }
        return {"name": name, "sds_config": source}

    common: dict[str, Any] = {
        "alpn_protocols": ["h2"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificate_sds_secret_configs": [secret("server")],
    }
    if settings.mutual:
        common["validation_context_sds_secret_config"] = secret("clients")
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPE}extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": common,
            "require_client_certificate": settings.mutual,
        },
    }


def _overload(settings: Settings, places: Places) -> dict[str, Any]:
    """A bound of connections; and the way to tell every connection, idle ones too, that it ends.

    A drain of Envoy's own sends GOAWAY with the next answer alone (envoyproxy/envoy#14350): a connection without calls hears
    nothing, and what is sent on it in the moment of the end is lost. So the file `leaving` is a resource that is used up at once,
    which shortens the age that a connection may have to nothing: its end is then announced, and comes when its calls are done.
    """
    connections = "envoy.resource_monitors.global_downstream_max_connections"
    leaving = "envoy.resource_monitors.injected_resource"
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": connections,
                "typed_config": {
                    "@type": f"{_TYPE}extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": settings.max_connections,
                },
            },
            {
                "name": leaving,
                "typed_config": {
                    "@type": f"{_TYPE}extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig",
                    "filename": str(places.leaving),
                },
            },
        ],
        "actions": [
            {
                "name": "envoy.overload_actions.reduce_timeouts",
                "triggers": [{"name": leaving, "scaled": {"scaling_threshold": 0.1, "saturation_threshold": 0.9}}],
                "typed_config": {
                    "@type": f"{_TYPE}config.overload.v3.ScaleTimersOverloadActionConfig",
                    "timer_scale_factors": [
                        {"timer": "HTTP_DOWNSTREAM_CONNECTION_MAX", "min_timeout": "0.001s"},
                    ],
                },
            }
        ],
    }


def _application_log(settings: Settings) -> dict[str, Any]:
    form = {"time": "%Y-%m-%dT%H:%M:%S.%eZ", "level": "%l", "service": settings.service, "logger": "envoy.%n"}
    return {"application_log_config": {"log_format": {"json_format": {**form, "message": "%j"}}}}


def _access_log(settings: Settings) -> dict[str, Any]:
    """A line for each call, in the form of our own logs."""
    fields = {
        "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
        "level": "info",
        "service": settings.service,
        "logger": "infermesh.access",
        "message": "%REQ(:PATH)%",
        "grpc_status": "%GRPC_STATUS(NUMBER)%",
        "http_status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "duration_ms": "%DURATION%",
        "bytes_in": "%BYTES_RECEIVED%",
        "bytes_out": "%BYTES_SENT%",
        "peer": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "trace": "%REQ(TRACEPARENT)%",
    }
    words = " ".join(f"{name}={value}" for name, value in [*fields.items()][5:])
    text = f"INFO    {settings.service}: {fields['message']} {words}\n"
    form: dict[str, Any] = (
        {"json_format": fields} if settings.log_json else {"text_format_source": {"inline_string": text}}
    )
    return {
        "name": "envoy.access_loggers.stderr",
        "typed_config": {
            "@type": f"{_TYPE}extensions.access_loggers.stream.v3.StderrAccessLog",
            "log_format": form,
        },
    }


def _seconds(value: float) -> str:
    return f"{value:g}s" if value < 1e5 else f"{value:.0f}s"

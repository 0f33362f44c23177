"""The fsspec filesystem of each kind of root, set up so that nothing is cached and nothing waits for ever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["filesystem"]

CHUNK_BYTES = 4 * 2**20
CHUNKS_AT_A_TIME = 4  # 16 MiB of memory for each file that is downloaded
CONNECT_TIMEOUT_S = 5.0


def filesystem(scheme: str, options: Mapping[str, Any], timeout_s: float) -> Any:
    """A filesystem of its own, not one that another part of this process may have set up. Blocks while it looks for
    credentials. `options` are fsspec's storage options and come before what is set here."""
    make = {"s3": _s3, "gs": _gs}.get(scheme, _http)
    return make(options, timeout_s)


def _s3(options: Mapping[str, Any], timeout_s: float) -> Any:
    from s3fs import S3FileSystem  # type: ignore[import-untyped]  # an extra

    config = {
        "connect_timeout": min(CONNECT_TIMEOUT_S, timeout_s),
        "read_timeout": timeout_s,
        "retries": {"max_attempts": 0},  # it is our connection that asks again: two such loops would multiply
        **options.get("config_kwargs", {}),
    }
    fs = S3FileSystem(**{"use_listings_cache": False, **options, "config_kwargs": config, "skip_instance_cache": True})
    fs.retries = 1
    fs.infermesh_download = {"chunksize": CHUNK_BYTES, "max_concurrency": CHUNKS_AT_A_TIME}
    return fs


def _gs(options: Mapping[str, Any], timeout_s: float) -> Any:
    # Not `gcsfs.GCSFileSystem`: that one asks Google's control API over gRPC what kind of bucket it has before it lists it,
    # at an address that `endpoint_url` does not change.
    from aiohttp import ClientTimeout
    from gcsfs.core import GCSFileSystem  # type: ignore[import-untyped]  # an extra

    fs = GCSFileSystem(
        **{
            "access": "read_only",
            "use_listings_cache": False,
            "requests_timeout": ClientTimeout(
                total=None, sock_connect=min(CONNECT_TIMEOUT_S, timeout_s), sock_read=timeout_s
            ),
            **options,
            "skip_instance_cache": True,
        }
    )
    fs.infermesh_download = {"chunk_size": CHUNK_BYTES, "concurrency": CHUNKS_AT_A_TIME}
    return fs


def _http(options: Mapping[str, Any], timeout_s: float) -> Any:
    from aiohttp import ClientTimeout
    from fsspec.implementations.http import HTTPFileSystem  # type: ignore[import-untyped]

    # aiohttp's own total of 5 minutes would end the download of a large file.
    timeout = ClientTimeout(total=None, sock_connect=min(CONNECT_TIMEOUT_S, timeout_s), sock_read=timeout_s)
    fs = HTTPFileSystem(
        **{
            **options,
            "headers": {"Accept-Encoding": "identity", **options.get("headers", {})},  # sizes are of what is stored
            "client_kwargs": {"timeout": timeout, **options.get("client_kwargs", {})},
            "encoded": True,  # names are encoded once, by us
            "skip_instance_cache": True,
        }
    )
    fs.infermesh_download = {"chunk_size": 2**18}
    return fs

"""Real HTTP servers on loopback that hold models: S3 (moto), the JSON API of Google Cloud Storage (a fake of our own), and
web servers with pages of folders or with an index.json."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import boto3
import pytest
from moto.server import ThreadedMotoServer

from services.predictor.config import CacheConfig
from services.predictor.source import Source, open_source

Answer = Callable[["Reply"], bool]


@dataclass
class Reply:
    """What a test's own answer is given: it returns whether it has answered."""

    method: str
    path: str
    handler: BaseHTTPRequestHandler

    def send(self, status: int, body: bytes = b"", **headers: str) -> bool:
        self.handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.end_headers()
        if self.method != "HEAD":
            self.handler.wfile.write(body)
        return True


class Server:
    """Answers from `files`, in the form of its subclass; `answer` comes before, and `requests` has what was asked."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.answer: Answer = lambda reply: False
        self.released = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = unquote(self.path)
                outer.requests.append(f"{self.command} {path}")
                reply = Reply(self.command, path, self)
                try:
                    if not outer.answer(reply):
                        outer.reply(reply)
                except ConnectionError:
                    self.close_connection = True

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def put(self, name: str, content: bytes) -> None:
        self.files[f"models/{name}"] = content

    def delete(self, name: str) -> None:
        del self.files[f"models/{name}"]

    def downloads(self) -> list[str]:
        return [request for request in self.requests if request.startswith("GET") and "/model.onnx" in request]

    def reply(self, reply: Reply) -> None:
        raise NotImplementedError

    def hang(self, reply: Reply) -> bool:
        """An answer that never comes."""
        self.released.wait(60)
        return True

    def stop(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Pages(Server):
    """A web server that makes a page of each folder, as nginx and Python's http.server do."""

    options: dict[str, Any] = {}

    @property
    def url(self) -> str:
        return f"{self.endpoint}/models"

    def reply(self, reply: Reply) -> None:
        path = reply.path.split("?")[0].lstrip("/")
        if path in self.files:
            content = self.files[path]
            reply.send(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', Last_Modified=formatdate(0))
            return
        names = {name[len(path) :] for name in self.files if path.endswith("/") and name.startswith(path)}
        here = sorted({name.partition("/")[0] + "/" * ("/" in name) for name in names})
        if not here:
            reply.send(404)
            return
        links = ["../", "?C=M;O=D", *(quote(name) for name in here)]
        page = "".join(f'<a href="{escape(link)}">x</a>' for link in links)
        reply.send(200, page.encode(), Content_Type="text/html")


class Index(Pages):
    """A web server with an index.json at its root, and no pages."""

    def reply(self, reply: Reply) -> None:
        if reply.path == "/models/index.json":
            files = {
                name.removeprefix("models/"): {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                for name, content in self.files.items()
            }
            reply.send(200, json.dumps({"files": files}).encode(), Content_Type="application/json")
        elif reply.path.endswith("/"):
            reply.send(403)
        else:
            super().reply(reply)


class Gcs(Server):
    """As much of Google Cloud Storage's JSON API as gcsfs asks for: list with prefix and delimiter, one object, its media."""

    url = "gs://bucket/models"

    def downloads(self) -> list[str]:
        return [request for request in super().downloads() if "/download/" in request or "alt=media" in request]

    @property
    def options(self) -> dict[str, Any]:
        return {"gs": {"endpoint_url": self.endpoint, "token": "anon", "project": "p"}}

    def reply(self, reply: Reply) -> None:
        parts = urlsplit(reply.handler.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        _, _, rest = parts.path.partition("/b/bucket/o")
        name = unquote(rest.lstrip("/"))
        if not name:
            reply.send(200, json.dumps(self._listing(**query)).encode(), Content_Type="application/json")
        elif name not in self.files:
            reply.send(404, b"{}")
        elif parts.path.startswith("/download/") or query.get("alt") == "media":
            reply.send(200, self.files[name])
        else:
            reply.send(200, json.dumps(self._object(name)).encode(), Content_Type="application/json")

    def _listing(self, prefix: str = "", delimiter: str = "", **_: str) -> dict[str, Any]:
        names = [name for name in self.files if name.startswith(prefix)]
        deeper = [name for name in names if delimiter and delimiter in name[len(prefix) :]]
        prefixes = {prefix + name[len(prefix) :].partition(delimiter)[0] + delimiter for name in deeper}
        items = [self._object(name) for name in names if name not in deeper]
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}

    def _object(self, name: str) -> dict[str, Any]:
        digest = hashlib.md5(self.files[name]).digest()
        return {
            "name": name,
            "bucket": "bucket",
            "size": str(len(self.files[name])),
            "md5Hash": base64.b64encode(digest).decode(),
            "generation": str(int.from_bytes(digest[:4], "big")),
        }


@dataclass
class S3:
    """A bucket of its own on moto's server, with what was asked of it."""

    client: Any
    endpoint: str
    bucket: str
    requests: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/models"

    @property
    def options(self) -> dict[str, Any]:
        return {"s3": {"endpoint_url": self.endpoint}}

    def put(self, name: str, content: bytes, **more: str) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"models/{name}", Body=content, **more)

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=f"models/{name}")

    def downloads(self) -> list[str]:
        return [r for r in self.requests if f"GET /{self.bucket}/models/" in r and "model.onnx" in r]


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those of the environment, and nothing else of this machine."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def s3(moto: str, credentials: None) -> Iterator[S3]:
    bucket = S3(boto3.client("s3", endpoint_url=moto), moto, f"bucket-{uuid.uuid4().hex[:12]}")
    bucket.client.create_bucket(Bucket=bucket.bucket)
    logger = logging.getLogger("werkzeug")  # a line for each request

    class Seen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            bucket.requests.append(record.getMessage())

    seen, before = Seen(), (logger.level, logger.propagate)
    logger.addHandler(seen)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield bucket
    logger.removeHandler(seen)
    logger.setLevel(before[0])
    logger.propagate = before[1]


@pytest.fixture
def run() -> Iterator[Callable[[type[Server]], Server]]:
    """`run(Pages)`: a server of that kind."""
    servers: list[Server] = []

    def run(kind: type[Server]) -> Server:
        servers.append(kind())
        return servers[-1]

    yield run
    for server in servers:
        server.stop()


@pytest.fixture
def pages(run: Callable[[type[Server]], Server]) -> Server:
    return run(Pages)


@pytest.fixture
def index(run: Callable[[type[Server]], Server]) -> Server:
    return run(Index)


@pytest.fixture(params=["s3", "gs", "pages", "index"])
def store(request: pytest.FixtureRequest, run: Callable[[type[Server]], Server]) -> Any:
    """Each kind of remote root."""
    if request.param == "s3":
        return request.getfixturevalue("s3")
    return run({"gs": Gcs, "pages": Pages, "index": Index}[request.param])


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def open_root(cache: Path) -> Callable[..., Source]:
    """`open_root(store, max_bytes="1MiB")`: a source with nothing in memory; the cache on disk is the test's."""

    def open_root(store: Any, **settings: Any) -> Source:
        config = CacheConfig(**{"folder": cache, "timeout": "10s", **settings})
        return open_source(store.url, config, store.options)

    return open_root

"""A small Kubernetes API over real HTTP: namespaces and secrets, read only, with faults on demand.

Owns just what the proxy uses of the API: two lists with pages, one secret by name, bearer tokens, TLS. What it answers
was compared with a real kube-apiserver: `tests.directory.test_contract` runs over both.
"""

from __future__ import annotations

import atexit
import base64
import functools
import json
import shutil
import socket
import ssl
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from .certificates import Authority
from .servers import free_port

TOKEN = "token-of-the-small-api"
NAMESPACES = "/api/v1/namespaces"
#: In place of a path: whatever is asked.
ANY = "*"


def secrets_path(namespace: str) -> str:
    return f"{NAMESPACES}/{namespace}/secrets"


@dataclass(frozen=True)
class Fault:
    """What is answered instead. A status of 0 is no answer at all."""

    status: int = 0
    reason: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    #: bytes of the body that are announced and never sent
    missing: int = 0


#: Accepts the request and says nothing, until the server stops.
HANG = Fault()
#: Ends in the middle of the body.
HALF_WRITTEN = Fault(200, body=b'{"kind": "SecretList", "items": [', missing=500)
#: As a proxy before the API server might answer.
NOT_JSON = Fault(200, body=b"<html>please log in</html>")
#: Answers that are none, and end at once.
BROKEN = (HALF_WRITTEN, NOT_JSON)


def refusal(status: int, text: str = "refused by the test", **headers: str) -> Fault:
    """An error as the API server words it. headers: with _ for - in their names."""
    return Fault(
        status, headers={name.replace("_", "-"): value for name, value in headers.items()}, body=_status(status, text)
    )


def _status(code: int, message: str, reason: str = "Unknown") -> bytes:
    return json.dumps(
        {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code}
    ).encode()


@dataclass(frozen=True)
class Request:
    """One request that arrived. authorization: the header."""

    path: str
    query: Mapping[str, str]
    authorization: str


class ApiServer:
    """One API server on a port of 127.0.0.1, which stays the same when it is stopped and started again."""

    def __init__(self, *documents: dict, tls: bool = False) -> None:
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="redisproxy-test-"))
        self.tls = tls
        #: who may ask; change it while it runs
        self.tokens = {TOKEN}
        self.requests: list[Request] = []
        self._faults: dict[str, Fault] = {}
        self._continues: dict[str, list[dict]] = {}
        self._continues_expire = False
        #: by kind and namespace, then by name
        self._objects: dict[tuple[str, str], dict[str, dict]] = {}
        self._version = 100
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self.put(*documents)

    # What it holds.

    def put(self, *documents: dict) -> None:
        """Creates or replaces Namespaces and Secrets. stringData becomes data, as in a real API server."""
        for document in documents:
            new = json.loads(json.dumps(document))
            metadata = new["metadata"]
            with self._lock:
                self._version += 1
                held = self._objects.setdefault((new["kind"], metadata.get("namespace", "")), {})
                old = held.get(metadata["name"])
                metadata["resourceVersion"] = str(self._version)
                metadata["uid"] = old["metadata"]["uid"] if old else str(uuid.uuid4())
                if "creationTimestamp" not in metadata:
                    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                    metadata["creationTimestamp"] = old["metadata"]["creationTimestamp"] if old else now
                if new["kind"] == "Secret":
                    new.setdefault("type", "Opaque")
                for name, text in new.pop("stringData", {}).items():
                    new.setdefault("data", {})[name] = base64.b64encode(text.encode()).decode()
                held[metadata["name"]] = new

    def delete(self, name: str, secret: str | None = None) -> None:
        """A namespace with all that is in it, or one secret of it."""
        with self._lock:
            self._version += 1
            if secret is None:
                self._objects.get(("Namespace", ""), {}).pop(name, None)
                self._objects.pop(("Secret", name), None)
            else:
                self._objects.get(("Secret", name), {}).pop(secret, None)

    # Faults.

    def fail(self, path: str, fault: Fault) -> None:
        """Answers so from now on. path: without a query, or ANY."""
        self._faults[path] = fault

    def mend(self) -> None:
        self._faults.clear()
        self._continues_expire = False

    def expire_continues(self) -> None:
        """As when etcd was compacted between two pages: those that follow are gone, each time, until mended."""
        self._continues_expire = True

    # What tells a client where it is.

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig for it, written anew each time."""
        return self.write_kubeconfig(self.directory / "kubeconfig")

    def write_kubeconfig(self, path: Path, token: str = TOKEN, ca: bool = True) -> Path:
        cluster = {"server": self.url}
        if self.tls and ca:
            cluster["certificate-authority"] = str(authority().path)
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        path.write_text(json.dumps(config))
        return path

    def service_account(self, token: str = TOKEN) -> Path:
        """A directory such as every pod has, with a token and the CA."""
        directory = self.directory / "serviceaccount"
        directory.mkdir(exist_ok=True)
        (directory / "token").write_text(token)
        (directory / "ca.crt").write_bytes(authority().path.read_bytes())
        return directory

    # Running.

    def start(self) -> ApiServer:
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def stop(self) -> None:
        """As if killed: open connections are cut, the port is closed."""
        server, self._server = self._server, None
        if server is not None:
            server.cut()

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    # What it answers.

    def answer(self, request: Request) -> Fault:
        """Also a good answer is a Fault, of status 200."""
        self.requests.append(request)
        fault = self._faults.get(request.path) or self._faults.get(ANY)
        if fault is not None:
            return fault
        scheme, _, token = request.authorization.partition(" ")
        if scheme.lower() != "bearer" or token not in self.tokens:
            return Fault(401, body=_status(401, "Unauthorized", "Unauthorized"))
        with self._lock:
            match request.path.removeprefix("/api/v1/").split("/"):
                case ["namespaces"]:
                    return self._list("Namespace", "", request.query)
                case ["namespaces", namespace, "secrets"]:
                    return self._list("Secret", namespace, request.query)
                case ["namespaces", namespace, "secrets", name]:
                    found = self._objects.get(("Secret", namespace), {}).get(name)
                    if found is None:
                        return Fault(404, body=_status(404, f'secrets "{name}" not found', "NotFound"))
                    return Fault(200, body=json.dumps(found).encode())
                case _:
                    return Fault(404, body=_status(404, "the server could not find the requested resource", "NotFound"))

    def _list(self, kind: str, namespace: str, query: Mapping[str, str]) -> Fault:
        if "continue" in query:
            items = self._continues.get(query["continue"])
            if items is None or self._continues_expire:
                text = "The provided continue parameter is too old to display a consistent list result."
                return Fault(410, body=_status(410, text, "Expired"))
        else:
            items = [item for _, item in sorted(self._objects.get((kind, namespace), {}).items())]
            if "fieldSelector" in query:
                field, _, value = query["fieldSelector"].partition("!=")
                items = [item for item in items if item[field] != value]
        metadata = {"resourceVersion": str(self._version)}
        limit = int(query.get("limit", "0"))
        if limit and len(items) > limit:
            metadata["continue"] = base64.urlsafe_b64encode(f"{self._version} {len(self._continues)}".encode()).decode()
            # The pages that follow show what was there at the first one.
            self._continues[metadata["continue"]] = items[limit:]
            items = items[:limit]
        # As from a real API server, the items of a list do not say of what kind they are.
        shown = [{name: part for name, part in item.items() if name not in ("kind", "apiVersion")} for item in items]
        return Fault(
            200, body=json.dumps({"kind": f"{kind}List", "apiVersion": "v1", "metadata": metadata, "items": shown}).encode()
        )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, api: ApiServer) -> None:
        super().__init__(("127.0.0.1", api.port), _Connection)
        self.api = api
        self.stopped = threading.Event()
        self._open: set[socket.socket] = set()
        if api.tls:
            # The handshake is left to each connection's own thread.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*server_certificate())
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: socket.socket) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        self.stopped.set()
        self.shutdown()
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up, or does not like our certificate, is part of the tests."""


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    #: headers and body are two writes: Nagle would make each answer 40 ms late
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        answer = self.server.api.answer(Request(url.path, query, self.headers.get("Authorization", "")))
        if not answer.status:
            self.server.stopped.wait()
            self.close_connection = True
            return
        body = answer.body or b""
        self.send_response(answer.status, answer.reason or None)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body) + answer.missing), **answer.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = self.close_connection or bool(answer.missing)

    def log_message(self, *_: object) -> None:
        pass


@functools.cache
def authority() -> Authority:
    """The CA of the API servers here, made once."""
    directory = Path(tempfile.mkdtemp(prefix="redisproxy-test-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Authority(directory)


@functools.cache
def server_certificate() -> tuple[Path, Path]:
    """(certificate, key) for 127.0.0.1. No name: localhost is then a wrong one."""
    return authority().issue("apiserver", "127.0.0.1")

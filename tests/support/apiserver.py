"""A small Kubernetes API server over real HTTP: namespaces and secrets, with faults on demand.

Owns only the part of the API that the proxy and the operator's command use: lists with pages, one
secret by name, watches, bearer tokens and TLS; creating, replacing and deleting a secret; patching
the annotations of a namespace.
`tests.sources.test_contract` runs over this server and a real kube-apiserver, and so compares their
answers.
"""

from __future__ import annotations

import base64
import bisect
import functools
import json
import re
import shutil
import socket
import ssl
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from .certificates import Authority
from .servers import free_port

TOKEN = "token-of-the-small-api"
NAMESPACES = "/api/v1/namespaces"
#: Stands for every path.
ANY = "*"


def secrets_path(namespace: str) -> str:
    return f"{NAMESPACES}/{namespace}/secrets"


@dataclass(frozen=True)
class Fault:
    """An answer in place of the real one. A status of 0 means that no answer is sent."""

    status: int = 0
    reason: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    #: bytes of the body that are announced and never sent
    missing: int = 0


#: Accepts the request and sends nothing, until the server stops.
HANG = Fault()
#: Ends in the middle of the body.
HALF_WRITTEN = Fault(200, body=b'{"kind": "SecretList", "items": [', missing=500)
#: The answer that a proxy before the API server might send.
NOT_JSON = Fault(200, body=b"<html>please log in</html>")
#: Answers that are not valid, and arrive at once.
BROKEN = (HALF_WRITTEN, NOT_JSON)


def refusal(status: int, text: str = "refused by the test", **headers: str) -> Fault:
    """Returns an error in the form of the API server's. headers: with _ for - in their names."""
    return Fault(
        status, headers={name.replace("_", "-"): value for name, value in headers.items()}, body=_status(status, text)
    )


def _status(code: int, message: str, reason: str = "Unknown") -> bytes:
    return json.dumps(
        {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code}
    ).encode()


@dataclass(frozen=True)
class Request:
    """One request that arrived. authorization: the value of that header."""

    path: str
    query: Mapping[str, str]
    authorization: str
    accept: str = ""
    method: str = "GET"
    body: bytes = b""
    content_type: str = ""

    @property
    def watches(self) -> bool:
        return self.says("watch")

    def says(self, parameter: str) -> bool:
        """Returns whether a parameter is true, by the rules of Kubernetes: the official client
        wrote "True" before its version 36.
        """
        return self.query.get(parameter, "false").lower() not in ("false", "0")


class ApiServer:
    """An API server on a port of 127.0.0.1, which stays the same when the server stops and starts
    again.
    """

    def __init__(self, *documents: dict, tls: bool = False) -> None:
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="redisproxy-test-"))
        self.tls = tls
        write_certificates(self.directory)
        #: The tokens that are accepted. A test may change them while the server runs.
        self.tokens = {TOKEN}
        #: Those tokens that may only read, like the proxy's own service account.
        self.readers: set[str] = set()
        self.requests: list[Request] = []
        #: Whether it knows lists of metadata.
        self.knows_metadata = True
        self._faults: dict[str, Fault] = {}
        self._continues: dict[str, list[dict]] = {}
        self._continues_expire = False
        #: By kind and namespace, then by name.
        self._objects: dict[tuple[str, str], dict[str, dict]] = {}
        self._version = 100
        self._lock = threading.RLock()
        self._init_watches()
        self._server: _Server | None = None
        self.put(*documents)

    # Objects.

    def put(self, *documents: dict) -> None:
        """Creates or replaces Namespaces and Secrets. stringData becomes data, as in a real API
        server.
        """
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
                self._happened("MODIFIED" if old else "ADDED", new)

    def secret(self, namespace: str, name: str) -> dict | None:
        """Returns a secret, or None if there is none."""
        with self._lock:
            return self._objects.get(("Secret", namespace), {}).get(name)

    def delete(self, name: str, secret: str | None = None) -> None:
        """Deletes a namespace with everything in it, or one secret of it."""
        with self._lock:
            if secret is None:
                # The namespace controller, too, deletes the contents first.
                for found in list(self._objects.get(("Secret", name), {})):
                    self._remove("Secret", name, found)
                self._remove("Namespace", "", name)
            else:
                self._remove("Secret", name, secret)

    def _remove(self, kind: str, namespace: str, name: str) -> None:
        old = self._objects.get((kind, namespace), {}).pop(name, None)
        if old is not None:
            self._version += 1
            # A copy, because another thread may be about to send the old object.
            self._happened("DELETED", {**old, "metadata": {**old["metadata"], "resourceVersion": str(self._version)}})

    # Events and watches.

    def _init_watches(self) -> None:
        #: (version, type of the event, object), back to the last `compact`
        self._events: list[tuple[int, str, dict]] = []
        #: The last version whose event is gone.
        self._compacted = 0
        self._news = threading.Condition(self._lock)
        self._watch_faults: dict[str, Fault] = {}
        #: Open streams, by number: the path, and whether the watch begins before the oldest event
        #: that is kept. A stream that is removed here ends.
        self._watches: dict[int, tuple[str, bool]] = {}
        self._watch_number = 0
        self._stalled = False
        self._said: dict[int, bytes] = {}

    def _happened(self, what: str, item: dict) -> None:
        """Records an event. Called with the lock held."""
        self._events.append((self._version, what, item))
        self._news.notify_all()

    def watches(self) -> list[str]:
        """Returns the paths of the open watches, without those that will get the error that they
        begin too long ago.
        """
        with self._lock:
            return [path for path, too_old in self._watches.values() if not too_old]

    def fail_watches(self, path: str, fault: Fault) -> None:
        """Answers new watches with this fault from now on. Lists still work, and open watches stay
        open.
        """
        self._watch_faults[path] = fault

    def compact(self) -> None:
        """Forgets all events so far. A watch that asks for them gets an error in its stream, as
        from a real API server.
        """
        with self._lock:
            self._compacted = self._version
            self._events.clear()

    def cut_watches(self) -> None:
        """Closes the connections of all watches in the middle."""
        with self._lock:
            self._watches.clear()
            self._news.notify_all()

    def stall_watches(self) -> None:
        """Sends nothing more on watches, not even an end, until `fix`."""
        self._stalled = True

    def say(self, line: bytes) -> None:
        """Sends this line as it is on each open watch."""
        with self._lock:
            self._said = dict.fromkeys(self._watches, line)
            self._news.notify_all()

    def watch(self, request: Request, begin: Callable[[], None], send: Callable[[bytes], None]) -> bool:
        """Sends the events of a watch, one with each call of `send`, after `begin`. Returns True if
        the watch came to its own end, and False if it was cut.
        """
        kind, namespace, chosen = self._selected(request)
        begins = request.query.get("resourceVersion", "")
        with self._lock:
            number = self._watch_number = self._watch_number + 1
            self._watches[number] = request.path, begins not in ("", "0") and int(begins) < self._compacted
        try:
            begin()
            return self._watch(request, send, number, kind, namespace, chosen)
        finally:
            with self._lock:
                self._watches.pop(number, None)

    def _watch(
        self,
        request: Request,
        send: Callable[[bytes], None],
        number: int,
        kind: str,
        namespace: str | None,
        chosen: Callable[[dict], bool],
    ) -> bool:
        server = self._server
        until = time.monotonic() + float(request.query.get("timeoutSeconds", "1800"))
        start = request.query.get("resourceVersion", "")
        with self._lock:
            if start in ("", "0"):
                at = self._version
                waiting = [("ADDED", item) for item in self._items(kind, namespace) if chosen(item)]
            else:
                at, waiting = int(start), []
                if at < self._compacted:
                    text = f"too old resource version: {at} ({self._compacted + 1})"
                    status = {**json.loads(_status(410, text, "Expired")), "metadata": {}}
                    waiting = [("ERROR", status)]
        while True:
            for what, item in waiting:
                shown = _metadata_only(item) if "PartialObjectMetadata" in request.accept and what != "ERROR" else item
                send(json.dumps({"type": what, "object": shown}, separators=(",", ":")).encode() + b"\n")
                if what == "ERROR":
                    return True
            with self._lock:
                left = until - time.monotonic()
                if server is None or server.stopped.is_set() or number not in self._watches:
                    return False
                said = self._said.pop(number, None)
                waiting = []
                if not self._stalled:
                    waiting = [
                        (what, item)
                        for _, what, item in self._events[bisect.bisect(self._events, at, key=lambda event: event[0]) :]
                        if item["kind"] == kind and _within(item, namespace) and chosen(item)
                    ]
                    at = max(at, self._version)
                    if left <= 0:
                        break
                if not waiting and said is None:
                    self._news.wait(min(0.5, max(left, 0.01)))
            if said is not None:
                send(said)
        if request.says("allowWatchBookmarks"):
            item = {"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": str(at), "creationTimestamp": None}}
            waiting.append(("BOOKMARK", item))
        for what, item in waiting:
            shown = _metadata_only(item) if "PartialObjectMetadata" in request.accept else item
            send(json.dumps({"type": what, "object": shown}, separators=(",", ":")).encode() + b"\n")
        return True

    def _items(self, kind: str, namespace: str | None) -> list[dict]:
        """Returns the objects in the order of the API. namespace: None for all."""
        collections = sorted(key for key in self._objects if key[0] == kind) if namespace is None else [(kind, namespace)]
        return [item for place in collections for _, item in sorted(self._objects.get(place, {}).items())]

    def _selected(self, request: Request) -> tuple[str, str | None, Callable[[dict], bool]]:
        """Returns what a list or a watch covers: kind, namespace, and the filter of the field
        selector.
        """
        match request.path.removeprefix("/api/v1/").split("/"):
            case ["namespaces"]:
                kind, namespace = "Namespace", None
            case ["secrets"]:
                kind, namespace = "Secret", None
            case ["namespaces", where, "secrets"]:
                kind, namespace = "Secret", where
            case _:
                raise ValueError(f"{request.path} can be neither listed nor watched")
        field, sign, value = re.fullmatch(r"([a-z.]*)(!?=?)(.*)", request.query.get("fieldSelector", "")).groups()

        def chosen(item: dict) -> bool:
            found = item["metadata"]["name"] if field == "metadata.name" else item.get(field)
            return not field or (found == value) == (sign == "=")

        return kind, namespace, chosen

    # Faults.

    def fail(self, path: str, fault: Fault) -> None:
        """Answers a path with this fault from now on. path: without a query, or ANY."""
        self._faults[path] = fault

    def fix(self) -> None:
        self._faults.clear()
        self._watch_faults.clear()
        self._stalled = False
        self._continues_expire = False

    def expire_continues(self) -> None:
        """Makes each following page fail as if etcd was compacted between two pages, until
        `fix`.
        """
        self._continues_expire = True

    # Where clients find it.

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def kubeconfig(self) -> Path:
        """The path of a kubeconfig for this server, written anew each time."""
        return self.write_kubeconfig(self.directory / "kubeconfig")

    def write_kubeconfig(self, path: Path, token: str = TOKEN, ca: bool = True) -> Path:
        cluster = {"server": self.url}
        if self.tls and ca:
            cluster["certificate-authority"] = str(self.directory / "ca.pem")
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
        """Returns a directory like the one that every pod has, with a token and the CA."""
        directory = self.directory / "serviceaccount"
        directory.mkdir(exist_ok=True)
        (directory / "token").write_text(token)
        shutil.copy(self.directory / "ca.pem", directory / "ca.crt")
        return directory

    # Start and stop.

    def start(self) -> ApiServer:
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Cuts open connections and closes the port, as if the server was killed."""
        server, self._server = self._server, None
        if server is not None:
            server.cut()
            with self._lock:
                self._news.notify_all()

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    # Answers.

    def answer(self, request: Request) -> Fault:
        """Returns the answer to a request. A good answer, too, is a Fault, with status 200."""
        self.requests.append(request)
        fault = self._faults.get(request.path) or self._faults.get(ANY)
        if fault is None and request.watches:
            fault = self._watch_faults.get(request.path) or self._watch_faults.get(ANY)
        if fault is not None:
            return fault
        scheme, _, token = request.authorization.partition(" ")
        if scheme.lower() != "bearer" or token not in self.tokens:
            return Fault(401, body=_status(401, "Unauthorized", "Unauthorized"))
        if request.method != "GET":
            return self._write(request, token)
        with self._lock:
            match request.path.removeprefix("/api/v1/").split("/"):
                case ["namespaces"] | ["secrets"] | ["namespaces", _, "secrets"]:
                    return Fault(200) if request.watches else self._list(request)
                case ["namespaces", namespace, "secrets", name]:
                    found = self._objects.get(("Secret", namespace), {}).get(name)
                    if found is None:
                        return Fault(404, body=_status(404, f'secrets "{name}" not found', "NotFound"))
                    return Fault(200, body=json.dumps(found).encode())
                case _:
                    return Fault(404, body=_status(404, "the server could not find the requested resource", "NotFound"))

    def _write(self, request: Request, token: str) -> Fault:
        """Creates, replaces or deletes a secret. It refuses the same requests as a real API
        server.
        """
        match (request.method, *request.path.removeprefix("/api/v1/").split("/")):
            case ("POST", "namespaces", namespace, "secrets"):
                verb, name = "create", ""
            case ("PUT", "namespaces", namespace, "secrets", name):
                verb = "update"
            case ("DELETE", "namespaces", namespace, "secrets", name):
                verb = "delete"
            case ("PATCH", "namespaces", name):
                return self._patch(request, token, name)
            case _:
                return Fault(405, body=_status(405, "the server does not allow this method", "MethodNotAllowed"))
        if token in self.readers:
            text = f'secrets is forbidden: cannot {verb} resource "secrets" in the namespace "{namespace}"'
            return Fault(403, body=_status(403, text, "Forbidden"))
        document = json.loads(request.body or b"{}")
        metadata = document.get("metadata", {})
        name = name or metadata.get("name", "")
        with self._lock:
            held = self._objects.get(("Secret", namespace), {}).get(name)
            if verb == "create":
                if namespace not in self._objects.get(("Namespace", ""), {}):
                    return Fault(404, body=_status(404, f'namespaces "{namespace}" not found', "NotFound"))
                if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name):
                    return Fault(422, body=_status(422, f'Secret "{name}" is invalid', "Invalid"))
                if held is not None:
                    return Fault(409, body=_status(409, f'secrets "{name}" already exists', "AlreadyExists"))
            elif held is None and verb == "update" and "uid" in metadata:
                return Fault(409, body=_status(409, "Precondition failed: UID in precondition", "Conflict"))
            elif held is None:
                return Fault(404, body=_status(404, f'secrets "{name}" not found', "NotFound"))
            elif verb == "update":
                if (
                    metadata.get("resourceVersion", held["metadata"]["resourceVersion"])
                    != held["metadata"]["resourceVersion"]
                ):
                    text = "the object has been modified; please apply your changes to the latest version and try again"
                    return Fault(409, body=_status(409, text, "Conflict"))
                if held.get("immutable") and document.get("data") != held.get("data"):
                    text = f'Secret "{name}" is invalid: data: Forbidden: field is immutable when `immutable` is set'
                    return Fault(422, body=_status(422, text, "Invalid"))
            elif document.get("preconditions", {}).get("uid", held["metadata"]["uid"]) != held["metadata"]["uid"]:
                return Fault(409, body=_status(409, "Precondition failed: UID in precondition", "Conflict"))
            if verb == "delete":
                self.delete(namespace, name)
                return Fault(200, body=json.dumps({"kind": "Status", "apiVersion": "v1", "status": "Success"}).encode())
            metadata["namespace"] = namespace
            if verb == "create":
                metadata.pop("creationTimestamp", None)
            self.put(document)
            made = self._objects["Secret", namespace][name]
            return Fault(201 if verb == "create" else 200, body=json.dumps(made).encode())

    def _patch(self, request: Request, token: str, name: str) -> Fault:
        """Merges annotations into those of a namespace."""
        if token in self.readers:
            text = f'namespaces "{name}" is forbidden: cannot patch resource "namespaces"'
            return Fault(403, body=_status(403, text, "Forbidden"))
        if request.content_type != "application/merge-patch+json":
            return Fault(415, body=_status(415, "the body of the request was in an unknown format", "UnsupportedMediaType"))
        with self._lock:
            held = self._objects.get(("Namespace", ""), {}).get(name)
            if held is None:
                return Fault(404, body=_status(404, f'namespaces "{name}" not found', "NotFound"))
            wanted = json.loads(request.body)["metadata"]["annotations"]
            merged = {**held["metadata"].get("annotations", {}), **wanted}
            annotations = {key: value for key, value in merged.items() if value is not None}
            self.put({**held, "metadata": {**held["metadata"], "annotations": annotations}})
            return Fault(200, body=json.dumps(self._objects["Namespace", ""][name]).encode())

    def _list(self, request: Request) -> Fault:
        query = request.query
        kind, namespace, chosen = self._selected(request)
        if "continue" in query:
            items = self._continues.get(query["continue"])
            if items is None or self._continues_expire:
                text = "The provided continue parameter is too old to display a consistent list result."
                return Fault(410, body=_status(410, text, "Expired"))
        else:
            items = [item for item in self._items(kind, namespace) if chosen(item)]
        metadata = {"resourceVersion": str(self._version)}
        limit = int(query.get("limit", "0"))
        if limit and len(items) > limit:
            metadata["continue"] = base64.urlsafe_b64encode(f"{self._version} {len(self._continues)}".encode()).decode()
            # Later pages show the objects as they were for the first page.
            self._continues[metadata["continue"]] = items[limit:]
            items = items[:limit]
        # A real API server, too, leaves out the kind of a list's items.
        shown = [{name: part for name, part in item.items() if name not in ("kind", "apiVersion")} for item in items]
        answer = {"kind": f"{kind}List", "apiVersion": "v1", "metadata": metadata, "items": shown}
        if "as=PartialObjectMetadataList" in request.accept and self.knows_metadata:
            partial = [_metadata_only(item) for item in items]
            answer = {
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
                "items": partial,
            }
        return Fault(200, body=json.dumps(answer).encode())


def _metadata_only(item: dict) -> dict:
    """Returns an object in the form of a PartialObjectMetadata, with the fields in the API server's
    order.
    """
    order = ("name", "generateName", "namespace", "uid", "resourceVersion", "creationTimestamp")
    metadata = {name: item["metadata"][name] for name in order if name in item["metadata"]}
    metadata |= item["metadata"]
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}


def _within(item: dict, namespace: str | None) -> bool:
    return namespace is None or item["metadata"].get("namespace", "") == namespace


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, api: ApiServer) -> None:
        super().__init__(("127.0.0.1", api.port), _Connection)
        self.api = api
        self.stopped = threading.Event()
        self._open: set[socket.socket] = set()
        if api.tls:
            # Each connection's own thread makes the handshake.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(api.directory / "apiserver.pem", api.directory / "apiserver.key")
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
        """Ignores errors: a client that hangs up or rejects the certificate is part of the
        tests.
        """


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    #: Headers and body are two writes: Nagle's algorithm would delay each answer by 40 ms.
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        authorization, accept = (self.headers.get(name, "") for name in ("Authorization", "Accept"))
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        content_type = self.headers.get("Content-Type", "")
        request = Request(url.path, query, authorization, accept, self.command, body, content_type)
        answer = self.server.api.answer(request)
        if not answer.status:
            self.server.stopped.wait()
            self.close_connection = True
            return
        if request.watches and answer == Fault(200):
            self._stream(request)
            return
        body = answer.body or b""
        self.send_response(answer.status, answer.reason or None)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body) + answer.missing), **answer.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = self.close_connection or bool(answer.missing)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _stream(self, request: Request) -> None:
        def begin() -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()

        def send(line: bytes) -> None:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))

        if self.server.api.watch(request, begin, send):
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@functools.cache
def _certificates() -> dict[str, bytes]:
    """Returns the certificates of a CA and of a server at 127.0.0.1, by file name. The server's has
    no name, so that localhost is a wrong one. Made once per process.
    """
    with tempfile.TemporaryDirectory(prefix="redisproxy-test-") as directory:
        Authority(Path(directory)).issue("apiserver", "127.0.0.1")
        return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def write_certificates(directory: Path) -> None:
    """Writes ca.pem, apiserver.pem and apiserver.key: the certificate that servers here show, and
    the CA that their clients trust.
    """
    for name, content in _certificates().items():
        (directory / name).write_bytes(content)


def believing() -> ssl.SSLContext:
    """Returns a TLS context for clients of these servers."""
    return ssl.create_default_context(cadata=_certificates()["ca.pem"].decode())

"""A real kube-apiserver with a real etcd, as child processes on 127.0.0.1, with RBAC enforced.

It has no controllers and no nodes: documents are stored, authorised and shown, and no pod ever
starts.
"""

from __future__ import annotations

import atexit
import functools
import http.client
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from unittest import SkipTest

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ..support.apiserver import believing, write_certificates
from ..support.servers import free_port
from ..support.waiting import until

ADMIN_TOKEN = "token-of-the-admin"


def wanted() -> None:
    """Raises SkipTest if the tests with a real API server were not asked for, or cannot run."""
    if os.environ.get("REDISPROXY_TEST_APISERVER") != "1":
        raise SkipTest("needs a real kube-apiserver: make test-cluster")
    for program, package in (("etcd", "etcd-server"), ("kubectl", "kubernetes-client")):
        if shutil.which(program) is None:
            raise SkipTest(f"{program} is not installed: apt-get install {package}, or make test-cluster as root")
    if not binary().is_file():
        raise SkipTest("there is no kube-apiserver yet: make test-cluster builds it")


@functools.cache
def binary() -> Path:
    script = Path(__file__).with_name("build-kube-apiserver")
    return Path(subprocess.run([script, "--path"], check=True, capture_output=True, text=True).stdout.strip())


def ask(port: int, method: str, path: str, document: object = None, token: str = ADMIN_TOKEN) -> tuple[int, dict]:
    """Asks an API server of the tests. Returns (status, the JSON answer, or {} if the answer is no
    JSON).
    """
    context = believing()
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=context)
    try:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request(method, path, None if document is None else json.dumps(document), headers)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    return response.status, json.loads(body) if body.startswith(b"{") else {}


class KubeApiServer:
    """One API server with its own store. kill() and start() may be called repeatedly: port and
    store stay.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="redisproxy-test-"))
        write_certificates(self.directory)
        self.port = free_port()
        self._etcd_port = free_port()
        self._etcd: subprocess.Popen | None = None
        self._process: subprocess.Popen | None = None
        (self.directory / "tokens.csv").write_text(f'{ADMIN_TOKEN},admin,1,"system:masters"\n')
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        (self.directory / "accounts.key").write_bytes(private)
        (self.directory / "accounts.pub").write_bytes(public)
        self.kubeconfig = self.write_kubeconfig("admin", ADMIN_TOKEN)

    def write_kubeconfig(self, name: str, token: str) -> Path:
        """Writes a kubeconfig with this token, and returns its path."""
        path = self.directory / f"{name}.kubeconfig"
        cluster = {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": str(self.directory / "ca.pem")}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "current-context": "test",
        }
        path.write_text(json.dumps(config))
        return path

    # Start and stop.

    def start(self) -> KubeApiServer:
        """Returns when the server is ready."""
        if self._etcd is None:
            self._etcd = self._start_etcd()
        at = self.directory
        self._process = self._spawn(
            "kube-apiserver",
            binary(),
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--cert-dir={at}",
            f"--tls-cert-file={at / 'apiserver.pem'}",
            f"--tls-private-key-file={at / 'apiserver.key'}",
            f"--token-auth-file={at / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={at / 'accounts.pub'}",
            f"--service-account-signing-key-file={at / 'accounts.key'}",
            "--service-cluster-ip-range=10.96.0.0/24",
            # Without controllers, no namespace gets its default account. There is also no endpoint
            # to publish.
            "--disable-admission-plugins=ServiceAccount",
            "--endpoint-reconciler-type=none",
            # Makes the continue tokens of a list expire while a test waits.
            "--etcd-compaction-interval=1s",
        )
        until(self._ready, "kube-apiserver is ready", 180)
        return self

    def _start_etcd(self) -> subprocess.Popen:
        client, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{free_port()}"
        return self._spawn(
            "etcd",
            shutil.which("etcd"),
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        )

    def _spawn(self, name: str, *command: str | Path) -> subprocess.Popen:
        with (self.directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory)

    def _ready(self) -> bool:
        for name, process in (("etcd", self._etcd), ("kube-apiserver", self._process)):
            if process.poll() is not None:
                log = (self.directory / f"{name}.log").read_text(errors="replace")
                raise AssertionError(f"{name} ended with status {process.returncode}:\n{log[-3000:]}")
        try:
            # The master secret's namespace is created a moment after the server is ready otherwise.
            return all(self.request("GET", path)[0] == 200 for path in ("/readyz", "/api/v1/namespaces/kube-system"))
        except (OSError, http.client.HTTPException):
            return False

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Ends the server with SIGKILL: its clients get no message. Its store stays."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        for process in (self._process, self._etcd):
            if process is not None:
                process.kill()
                process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    # Requests of an administrator.

    def request(self, method: str, path: str, document: object = None) -> tuple[int, dict]:
        """Asks this server as its administrator: see `ask`."""
        return ask(self.port, method, path, document)

    def put(self, document: dict) -> None:
        """Creates or replaces a Namespace or a Secret."""
        name, namespace = document["metadata"]["name"], document["metadata"].get("namespace")
        path = f"/api/v1/namespaces/{namespace}/secrets" if namespace else "/api/v1/namespaces"
        status, answer = self.request("POST", path, document)
        if status == 409:
            status, answer = self.request("PUT", f"{path}/{name}", document)
        if status not in (200, 201):
            raise AssertionError(f"{status} for {path}: {answer}")

    def delete(self, namespace: str, secret: str | None = None) -> None:
        """Deletes a secret, or a namespace with its secrets. Waits until the namespace is gone."""
        path = f"/api/v1/namespaces/{namespace}"
        if secret is not None:
            self.request("DELETE", f"{path}/secrets/{secret}")
            return
        # No controller would empty the namespace and end it.
        self.request("DELETE", f"{path}/secrets")
        self.request("DELETE", path)
        status, document = self.request("GET", path)
        if status == 200:
            document["spec"]["finalizers"] = []
            self.request("PUT", f"{path}/finalize", document)
        until(lambda: self.request("GET", path)[0] == 404, f"the namespace {namespace} is gone")

    def kubectl(self, *arguments: str, stdin: str = "", kubeconfig: Path | None = None) -> subprocess.CompletedProcess:
        """Runs kubectl as an operator does. HOME is a directory of its own, because kubectl keeps a
        cache there.
        """
        environ = {**os.environ, "KUBECONFIG": str(kubeconfig or self.kubeconfig), "HOME": str(self.directory)}
        return subprocess.run(["kubectl", *arguments], input=stdin, text=True, capture_output=True, timeout=60, env=environ)

    def account_token(self, namespace: str, name: str) -> str:
        """Returns a token of a ServiceAccount, as a pod gets it."""
        document = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        status, answer = self.request("POST", path, document)
        if status != 201:
            raise AssertionError(f"{status} for {path}: {answer}")
        return answer["status"]["token"]


@functools.cache
def shared_api_server() -> KubeApiServer:
    """Returns one server for all tests. Each test uses namespaces of its own, and leaves the server
    running.
    """
    wanted()
    server = KubeApiServer()
    atexit.register(server.stop)
    return server.start()

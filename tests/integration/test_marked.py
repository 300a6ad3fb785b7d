"""Tests that real processes never write, log or answer a value of a secret, even if the secret is
wrong.
"""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import tempfile
import unittest
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from ..support.apiserver import ApiServer
from ..support.command import run_command
from ..support.marked import MARKER, scalars, traces, urls
from ..support.proxy import PREFIX, Manifests, ProxyProcess, master, namespace, plain_environment, secret, tenant
from ..support.raw import RawClient
from ..support.servers import RedisServer, valkey
from ..support.waiting import until


class MarkedCase(unittest.TestCase):
    #: Every EVERY-th of the master's values is used, and more of the tenants'.
    #: tests/tenants/test_marked.py and tests/sources/test_marked.py use all of them.
    EVERY = 25

    def setUp(self) -> None:
        self.server = RedisServer().start()
        self.addCleanup(self.server.stop)
        self.manifests = Manifests()
        self.addCleanup(self.manifests.remove)
        #: All that was answered, or written by others than the proxy.
        self.said: list[str] = []
        self._checked = 0

    def start(self, *options: str, environ: dict[str, str] | None = None) -> ProxyProcess:
        self.proxy = ProxyProcess(
            *("--log-level", "debug", "--status", "tcp:0", "--refresh", "3600", "--no-watch", *options), environ=environ
        )
        self.addCleanup(self.proxy.stop)
        self.proxy.logged("listening on ")
        self.address = self.proxy.logged(r"the status page is at ([\d.]+:\d+)")[1]
        until(lambda: self.refreshes() > 0, "everything was read once")
        return self.proxy

    def ask(self, path: str, **headers: str) -> str:
        request = urllib.request.Request(f"http://{self.address}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                found = answer.read().decode()
        except urllib.error.HTTPError as error:
            found = error.read().decode()
        self.said.append(found)
        return found

    def refreshes(self) -> float:
        counts = re.findall(r"^redisproxy_snapshot_refreshes_total\{[^}]*\} (\S+)", self.ask("/metrics"), re.MULTILINE)
        self.said.clear()  # called often, and the metrics are checked elsewhere
        return sum(map(float, counts))

    def read_again(self) -> None:
        """Makes the proxy read everything once more, and checks its output."""
        before, seen = self.refreshes(), len(self.proxy.lines)
        self.proxy.refresh()
        # A read that crashes is logged, and not counted.
        crashed = "because of a bug"
        until(lambda: any(crashed in line for line in self.proxy.lines[seen:]) or self.refreshes() > before, "it is read")
        for path in ("/", "/metrics", "/readyz"):
            self.ask(path)
        self.check()

    def check(self) -> None:
        lines = self.proxy.lines[self._checked :]
        self._checked += len(lines)
        for text in ("\n".join(lines), *self.said):
            found = traces(text)
            self.assertEqual(found, [], next((line for line in text.split("\n") if traces(line)), "")[:2000])
            self.assertNotIn(self.server.password, text)
        self.said.clear()

    def command(self, *arguments: str, environ: Iterable[tuple[str, str]] = ()) -> None:
        environ = {**plain_environment(), "NS_PREFIX": PREFIX, **dict(environ)}
        for form in ("table", "json") if arguments[0] == "check" else ("table",):
            done = run_command(*arguments, "-o", form, environ=environ)
            self.assertIn(done.returncode, (0, 1), done)
            for written in (done.stdout, done.stderr):
                self.assertEqual(traces(written), [], written[:3000])
                self.assertNotIn("Traceback", written)
                self.assertTrue(all(line.isprintable() for line in written.split("\n")), written[:3000])

    def tenants(self) -> list[dict]:
        found = []
        for number, url in list(enumerate(urls()))[:: self.EVERY // 5]:
            name = f"team-{number}"
            found.append(namespace(name, annotations={"redisproxy/max-connections": MARKER}))
            found.append(secret(name, "redis-secret-master", redis_connection_string=url))
            good = f"redis://:x{number}@h/{number}"
            found.append(secret(name, "redis-secret-temp-a", redis_connection_string=good, valid_hours=url))
        return found


class ManifestTests(MarkedCase):
    OPTIONS: tuple[str, ...] = ()

    def test_manifests(self) -> None:
        good = [master(self.server.url), *tenant("team-blue", 3, "blue-password")]
        self.manifests.write([*good, *self.tenants()])
        self.start("--manifests", str(self.manifests.path), *self.OPTIONS)
        self.proxy.logged("Redis is at ")
        self.read_again()
        for command in () if self.OPTIONS else (["check"], ["tenants"], ["enroll", "team-0"]):
            self.command(*command, "--manifests", str(self.manifests.path))
        self.manifests.write(good)
        self.read_again()
        for scalar in list(scalars())[:: self.EVERY // 3]:
            text = "kind: Secret\nmetadata: {name: redis-secret-master, namespace: team-blue}\n"
            (self.manifests.path / "b.yaml").write_text(f"{text}stringData:\n  redis-connection-string: {scalar}\n")
            self.read_again()
        (self.manifests.path / "b.yaml").unlink()
        for url in list(urls())[:: self.EVERY]:
            self.manifests.write([master(url), *good[1:]])
            self.read_again()
        self.manifests.write([master(f"redis://:{MARKER}@127.0.0.1:{self.server.port}/0"), *good[1:]])
        self.read_again()
        self.proxy.logged("Redis answered AUTH with: -WRONGPASS")
        for password in (MARKER, f"{MARKER}\n", f"\x1b{MARKER}\x9b\u202e", MARKER * 1000):
            self.manifests.write([master(f"redis://127.0.0.1:{self.server.port}/0", redis_password=password), *good[1:]])
            self.read_again()
        wrong = master(self.server.url)
        wrong["data"] = {"redis-password": base64.b64encode(MARKER.encode() + b"\xff\x00").decode()}
        self.manifests.write([wrong, *good[1:]])
        self.read_again()
        self.manifests.write(good)
        self.read_again()
        until(lambda: self.ask("/readyz") == "ok\n", "the right password is in use again")
        self.clients()
        self.requests()
        self.assertEqual(self.proxy.stop(), 0)
        self.check()

    def clients(self) -> None:
        """Sends what clients might: passwords, and commands that are malformed."""
        marker = MARKER.encode()
        first = [b"AUTH " + marker, b"AUTH default " + marker, b"AUTH a b " + marker, b"HELLO 3 AUTH default " + marker]
        first += [marker, b"GET " + marker, b"*1\r\n$" + marker, b"*" + marker, b"*1\r\n$4\r\n" + marker, b"HELLO " + marker]
        first += [
            b"AUTH '" + marker,
            b"AUTH \x1b[2J" + marker,
            b"\x16\x03\x01" + marker,
            b"GET / HTTP/1.1\r\nHost: " + marker,
        ]
        for sent in first:
            self.send(sent + b"\r\n")
        commands = [
            [marker], [b"GET", marker], [b"SET", marker, marker], [b"CLIENT", marker], [b"CLIENT", b"SETNAME", marker],
            [b"CLIENT", b"KILL", marker], [b"CONFIG", marker], [b"CONFIG", b"SET", b"requirepass", marker], [b"ACL", marker],
            [b"ACL", b"SETUSER", b"x", b">" + marker], [b"PUBSUB", marker], [b"OBJECT", marker], [b"XINFO", marker],
            [b"SCRIPT", marker], [b"EVAL", marker, b"0"], [b"EVAL", b"return redis.call('AUTH', '" + marker + b"')", b"0"],
            [b"SUBSCRIBE", marker], [b"MIGRATE", b"h", b"1", b"k", b"0", b"1", b"AUTH", marker], [b"SELECT", marker],
            [b"AUTH", marker], [b"HELLO", b"3", b"AUTH", b"default", marker], [b"HELLO", b"3", marker],
        ]  # fmt: skip
        for words in commands:
            sent = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
            self.send(b"AUTH blue-password\r\n" + sent)

    def send(self, sent: bytes) -> None:
        with RawClient(self.proxy.port) as connection:
            connection.send(sent)
            connection.half_close()
            connection.rest()

    def requests(self) -> None:
        """Sends requests to the status endpoint."""
        for path in ("/", "/metrics", f"/{MARKER}", f"/metrics?token={MARKER}"):
            for headers in ({"Authorization": f"Bearer {MARKER}"}, {"Authorization": f"Basic {MARKER}"}, {"Host": MARKER}):
                self.ask(path, **headers)
        host, _, port = self.address.rpartition(":")
        for sent in (f"{MARKER}\r\n\r\n", f"GET /{MARKER} {MARKER}\r\n\r\n", f"GET / HTTP/1.1\r\n{MARKER}\r\n\r\n"):
            with socket.create_connection((host, int(port)), timeout=20) as connection:
                connection.sendall(sent.encode())
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass


class ManifestsOfSeveralProcessesTests(ManifestTests):
    OPTIONS = ("--processes", "2", "--log-format", "json")
    EVERY = 200


class RefusalTests(MarkedCase):
    def test_a_redis_that_repeats_what_it_does_not_know(self) -> None:
        """The proxy hides its password in errors that repeat it, for example from a Redis whose
        AUTH was renamed.
        """
        server = RedisServer(valkey, 'rename-command AUTH ""', password="").start()
        self.addCleanup(server.stop)
        self.manifests.write(
            [master(f"redis://:{MARKER}@127.0.0.1:{server.port}/0"), *tenant("team-blue", 3, "blue-password")]
        )
        self.start("--manifests", str(self.manifests.path))
        self.proxy.logged("Redis answered AUTH with: -ERR unknown command 'AUTH', with args beginning with: …")
        self.read_again()
        self.command("check", "--manifests", str(self.manifests.path))
        self.proxy.stop()
        self.check()

    def test_the_token_of_the_status_page(self) -> None:
        self.manifests.write([master(self.server.url)])
        with tempfile.TemporaryDirectory() as directory:
            token = Path(directory) / "token"
            token.write_text(MARKER)
            proxy = ProxyProcess(
                *("--manifests", str(self.manifests.path), "--log-level", "debug", "--status", "tcp:0"),
                *("--status-token-file", str(token)),
            )
            self.proxy = proxy
            self.addCleanup(proxy.stop)
            self.address = proxy.logged(r"the status page is at ([\d.]+:\d+)")[1]
            for content in (
                MARKER.encode(),
                b"\xff" + MARKER.encode(),
                MARKER.encode() * 1000,
                b"\x1b" + MARKER.encode(),
                b"",
                None,
            ):
                if content is None:
                    token.unlink()
                else:
                    token.write_bytes(content)
                for path in ("/", "/metrics", "/readyz", "/nowhere"):
                    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Bearer {MARKER}"}):
                        self.ask(path, **headers)
            self.assertIn("cannot be read", self.said[-3 * 3])
            proxy.stop()
            self.check()


class NameTests(MarkedCase):
    def test_names_are_printable_wherever_they_are_shown(self) -> None:
        hostile = "\x1b[2J\x07\x9b\u202e\n"
        shown = r"\x1b[2J\x07\x9b\u202e\n"
        good = [master(self.server.url), *tenant("team-blue", 3, "blue-password")]
        temporary = secret("team-blue", f"redis-secret-temp-{hostile}", redis_connection_string="redis://h/3")
        other = namespace("team-red", annotations={f"redisproxy/{hostile}": "1"})
        self.manifests.write([*good, temporary, other, namespace(f"team-{hostile}"), secret(f"team-{hostile}", hostile)])
        (self.manifests.path / os.fsdecode(b"z" + hostile.encode() + b"\xff.yaml")).write_text("kind: Secret\n")
        for log_format in ("text", "json"):
            self.start("--manifests", str(self.manifests.path), "--log-format", log_format)
            self.proxy.logged("it has no metadata.name")
            for path in ("/", "/metrics", "/readyz"):
                text = self.ask(path)
                self.assertTrue(all(line.isprintable() for line in text.split("\n")), text)
                if path != "/readyz":
                    self.assertIn(f"z{shown}\\udcff.yaml".replace("\\", "\\\\" if path == "/metrics" else "\\"), text)
            self.assertEqual(self.proxy.stop(), 0)
            self.assertTrue(all(line.isprintable() for line in self.proxy.lines), self.proxy.log)
            for name in (f"z{shown}\\udcff.yaml", f"redis-secret-temp-{shown}"):
                self.assertIn(name if log_format == "text" else json.dumps(name)[1:-1], self.proxy.log)
        self.command("check", "--manifests", str(self.manifests.path))
        self.command("tenants", "--manifests", str(self.manifests.path))


class ClusterTests(MarkedCase):
    EVERY = 80

    def setUp(self) -> None:
        super().setUp()
        self.api = ApiServer(master(self.server.url), *tenant("team-blue", 3, "blue-password")).start()
        self.addCleanup(self.api.remove)
        self.kubeconfig = self.api.directory / "changing"
        self.write(self.api.kubeconfig.read_text())

    def write(self, text: str | bytes) -> None:
        new = self.kubeconfig.with_suffix(".new")
        new.write_bytes(text.encode() if isinstance(text, str) else text)
        new.rename(self.kubeconfig)

    def kubeconfigs(self) -> Iterable[str | bytes]:
        good = json.loads(self.api.kubeconfig.read_text())

        def with_user(**user: object) -> str:
            return json.dumps({**good, "users": [{"name": "test", "user": user}]})

        yield with_user(token=MARKER)
        yield with_user(token=f"{MARKER}\r\nX-More: 1")
        yield with_user(token=f"{MARKER}\u202e\x1b")
        yield with_user(token=[MARKER])
        yield with_user(token={"a": MARKER})
        yield with_user(tokenFile="/no/such/file")
        yield with_user(username="me", password=f"{MARKER}\n")
        yield with_user(**{"client-certificate-data": MARKER, "client-key-data": MARKER})
        yield with_user(**{"client-certificate-data": base64.b64encode(MARKER.encode()).decode(), "client-key-data": "!"})
        for script in (f"echo {MARKER}", f"echo {MARKER} >&2; exit 1", f'echo \'{{"token": "{MARKER}"}}\'', "exit 3"):
            plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/sh", "args": ["-c", script]}
            yield with_user(exec={**plugin, "interactiveMode": "Never"})
        yield with_user(**{"auth-provider": {"name": "oidc", "config": {"id-token": MARKER, "refresh-token": MARKER}}})
        yield with_user(**{"auth-provider": {"name": "gcp", "config": {"access-token": MARKER, "expiry": MARKER}}})
        yield json.dumps({**good, "users": [MARKER]})
        yield json.dumps({**good, "users": MARKER})
        yield json.dumps({**good, "users": [{"name": "other", "user": {"token": MARKER}}]})
        yield f"users: [{{user: {{token: {MARKER}"
        yield f"users: !!bool {MARKER}"
        yield f"users:\n- user:\n\ttoken: {MARKER}"
        yield MARKER
        yield MARKER.encode() + b"\xff\xfe"

    def test_kubeconfigs(self) -> None:
        self.start(environ={"KUBECONFIG": str(self.kubeconfig)})
        for kubeconfig in self.kubeconfigs():
            self.write(kubeconfig)
            self.read_again()
        self.proxy.stop()
        self.check()

    def test_documents(self) -> None:
        wrong = secret("team-blue", "redis-secret-temp-a")
        wrong["data"] = {"redis-connection-string": MARKER + "!", "valid_hours": MARKER}
        self.api.put(wrong, *self.tenants())
        for number, data in enumerate(
            (MARKER, [MARKER], {"redis-connection-string": [MARKER]}, {"redis-connection-string": 3})
        ):
            name = f"team-x{number}"
            self.api.put(namespace(name, annotations={"redisproxy/x": MARKER}))
            document = secret(name, "redis-secret-master")
            document.pop("stringData")
            self.api.put({**document, "data": data})
        self.start(environ={"KUBECONFIG": str(self.kubeconfig)})
        for url in list(urls())[:: self.EVERY]:
            self.api.put(master(url))
            self.read_again()
        self.api.put({**master(self.server.url), "stringData": {}, "data": {"redis-connection-string": MARKER + "!"}})
        self.read_again()
        environ = {"KUBECONFIG": str(self.kubeconfig)}.items()
        for arguments in (
            ["check"],
            ["tenants"],
            ["enroll", "team-0"],
            ["temp", "team-0", "--hours", "1"],
            ["rotate", "team-x2"],
        ):
            self.command(*arguments, environ=environ)
        self.proxy.stop()
        self.check()

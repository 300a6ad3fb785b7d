"""Tests the manifests of deploy/, and the proxy as a real process, with a real kube-apiserver that
enforces RBAC.

`make test-cluster` runs it. `tests.sources.test_contract` runs over the same server.
"""

from __future__ import annotations

import functools
import http.client
import json
import shutil
import unittest
from collections.abc import Callable
from pathlib import Path

import redis

from redisproxy.sources import kubernetes
from redisproxy.sources.kubernetes import ClusterSource
from redisproxy.sources.kubernetes_api import KubernetesApi
from redisproxy.sources.kubernetes_watch import METADATA, METADATA_LIST, ClusterWatches
from redisproxy.sources.watch_events import Watched, WatchFailure, read_event
from redisproxy.tenants.documents import ReadFailure

from ..deploy.documents import COMPONENTS, known_to_1_20
from ..support.apiserver import NAMESPACES, TOKEN, ApiServer, believing, secrets_path
from ..support.proxy import PREFIX, ProxyProcess, has_ended, master, namespace, secret, tenant
from ..support.servers import BOUNDED, RedisServer, valkey
from ..support.waiting import until
from .apiserver import ADMIN_TOKEN, ask, shared_api_server

MASTER = ("kube-system", "redis-secret-master")
BLUE, GREEN = "blue-password", "green-password"


class ClusterCase(unittest.TestCase):
    """A cluster with the proxy's own manifests, and nothing else."""

    def setUp(self) -> None:
        self.api = shared_api_server()
        self.addCleanup(self.api.delete, *MASTER)

    def put(self, *documents: dict) -> None:
        for document in documents:
            if document["kind"] == "Namespace" and document["metadata"]["name"].startswith(PREFIX):
                self.addCleanup(self.api.delete, document["metadata"]["name"])
            self.api.put(document)

    def kubectl(self, *arguments: str, stdin: str = "", kubeconfig: Path | None = None) -> str:
        ran = self.api.kubectl(*arguments, stdin=stdin, kubeconfig=kubeconfig)
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        return ran.stdout

    def deploy(self) -> Path:
        """Applies the base. Returns a kubeconfig with the token that its pods would get."""
        self.apply()
        return self.api.write_kubeconfig("redisproxy", self.api.account_token("redisproxy", "redisproxy"))

    def apply(self) -> list[str]:
        """Applies the base. Returns kubectl's line about each document."""
        return self.kubectl("apply", "-f", "-", stdin=known_to_1_20()).splitlines()

    def source(self, kubeconfig: Path) -> ClusterSource:
        return ClusterSource(PREFIX, "redis-secret-master", MASTER, KubernetesApi(443, {"KUBECONFIG": str(kubeconfig)}))


class RightsTests(ClusterCase):
    """Tests what the applied manifests let the proxy's own account do."""

    def setUp(self) -> None:
        super().setUp()
        self.kubeconfig = self.deploy()

    def can(self, verb: str, what: str, where: str) -> bool:
        ran = self.api.kubectl("auth", "can-i", verb, what, "-n", where, kubeconfig=self.kubeconfig)
        # kubectl warns on the standard error that namespaces are not namespaced.
        self.assertIn(ran.stdout.strip(), ("yes", "no"), ran.stderr)
        return ran.stdout.strip() == "yes"

    def test_applying_twice_changes_nothing(self) -> None:
        for line in self.apply():
            self.assertTrue(line.endswith(" unchanged"), line)

    def test_what_it_must(self) -> None:
        for verb, what, where in (
            ("list", "namespaces", "default"),
            ("watch", "namespaces", "default"),
            ("list", "secrets", "team-blue"),
            ("watch", "secrets", "team-blue"),
            ("get", "secrets/redis-secret-master", "kube-system"),
            ("watch", "secrets/redis-secret-master", "kube-system"),
        ):
            self.assertTrue(self.can(verb, what, where), f"{verb} {what} in {where}")

    def test_what_it_must_not(self) -> None:
        for verb, what, where in (
            *((verb, "secrets", "team-blue") for verb in ("create", "update", "patch", "delete", "deletecollection")),
            *((verb, "secrets/redis-secret-master", "kube-system") for verb in ("update", "patch", "delete")),
            ("get", "secrets/another", "kube-system"),
            ("get", "secrets", "redisproxy"),
            *((verb, "namespaces", "default") for verb in ("create", "patch", "delete")),
            ("get", "pods", "redisproxy"),
            ("create", "pods", "redisproxy"),
            ("create", "pods/exec", "redisproxy"),
            ("get", "configmaps", "kube-system"),
            ("create", "serviceaccounts/token", "redisproxy"),
            ("create", "clusterrolebindings.rbac.authorization.k8s.io", "default"),
            ("impersonate", "users", "default"),
            ("*", "*", "redisproxy"),
        ):
            self.assertFalse(self.can(verb, what, where), f"{verb} {what} in {where}")

    def test_the_narrowed_form_serves_who_gave_it_the_right(self) -> None:
        """With components/narrow-rbac, which is a Role and a RoleBinding in each tenant's
        namespace, the proxy serves the tenants that have them.
        """
        self.addCleanup(self.apply)
        self.kubectl("delete", "clusterrolebinding,clusterrole", "redisproxy-secrets")
        self.put(master("redis://:pw@redis:6379/0"), *tenant("team-blue", 3, BLUE), *tenant("team-green", 5, GREEN))
        self.kubectl("apply", "-n", "team-blue", "-f", str(COMPONENTS / "narrow-rbac/tenant.yaml"))
        source = self.source(self.kubeconfig)
        until(lambda: source.read().secrets["team-green"] == ReadFailure("403 Forbidden"), "the right is gone")
        until(lambda: not isinstance(source.read().secrets["team-blue"], ReadFailure), "the binding is in force")
        reading = source.read()
        self.assertEqual([secret.name for secret in reading.secrets["team-blue"]], ["redis-secret-master"])
        self.assertEqual(reading.secrets["team-green"], ReadFailure("403 Forbidden"))
        self.assertEqual(reading.master.name, "redis-secret-master")
        # The rest can still be watched: the master secret by its name alone.
        watches = ClusterWatches(source.api, PREFIX, "redis-secret-master", MASTER)
        for what in (Watched.NAMESPACES, Watched.MASTER):
            watches.watch(what, watches.version(what), 5).close()
        with self.assertRaisesRegex(WatchFailure, "403 Forbidden: the right to list secrets in all namespaces is missing"):
            watches.version(Watched.SECRETS)


class ProcessTests(ClusterCase):
    """twistd with the rights that deploy/ gives it."""

    options = ("--refresh", "2")
    # The log lines when the API is away, and when it is back.
    away = "all namespaces and the master secret: not read: no answer from http.*: .*Connection refused"
    back = "the Kubernetes API can be read again"

    def setUp(self) -> None:
        super().setUp()
        self.server = RedisServer(valkey, *BOUNDED).start()
        self.addCleanup(self.server.stop)
        self.put(master(self.server.url), *tenant("team-blue", 3, BLUE), *tenant("team-green", 5, GREEN))
        kubeconfig = self.deploy()
        self.proxy = ProxyProcess(*self.options, environ={"KUBECONFIG": str(kubeconfig)})
        self.addCleanup(self.check_log)
        self.addCleanup(self.proxy.stop)
        self.proxy.ready()

    def check_log(self) -> None:
        self.assertNotIn("Traceback", self.proxy.log)
        self.assertNotIn("-password", self.proxy.log)
        self.assertNotIn(self.server.password, self.proxy.log)

    def client(self, password: str, index: int) -> redis.Redis:
        client = self.proxy.client(password, index, single_connection_client=True)
        self.addCleanup(client.close)
        return client

    def works(self, password: str) -> bool:
        try:
            with self.proxy.client(password, single_connection_client=True) as client:
                return client.ping()
        except redis.RedisError:
            return False

    ended = staticmethod(has_ended)

    def test_it_serves_with_the_rights_of_its_account(self) -> None:
        self.assertNotIn("not read", self.proxy.log)
        self.client(BLUE, 3).set("key", "value")
        self.assertEqual(self.server.client(3).get("key"), b"value")
        self.assertFalse(self.works("wrong-password"))

    def test_a_secret_that_kubectl_rotates(self) -> None:
        blue, green = self.client(BLUE, 3), self.client(GREEN, 5)
        self.assertTrue(blue.ping() and green.ping())
        url = "redis://:rotated-password@redis:6379/3"
        patch = json.dumps({"stringData": {"redis-connection-string": url}})
        self.kubectl("patch", "secret", "redis-secret-master", "-n", "team-blue", "-p", patch)
        self.proxy.refresh()
        until(functools.partial(self.ended, blue), "the session with the old password ends")
        self.assertTrue(self.works("rotated-password"))
        self.assertFalse(self.works(BLUE))
        self.assertTrue(green.ping())
        self.kubectl("delete", "secret", "redis-secret-master", "-n", "team-green")
        self.proxy.refresh()
        until(functools.partial(self.ended, green), "the session whose secret is gone ends")

    def test_the_api_server_is_killed_and_started_again(self) -> None:
        blue = self.client(BLUE, 3)
        self.assertTrue(blue.ping())
        self.addCleanup(lambda: self.api.running or self.api.start())
        self.api.kill()
        self.proxy.logged(self.away)
        self.assertTrue(blue.ping())
        self.assertTrue(self.works(GREEN))
        self.api.start()
        self.put(*tenant("team-red", 7, "red-password"))
        self.proxy.logged(self.back, 60)
        until(lambda: self.works("red-password"), "the new tenant is served")
        self.assertTrue(blue.ping())


class WatchingProcessTests(ProcessTests):
    """The same without reloads: only a watch can cause the effects."""

    options = ("--refresh", "86400")
    away = "cannot be watched: no answer from http.*: .*Connection refused"
    back = "(?s)cannot be watched.*namespaces and secrets are watched"

    def setUp(self) -> None:
        super().setUp()
        self.proxy.logged("namespaces and secrets are watched")

    def at_once(self, change: Callable[[], object], probe: Callable[[], object], what: str) -> None:
        """A change takes effect within the promised 1 s, plus 1 s because the machine runs a
        control plane beside the tests.
        """
        change()
        until(probe, what, 2.0)

    def test_a_secret_that_kubectl_rotates(self) -> None:
        blue, green = self.client(BLUE, 3), self.client(GREEN, 5)
        self.assertTrue(blue.ping() and green.ping())
        patch = json.dumps({"stringData": {"redis-connection-string": "redis://:rotated-password@redis:6379/3"}})
        rotate = ("patch", "secret", "redis-secret-master", "-n", "team-blue", "-p", patch)
        self.at_once(lambda: self.kubectl(*rotate), lambda: self.ended(blue), "the session with the old password ends")
        self.assertTrue(self.works("rotated-password") and green.ping())
        self.assertFalse(self.works(BLUE))
        temporary = secret("team-blue", "redis-secret-temp-a", redis_connection_string="redis://:temp-password@redis:6379/3")
        self.at_once(lambda: self.put(temporary), lambda: self.works("temp-password"), "a temporary credential")
        delete = ("delete", "secret", "redis-secret-master", "-n", "team-green")
        self.at_once(lambda: self.kubectl(*delete), lambda: self.ended(green), "the session whose secret is gone ends")
        blue = self.client("rotated-password", 3)
        self.assertTrue(blue.ping())
        self.api.delete("team-blue")
        until(lambda: self.ended(blue), "the sessions of a deleted namespace end", 2.0)

    def test_the_master_secret(self) -> None:
        other = RedisServer().start()
        self.addCleanup(other.stop)
        other.client(3).set("where", "other")

        def reached() -> bool:
            try:
                with self.proxy.client(BLUE, 3) as client:
                    return client.get("where") == b"other"
            except redis.RedisError:
                return False

        self.at_once(lambda: self.put(master(other.url)), reached, "the other Redis")


class InPodTests(ClusterCase):
    def test_token_ca_host_and_port_as_a_pod_has_them(self) -> None:
        self.deploy()
        self.put(master("redis://:pw@redis:6379/0"), *tenant("team-blue", 3, BLUE))
        account = self.api.directory / "account"
        account.mkdir(exist_ok=True)
        (account / "token").write_text(self.api.account_token("redisproxy", "redisproxy"))
        shutil.copy(self.api.directory / "ca.pem", account / "ca.crt")
        environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1"}
        api = KubernetesApi(self.api.port, environ, account)
        source = ClusterSource(PREFIX, "redis-secret-master", MASTER, api)
        reading = source.read()
        self.assertEqual(reading.failures(), [])
        self.assertIn("team-blue", reading.secrets)
        (account / "token").write_text("stale")
        self.assertEqual(source.read().namespaces, ReadFailure("401 Unauthorized"))


class TruthTests(ClusterCase):
    """The small API server of the other tests answers as the real one does."""

    def setUp(self) -> None:
        super().setUp()
        documents = [*tenant("team-blue", 3, BLUE), *(secret("team-blue", f"other-{n}", valid_hours="1") for n in range(4))]
        self.put(master("redis://:pw@redis:6379/0"), *documents, namespace("team-empty"))
        self.small = ApiServer(master("redis://:pw@redis:6379/0"), *documents, namespace("team-empty"), tls=True).start()
        self.addCleanup(self.small.remove)

    def both(self, path: str, token: str | None = None) -> list[tuple[int, dict]]:
        """Returns (status, answer) of the real server and of the small one."""
        return [
            ask(self.api.port, "GET", path, token=token or ADMIN_TOKEN),
            ask(self.small.port, "GET", path, token=token or TOKEN),
        ]

    def assertSame(self, path: str, status: int, token: str | None = None) -> list[dict]:
        (real_status, real), (small_status, small) = self.both(path, token)
        self.assertEqual((real_status, small_status), (status, status))
        for part in ("kind", "apiVersion", "reason", "code", "status", "type", "data"):
            self.assertEqual(real.get(part), small.get(part), part)
        self.assertEqual("continue" in real["metadata"], "continue" in small.get("metadata", {}))
        return [real, small]

    def test_pages(self) -> None:
        for limit in (1, 2, 4, 5, 6):
            answers = self.assertSame(f"{secrets_path('team-blue')}?limit={limit}", 200)
            names = [[item["metadata"]["name"] for item in answer["items"]] for answer in answers]
            self.assertEqual(names[0], names[1])
            for answer in answers:
                self.assertFalse(any("kind" in item or "apiVersion" in item for item in answer["items"]))
            for server, token, answer in zip((self.api, self.small), (ADMIN_TOKEN, TOKEN), answers, strict=True):
                found = list(answer["items"])
                while page := answer["metadata"].get("continue"):
                    path = f"{secrets_path('team-blue')}?limit={limit}&continue={page}"
                    status, answer = ask(server.port, "GET", path, token=token)
                    self.assertEqual(status, 200)
                    found += answer["items"]
                self.assertEqual(len({item["metadata"]["name"] for item in found}), 5)

    def test_one_secret(self) -> None:
        self.assertSame(f"{secrets_path('team-blue')}/redis-secret-master", 200)
        self.assertSame(f"{secrets_path('team-blue')}/nothing", 404)

    def test_lists_of_nothing(self) -> None:
        for name in ("team-empty", "team-that-does-not-exist"):
            for answer in self.assertSame(secrets_path(name), 200):
                self.assertEqual(answer["items"], [])

    def test_who_is_not_known(self) -> None:
        self.assertSame(NAMESPACES, 401, "nobody")

    def test_what_is_written(self) -> None:
        path = secrets_path("team-blue")
        made = secret("team-blue", "made", valid_hours="1")
        stored: list[dict] = []

        def both(method: str, path: str, *documents: dict) -> None:
            """documents: one for both servers, or one for each."""
            answers = [
                ask(server.port, method, path, document, token=token)
                for server, token, document in zip(
                    (self.api, self.small), (ADMIN_TOKEN, TOKEN), documents if documents[1:] else documents * 2, strict=True
                )
            ]
            (real_status, real), (small_status, small) = answers
            self.assertEqual(real_status, small_status, (real, small))
            for part in ("kind", "reason", "data", "type", "code"):
                self.assertEqual(real.get(part), small.get(part), part)
            if real_status in (200, 201) and real["kind"] == "Secret":
                stored[:] = [real, small]

        both("POST", path, made)
        both("POST", path, made)
        first = list(stored)
        changed = [{**document, "data": {"valid_hours": "Mg=="}} for document in stored]
        both("PUT", f"{path}/made", *changed)
        both("PUT", f"{path}/made", *first)  # an old resourceVersion
        both("DELETE", f"{path}/made", {"preconditions": {"uid": "another"}})
        both("DELETE", f"{path}/made", *({"preconditions": {"uid": d["metadata"]["uid"]}} for d in stored))
        both("DELETE", f"{path}/made", {})
        both("PUT", f"{path}/made", *changed)  # an old uid
        both("PUT", f"{path}/made", made)
        both("POST", secrets_path("team-that-does-not-exist"), secret("team-that-does-not-exist", "made"))
        both("POST", path, secret("team-blue", "Not_A_Name"))
        both("POST", path, {**made, "immutable": True})
        both("PUT", f"{path}/made", *({**d, "data": {"valid_hours": "Mg=="}} for d in stored))
        both("DELETE", f"{path}/made", {})

    def watched(self, path: str, version: str = "") -> list[list[dict]]:
        """Returns the events of a watch that ends after 1 s, without bookmarks: of the real server
        and of the small one.
        """
        found = []
        for server, token, where in ((self.api, ADMIN_TOKEN, "real"), (self.small, TOKEN, "small")):
            query = f"watch=true&allowWatchBookmarks=true&timeoutSeconds=1&resourceVersion={version or self.version[where]}"
            context = believing()
            connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=30, context=context)
            connection.request("GET", f"{path}?{query}", headers={"Authorization": f"Bearer {token}", "Accept": METADATA})
            response = connection.getresponse()
            self.assertEqual((response.status, response.getheader("Transfer-Encoding")), (200, "chunked"))
            lines = response.read().splitlines()
            connection.close()
            # The short parser and the whole parser give the same result.
            for line in lines:
                if b'"ERROR"' not in line:
                    self.assertEqual(read_event(line), read_event(b" " + line))
            events = [json.loads(line) for line in lines]
            found.append([event for event in events if event["type"] != "BOOKMARK"])
        return found

    def test_a_watch(self) -> None:
        path = secrets_path("team-blue")
        for server in (self.api, self.small):
            server.put(namespace("team-green"))
        self.version = {
            where: answer["metadata"]["resourceVersion"]
            for where, (_, answer) in zip(("real", "small"), self.both(f"{path}?limit=1"), strict=True)
        }
        made = secret("team-blue", "made", valid_hours="1")
        for server in (self.api, self.small):
            for put in (
                made,
                secret("team-blue", "made", valid_hours="2"),
                secret("team-green", "elsewhere", valid_hours="1"),
            ):
                server.put(put)
            server.delete("team-blue", "made")
        shown = [
            [(e["type"], e["object"]["kind"], e["object"]["apiVersion"], e["object"]["metadata"]["name"]) for e in events]
            for events in self.watched(path)
        ]
        kind = ("PartialObjectMetadata", "meta.k8s.io/v1", "made")
        self.assertEqual(shown, [[(what, *kind) for what in ("ADDED", "MODIFIED", "DELETED")]] * 2)
        for events in self.watched("/api/v1/secrets"):
            names = [event["object"]["metadata"]["name"] for event in events]
            self.assertLessEqual({"made", "elsewhere"}, set(names))
            versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
            self.assertEqual(versions, sorted(set(versions)), "a deletion has a version of its own")

    def test_a_watch_from_what_is_too_old(self) -> None:
        self.small.compact()
        # A real server keeps events for watches from its own start on.
        self.api.kill()
        self.api.start()
        real, small = self.watched(secrets_path("team-blue"), "1")
        for events in (real, small):
            self.assertEqual([event["type"] for event in events], ["ERROR"])
        for part in ("kind", "apiVersion", "status", "reason", "code", "metadata"):
            self.assertEqual(real[0]["object"][part], small[0]["object"][part], part)

    def test_a_list_for_its_version_alone(self) -> None:
        for path in (NAMESPACES, "/api/v1/secrets"):
            for server, token in ((self.api, ADMIN_TOKEN), (self.small, TOKEN)):
                context = believing()
                connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=30, context=context)
                headers = {"Authorization": f"Bearer {token}", "Accept": METADATA_LIST}
                connection.request("GET", f"{path}?limit=1", headers=headers)
                answer = json.loads(connection.getresponse().read())
                connection.close()
                self.assertEqual((answer["kind"], len(answer["items"])), ("PartialObjectMetadataList", 1))
                self.assertTrue(answer["metadata"]["resourceVersion"].isdigit())
                self.assertNotIn("data", answer["items"][0])

    def test_a_continue_token_that_expired(self) -> None:
        path = f"{secrets_path('team-blue')}?limit=2"
        pages = [answer["metadata"]["continue"] for _, answer in self.both(path)]
        self.small.expire_continues()

        def expired() -> list[dict] | None:
            # Writes give etcd's compaction something to remove.
            self.put(secret("team-blue", "other-1", valid_hours="2"))
            real = self.api.request("GET", f"{path}&continue={pages[0]}")
            return [real] if real[0] == 410 else None

        [real] = until(expired, "the continue token expires")
        small = ask(self.small.port, "GET", f"{path}&continue={pages[1]}", token=TOKEN)
        for part in ("kind", "code", "reason", "status"):
            self.assertEqual(real[1][part], small[1][part])

    def test_the_source_reads_pages_of_the_real_one(self) -> None:
        page, kubernetes.PAGE = kubernetes.PAGE, 2
        self.addCleanup(setattr, kubernetes, "PAGE", page)
        reading = self.source(self.api.kubeconfig).read()
        self.assertEqual(reading.failures(), [])
        self.assertLessEqual({"team-blue", "team-empty"}, {namespace.name for namespace in reading.namespaces})
        self.assertEqual([secret.name for secret in reading.secrets["team-blue"]], ["redis-secret-master"])

"""What `redisproxy check` finds, over a real API, real Redis servers and real sentinels."""

from __future__ import annotations

import json
from pathlib import Path

import redis
from twisted.internet import defer, reactor, threads
from twisted.internet.testing import MemoryReactorClock
from twisted.trial import unittest

from redisproxy import messages
from redisproxy.cli import inspect, operations, render
from redisproxy.cli.inspect import Findings, Operator, RedisView
from redisproxy.cli.operations import Written
from redisproxy.cli.render import advice
from redisproxy.policy import probing
from redisproxy.policy.facts import builtin
from redisproxy.policy.probing import USUAL, Server, needed
from redisproxy.resp.value import ErrorReply
from redisproxy.service import ProxyService, source_of
from redisproxy.settings import Settings
from redisproxy.sources.kubernetes import ClusterSource
from redisproxy.sources.kubernetes_api import KubernetesApi
from redisproxy.tenants.allocation import Refused
from redisproxy.tenants.limits import Limits
from redisproxy.tenants.model import BackendAddress, Snapshot
from redisproxy.upstream.inquiry import Inquiry

from ..support.apiserver import ANY, ApiServer, refusal, secrets_path
from ..support.faults import FaultyRedis
from ..support.proxy import PREFIX, Manifests, master, namespace, secret, tenant
from ..support.punctuation import DOUBLED
from ..support.redis_errors import PASSING
from ..support.sentinels import NAME, Sentinels
from ..support.servers import BOUNDED, MASTER_PASSWORD, RedisServer, free_port, redis_5, redis_6, valkey
from ..support.waiting import LIMIT, until

NOW = 1_767_225_600.0  # 2026-01-01


class FindingsCase(unittest.TestCase):
    def operator(self, *documents: dict, **more: object) -> Operator:
        manifests = Manifests(documents)
        self.addCleanup(manifests.remove)
        settings = Settings.read(
            {"ns-prefix": PREFIX, "manifests": str(manifests.path), "connect-timeout": str(LIMIT), **more}, {}
        )
        return Operator(reactor, settings, source_of(settings))

    def redis(self, binary: object = valkey, *settings: str, **more: str) -> RedisServer:
        server = RedisServer(binary, *BOUNDED, *settings, **more).start()
        self.addCleanup(server.stop)
        return server

    def rendered(self, found: Findings) -> str:
        """The text; it and the JSON have no password."""
        text = "\n".join(render.check_lines(found, NOW, 200))
        for form in (text, json.dumps(render.check_document(found, NOW)), repr(found)):
            self.assertNotIn("pw-", form)
            self.assertNotIn("master-password", form)
            self.assertNotRegex(form, DOUBLED)
        return text

    def problems(self, found: Findings) -> list[str]:
        self.rendered(found)
        return [str(problem) for problem in found.problems]


class RedisTests(FindingsCase):
    async def test_all_is_well(self) -> None:
        server = self.redis()
        server.client(3).set("a", "1")
        found = await inspect.check(
            self.operator(master(server.url), *tenant("team-blue", 3, "pw-blue"), namespace("team-new"))
        )
        self.assertEqual((found.problems, found.warnings), ([], []))
        document = render.check_document(found, NOW)
        self.assertTrue(document["ok"])
        self.assertEqual(document["redis"]["address"], f"redis://127.0.0.1:{server.port}")
        self.assertRegex(document["redis"]["version"], "^Valkey 9")
        self.assertEqual((document["redis"]["databases"], document["redis"]["acl_users"]), (64, True))
        self.assertEqual(
            [(t["namespace"], t["state"], t["index"]) for t in document["tenants"]],
            [("team-blue", "ok", 3), ("team-new", "not enrolled", None)],
        )
        self.assertRegex(self.rendered(found), r"(?m)^team-blue +3 +1 +ok$")
        self.assertEqual(found.redis.room.keys, {3: 1})

    async def test_what_keeps_namespaces_out(self) -> None:
        server = self.redis()
        found = await inspect.check(
            self.operator(
                master(server.url),
                *tenant("team-a", 3, "pw-a", "2025-01-01T00:00:00Z"),
                *tenant("team-b", 3, "pw-b"),
                *tenant("team-c", 64, "pw-c"),
                *tenant("team-d", 4, "pw-a"),
                namespace("team-e"),
                secret("team-e", "redis-secret-master", redis_connection_string="redis://:pw-e@h"),
            )
        )
        reported = self.problems(found)
        self.assertEqual(len(reported), 5, reported)
        for part in (
            "team-b/redis-secret-master: database 3 belongs to the older team-a",
            "team-c/redis-secret-master: Redis has no database 64: it has databases 0 to 63",
            "team-d/redis-secret-master: it has the same password as team-a",
            "team-a/redis-secret-master: it has the same password as team-d",
            "team-e/redis-secret-master: redis-connection-string does not end in /N",
        ):
            self.assertTrue(any(problem.startswith(part) for problem in reported), (part, reported))
        states = {view.namespace: view.state.value for view in found.namespaces}
        self.assertEqual(
            states,
            {"team-a": "problems", "team-b": "kept out", "team-c": "kept out", "team-d": "problems", "team-e": "kept out"},
        )
        self.assertIn("give this namespace another index", self.rendered(found))

    async def test_who_has_no_secret_is_not_kept_out(self) -> None:
        """Whatever is wrong with the namespace: it was never enrolled."""
        found = await inspect.check(
            self.operator(
                master(self.redis().url),
                namespace("team-a", annotations={"redisproxy/max-connections": "many"}),
                namespace("team-b"),
                secret("team-b", "another", redis_connection_string="nonsense"),
                *tenant("team-c", "x", "pw-c"),
                secret("team-c", "redis-secret-temp-a", redis_connection_string="redis://:pw-a@h/x"),
            )
        )
        states = {view.namespace: view.state.value for view in found.namespaces}
        self.assertEqual(states, {"team-a": "not enrolled", "team-b": "not enrolled", "team-c": "kept out"})
        self.assertRegex(self.problems(found)[0], "^team-a: annotation redisproxy/max-connections is not a whole number")

    async def test_redis_that_is_not_there_or_refuses(self) -> None:
        server = self.redis()
        for url, pattern in (
            (
                f"redis://:pw-x@127.0.0.1:{free_port()}/0",
                "^Redis: no connection to Redis at redis://127.0.0.1:[0-9]+: ConnectionRefused",
            ),
            (f"redis://:pw-wrong@127.0.0.1:{server.port}/0", "^Redis: Redis at redis://127.0.0.1:[0-9]+ refuses: WRONGPASS"),
            (f"redis://127.0.0.1:{server.port}/0", "refuses: NOAUTH"),
            ("unix:///nowhere/redis.sock", "no connection to Redis at unix:///nowhere/redis.sock"),
            (f"rediss://:pw-x@127.0.0.1:{server.port}/0", "no connection to Redis at rediss://|closed the connection"),
        ):
            # A Redis without TLS waits for the rest of what looks like a command: until the time is
            # over.
            limit = {"connect-timeout": "2"} if url.startswith("rediss") else {}
            found = await inspect.check(self.operator(master(url), *tenant("team-blue", 3, "pw-blue"), **limit))
            [reported] = self.problems(found)
            self.assertRegex(reported, pattern)

    async def test_a_ca_file_without_a_certificate(self) -> None:
        file = Path(self.mktemp())
        file.write_text("nothing\n")
        url = f"rediss://:pw-x@127.0.0.1:{self.redis().port}/0"
        operator = self.operator(master(url), namespace("team-new"), **{"redis-ca": str(file)})
        found = await inspect.check(operator)
        self.assertEqual(
            self.problems(found), [f"Redis: the CA file {file.absolute()} cannot be used: it has no certificate in PEM"]
        )
        self.assertRegex(advice(found.problems[0].reason), "--redis-ca")

    async def test_redis_that_takes_connections_and_says_nothing(self) -> None:
        server = self.redis()
        server.client().execute_command("CLIENT", "PAUSE", "20000", "ALL")
        operator = self.operator(master(server.url), **{"connect-timeout": "0.3"})
        [reported] = self.problems(await inspect.check(operator))
        self.assertRegex(reported, "no connection to Redis at redis://127.0.0.1:[0-9]+: no answer came in time")

    async def test_a_replica(self) -> None:
        primary = self.redis()
        replica = self.redis(valkey, f"replicaof 127.0.0.1 {primary.port}", "masterauth master-password-of-the-tests")
        until(lambda: replica.client().info("replication")["master_link_status"] == "up", "it replicates")
        [reported] = self.problems(await inspect.check(self.operator(master(replica.url))))
        self.assertRegex(reported, "reports that it is a replica, and refuses writes")

    async def test_a_limit_of_unread_replies_on_a_connection_that_sessions_share(self) -> None:
        server = self.redis(valkey, "client-output-buffer-limit normal 16mb 4mb 60")
        source = (master(server.url), namespace("team-new"))
        found = await inspect.check(self.operator(*source))
        self.assertEqual(self.problems(found), [])
        [warning] = found.warnings
        self.assertRegex(warning, "closes a connection with 4,194,304 bytes of unread replies .* 256 MiB or more")
        self.assertEqual((await inspect.check(self.operator(*source, connections="dedicated"))).warnings, [])

    async def test_limits_that_redis_does_not_have(self) -> None:
        server = self.redis(valkey, "maxmemory 0", "client-output-buffer-limit normal 0 0 0", "maxclients 60")
        source = (master(server.url), *(namespace(f"team-{number}") for number in range(2)))
        no_memory, no_output, few = (await inspect.check(self.operator(*source, **{"base-workers": "60"}))).warnings
        self.assertRegex(no_memory, "has no maxmemory: .* Set maxmemory and")
        self.assertRegex(no_output, "keeps any number of bytes .* Set maxmemory-clients 25%")
        self.assertRegex(few, r"takes 60 connections \(maxclients\), and each replica of the proxy may need more than 63")
        # Each is over when it is set, and Redis need not be started again.
        redis = server.client()
        redis.config_set("maxmemory", "1gb")
        redis.config_set("maxmemory-clients", "25%")
        redis.config_set("maxclients", "1000")
        self.assertEqual((await inspect.check(self.operator(*source))).warnings, [])

    async def test_limits_that_redis_does_not_tell(self) -> None:
        server = self.redis(valkey, "maxmemory 0", 'rename-command CONFIG ""')
        self.assertEqual((await inspect.check(self.operator(master(server.url), namespace("team-new")))).warnings, [])

    async def test_a_server_without_acls(self) -> None:
        server = self.redis(redis_5, "bind 127.0.0.1")  # it knows no "-::1"
        found = await inspect.check(self.operator(master(server.url), namespace("team-new")))
        self.assertEqual(self.problems(found), [])
        self.assertEqual(found.warnings, ["there is one isolation layer, the proxy's own: scripts are refused"])
        required = await inspect.check(self.operator(master(server.url), acl="require"))
        self.assertEqual(
            self.problems(required),
            [f"Redis: redis://127.0.0.1:{server.port} has no ACL users for tenants, and --acl is require: nobody is served"],
        )
        self.assertRegex(self.rendered(required), r"-> Use another Redis, .* or set --acl auto")
        reported = self.rendered(found)
        self.assertRegex(reported, r"(?m)^Redis .*, no ACL users, scripts refused$")
        self.assertTrue(reported.endswith("\nno problems, 1 warning"), reported)

    async def test_a_server_on_which_scripts_are_refused(self) -> None:
        """It has ACL users, but does not hold the tenants' limits in scripts."""
        server = self.redis(redis_6)
        found = await inspect.check(self.operator(master(server.url), namespace("team-new")))
        self.assertEqual(self.problems(found), [])
        [warning] = found.warnings
        self.assertRegex(warning, r"^scripts are refused: .*\(CVE-2025-46818\).* Upgrade Redis")
        reported = self.rendered(found)
        self.assertRegex(reported, r"(?m)^Redis .*, ACL users, scripts refused$")
        self.assertIn("warning: scripts are refused: ", reported)
        self.assertTrue(reported.endswith("\nno problems, 1 warning"), reported)
        self.assertEqual(render.check_document(found, NOW)["redis"]["scripts"], False)
        # Whoever opens them is warned of that.
        operator = self.operator(master(server.url), namespace("team-new"), **{"allow-commands": "EVAL"})
        found = await inspect.check(operator)
        self.assertEqual((len(found.warnings), found.redis.scripts), (1, True))
        self.assertRegex(found.warnings[0], "^--allow-commands opens EVAL: ")

    async def test_states_that_pass_have_names(self) -> None:
        """The advice says which state it is, and what ends it. EVAL alone fails: Redis serves, and
        scripts are refused.
        """
        server = self.redis()
        faulty = FaultyRedis(server.port)
        self.addCleanup(faulty.stop)
        for error, advised in (
            (PASSING[0], r"A script has run for too long in Redis. .* SCRIPT KILL"),
            (PASSING[1], r"Redis is loading its data. Wait"),
        ):
            faulty.faults = {"INFO": error}
            found = await inspect.check(self.operator(master(faulty.url(MASTER_PASSWORD)), namespace("team-new")))
            [problem] = found.problems
            self.assertRegex(advice(problem.reason), advised)
            self.assertRegex(self.rendered(found), f"-> {advised}")
            faulty.faults = {"EVAL": error}
            found = await inspect.check(self.operator(master(faulty.url(MASTER_PASSWORD)), namespace("team-new")))
            self.assertEqual((found.problems, found.redis.scripts), ([], False))
            self.assertRegex(found.warnings[0], f"did not answer all queries: EVAL: {error[:5]}.* {advised}")
            self.assertRegex(found.warnings[1], "^scripts are refused: Redis did not report")
            self.assertTrue(self.rendered(found).endswith("\nno problems, 2 warnings"))

    async def test_a_server_that_loads_its_data(self) -> None:
        """It answers all questions, and says so itself."""
        server = self.redis()
        inquiry = Inquiry("redis://h:1", USUAL, messages.REDIS_IS_LOADING(), None, {})
        operator = self.operator(master(server.url), namespace("team-new"))
        found = inspect.resolve(operator, await operator.read(), None)
        inspect._judge(operator, found, RedisView(BackendAddress("h"), inquiry=inquiry))
        [problem] = found.problems
        self.assertRegex(str(problem), "^Redis: redis://h:1 is loading its data")
        self.assertRegex(advice(problem.reason), "^Redis is loading its data. Wait")

    def test_each_error_that_passes_has_its_advice(self) -> None:
        for error in PASSING:
            reported = messages.REDIS_REPORTS_NOTHING(
                address="redis://h", reason=probing.explain({"INFO": ErrorReply(error)})
            )
            self.assertEqual(reported.code, f"redis-error-{error.partition(' ')[0].lower()}")
            self.assertTrue(reported.remedy, error)
        for code in probing._CODES_THAT_PASS:
            self.assertTrue(messages.redis_error(f"{code} something").remedy, code)

    async def test_a_server_that_hides_its_commands(self) -> None:
        server = self.redis(valkey, 'rename-command COMMAND ""')
        found = await inspect.check(self.operator(master(server.url), namespace("team-new")))
        self.assertEqual((self.problems(found), found.warnings), ([], []))
        self.assertEqual((found.redis.inquiry.server.databases, found.redis.inquiry.server.acl), (64, True))

    async def test_a_server_that_is_busy(self) -> None:
        """It is no server without ACL users, nor one of an unknown number of databases."""
        server = self.redis(valkey, "lua-time-limit 5")
        running = threads.deferToThread(server.client().eval, "while true do end", 0)
        running.addErrback(lambda _: None)
        await threads.deferToThread(until, lambda: is_busy(server), "it is busy")
        found = await inspect.check(self.operator(master(server.url), namespace("team-new")))
        server.client().script_kill()
        await running
        [reported] = self.problems(found)
        self.assertRegex(reported, "Redis at redis://.* did not report its version and settings: INFO server, .*: BUSY ")
        self.assertRegex(self.rendered(found), r"-> A script has run for too long in Redis. .* SCRIPT KILL")
        self.assertIsNone(found.redis.room)

    async def test_names_of_commands_that_it_does_not_have(self) -> None:
        server = self.redis()
        found = await inspect.check(self.operator(master(server.url), namespace("team-new"), **{"deny-commands": "NOSUCH"}))
        self.assertRegex(found.warnings[0], "names commands that this Redis does not have: NOSUCH")

    async def test_what_is_opened_and_tells_of_others(self) -> None:
        opened = {"allow-commands": "SLOWLOG,LASTSAVE,bgsave,FUNCTION", "deny-commands": "BGSAVE"}
        expected = [
            "--allow-commands opens FUNCTION: all tenants share the libraries: a tenant sees, replaces and deletes those of others",
            "--allow-commands opens SLOWLOG: it deletes entries of all tenants; SLOWLOG|GET and SLOWLOG|LEN stay those of the tenant",
        ]
        url = self.redis().url
        found = await inspect.check(self.operator(master(url), namespace("team-new"), **opened))
        self.assertEqual((found.problems, found.warnings), ([], expected))
        self.assertIn(f"warning: {expected[1]}", self.rendered(found).replace("\n", " "))
        self.assertEqual(render.check_document(found, NOW)["warnings"], expected)
        # Also where Redis is not asked, or does not answer.
        away = master(f"redis://:pw-x@127.0.0.1:{free_port()}/0")
        found = await inspect.check(self.operator(away, namespace("team-new"), **opened))
        self.assertEqual((len(found.problems), found.warnings), (1, expected))
        embedded = self.operator(namespace("team-new"), embedded="yes", **opened)
        found = await inspect.check(embedded, BackendAddress("127.0.0.1", 1))
        self.assertEqual(found.warnings[1:], expected)
        # Functions are scripts, and need ACL users.
        found = await inspect.check(self.operator(master(url), namespace("team-new"), acl="off", **opened))
        self.assertEqual(
            [text.partition(": ")[0] for text in found.warnings],
            ["there is one isolation layer, the proxy's own", "--allow-commands opens SLOWLOG"],
        )

    async def test_nobody_has_the_prefix(self) -> None:
        found = await inspect.check(self.operator(master(self.redis().url)))
        self.assertEqual(
            (found.problems, found.warnings), ([], ["no namespace has a name that begins with 'team-': nobody can log in"])
        )

    async def test_no_master_secret(self) -> None:
        found = await inspect.check(self.operator(*tenant("team-blue", 3, "pw-blue")))
        self.assertEqual(self.problems(found), ["kube-system/redis-secret-master: the master secret does not exist"])
        self.assertIsNone(found.redis)


class TenantsTests(FindingsCase):
    async def test_what_is_in_no_namespace_of_the_list_is_told(self) -> None:
        found = await inspect.tenants(
            self.operator(
                *tenant("team-blue", 3, "pw-blue"),
                namespace("team-Red"),
                {"kind": "Namespace", "metadata": {}},
                tenant("team-green", 4, "pw-green")[1],
            )
        )
        self.assertEqual(
            sorted(text.partition("/document")[2] or text for text in found.warnings),
            [
                " 4: it has no metadata.name",
                "'team-Red': is not a valid name of a namespace: use up to 63 of a-z, 0-9 and -",
                "team-green/redis-secret-master: no file has a Namespace document of that name",
            ],
        )


class SentinelTests(FindingsCase):
    async def test_sentinels(self) -> None:
        group = Sentinels(password="sentinel-pw").start()
        self.addCleanup(group.stop)
        group.until_replicated()
        for setting in BOUNDED:
            group.servers[0].client().config_set(*setting.split(" ", 1))
        documents = [*tenant("team-blue", 3, "pw-blue")]
        secrets = {"sentinel_password": "sentinel-pw"}
        found = await inspect.check(self.operator(master(group.url, **secrets), *documents))
        self.assertEqual((self.problems(found), found.warnings), ([], []))
        self.assertEqual(found.redis.inquiry.address, f"redis://127.0.0.1:{group.servers[0].port}")
        self.assertIn(f"{NAME} is at 127.0.0.1:{group.servers[0].port}", self.rendered(found))
        asked = f"redis://:sentinel-pw@127.0.0.1:{group.sentinels[0].port}/0"
        reported = self.problems(await inspect.check(self.operator(master(asked), *documents)))
        self.assertRegex(reported[0], r"^Redis: redis://127.0.0.1:\d+ is a sentinel: .* write redis\+sentinel://")
        group.sentinels[0].kill()
        found = await inspect.check(self.operator(master(group.url, **secrets), *documents))
        self.assertEqual(self.problems(found), [])
        [warning] = found.warnings
        self.assertRegex(warning, f"^sentinel 127.0.0.1:{group.sentinels[0].port}: it cannot be reached: ConnectionRefused")
        found = await inspect.check(self.operator(master(group.url), *documents))
        self.assertEqual(self.problems(found), [f"Redis: no sentinel reports the address of {NAME}"])
        self.assertEqual(sum("NOAUTH" in warning for warning in found.warnings), 2)

    async def test_whom_enroll_asked(self) -> None:
        """It shows no warnings: the one line has the address of each that did not answer."""
        ports = [free_port() for _ in range(2)]
        addresses = [f"127.0.0.1:{port}" for port in ports]
        url = f"redis+sentinel://{','.join(addresses)}/{NAME}"
        operator = self.operator(master(url), namespace("team-new"))
        with self.assertRaisesRegex(Refused, f"^no sentinel reports the address of {NAME}; ") as caught:
            await operations.enroll(operator, "team-new", None, None, None, False, True)
        for address in addresses:
            self.assertIn(f"; {address}: it cannot be reached: ConnectionRefusedError", str(caught.exception))

    async def test_sentinels_that_say_nothing(self) -> None:
        server = self.redis()
        server.client().execute_command("CLIENT", "PAUSE", "20000", "ALL")
        url = f"redis+sentinel://127.0.0.1:{server.port}/{NAME}"
        [reported] = self.problems(await inspect.check(self.operator(master(url), **{"connect-timeout": "0.3"})))
        self.assertEqual(reported, f"Redis: no sentinel reports the address of {NAME}")


class ApiTests(FindingsCase):
    def setUp(self) -> None:
        self.api = ApiServer().start()
        self.addCleanup(self.api.remove)
        self.server = self.redis()
        self.api.put(master(self.server.url), *tenant("team-blue", 3, "pw-blue"), *tenant("team-green", 5, "pw-green"))
        settings = Settings.read({"ns-prefix": PREFIX, "connect-timeout": str(LIMIT)}, {})
        environ = {"KUBECONFIG": str(self.api.kubeconfig)}
        source = ClusterSource(PREFIX, settings.redis_secret, settings.master, KubernetesApi(443, environ))
        self.operator_ = Operator(reactor, settings, source)

    async def check(self) -> Findings:
        found = await inspect.check(self.operator_)
        self.rendered(found)
        return found

    async def test_all_is_well(self) -> None:
        found = await self.check()
        self.assertEqual((found.problems, found.warnings), ([], []))
        until(lambda: not self.api.watches(), "the watches were closed")

    async def test_rights_that_are_missing(self) -> None:
        self.api.fail_watches("/api/v1/secrets", refusal(403))
        found = await self.check()
        self.assertEqual(found.problems, [])
        [warning] = found.warnings
        self.assertRegex(
            warning,
            "^secrets cannot be watched, so changes .* next refresh: 403 Forbidden: the right to watch .* is missing",
        )
        self.api.fail(secrets_path("team-green"), refusal(403))
        self.assertEqual(self.problems(await self.check()), ["team-green: its secrets were not read: 403 Forbidden"])
        self.assertFalse((await inspect.tenants(self.operator_)).complete)
        self.api.fail("/api/v1/namespaces", refusal(403))
        self.assertEqual(self.problems(await self.check()), ["all namespaces: not read: 403 Forbidden"])

    async def test_an_api_that_fails_when_watches_are_opened(self) -> None:
        """One warning, not one for each watch."""
        self.api.fail_watches(ANY, refusal(503))
        found = await self.check()
        self.assertEqual(
            found.warnings,
            [
                "namespaces, secrets and the master secret cannot be watched, so changes take effect at the next refresh: "
                "503 Service Unavailable"
            ],
        )

    async def test_an_api_that_fails_in_the_middle(self) -> None:
        """One problem, which says how many namespaces it is about."""
        self.api.put(namespace("team-red"))
        self.api.fail(secrets_path("team-blue"), refusal(503))
        self.assertEqual(
            self.problems(await self.check()),
            ["all namespaces: the secrets of 3 of 3 were not read: 503 Service Unavailable"],
        )
        self.assertRegex(self.rendered(await self.check()), "(?m)^source .*: 3 namespaces, 0 enrolled, 3 not read$")
        listed = await inspect.tenants(self.operator_)
        self.assertEqual(
            (listed.warnings, listed.complete),
            (["all namespaces: the secrets of 3 of 3 were not read: 503 Service Unavailable"], False),
        )

    async def test_the_api_is_away(self) -> None:
        self.api.stop()
        found = await self.check()
        self.assertRegex(
            self.rendered(found), "(?m)^source   the Kubernetes API: its namespaces could not be read\n\n1 problem:$"
        )
        [reported] = self.problems(found)
        self.assertRegex(
            reported,
            f"^all namespaces and the master secret: not read: no answer from {self.api.url}: .*Connection refused$",
        )


class TextTests(unittest.TestCase):
    def test_names_cannot_command_the_terminal(self) -> None:
        [_, row] = render.table(("NAMESPACE",), [["team-\x1b[2Jx\n"]])
        self.assertEqual(row, "team-\\x1b[2Jx\\n")
        # What a tenant wrote into its secret is shown with its new password.
        written = Written("team-red", "redis-secret-master", 2, "redis://:new@h\x9b2J:6379/2", {})
        self.assertEqual(list(render.written_lines(written, "done", False, True))[-1], "redis://:new@h\\x9b2J:6379/2")

    def test_lines_to_try_a_url_with(self) -> None:
        for url, started in (
            ("rediss://u:pw-x@[::1]:7000/3?ssl_cert_reqs=none", " redis-cli --tls -h ::1 -p 7000 PING"),
            ("redis://:pw-x@redis.example/3", " redis-cli -h redis.example -p 6379 PING"),
        ):
            first, second = render.try_lines(url)
            self.assertTrue(first.endswith(started), first)
            self.assertTrue(second.startswith("python3 -c "), second)
            self.assertNotIn("pw-x", first + second)
        self.assertEqual(len(list(render.try_lines("redis://:pw-x@/3"))), 1, "no address, so none for redis-cli")

    def test_long_problems_are_wrapped_between_words(self) -> None:
        lines = render._wrapped("one-two three " * 20, 50, "  ", "    ")
        self.assertTrue(all(len(line) <= 50 for line in lines))
        self.assertEqual(" ".join(line.strip() for line in lines), ("one-two three " * 20).strip())


def is_busy(server: RedisServer) -> bool:
    try:
        server.client().ping()
    except redis.ResponseError as error:
        return "BUSY" in str(error)
    return False


class SameRulesTests(FindingsCase):
    """`redisproxy check` and the proxy see the same settings. Settings that change nothing by
    default are set here.
    """

    SETTINGS = {
        "redis-secret": "client",
        "master-secret": "master",
        "tenant-max-connections": "7",
        "tenant-commands-per-second": "100",
        "allow-commands": "KEYS,EVAL",
        "deny-commands": "GETDEL",
    }
    SERVERS = tuple(
        Server("a Redis", 16, builtin(), acl, databases, before_7=before_7, sealed=sealed)
        for acl in (True, False)
        for databases in (True, False)
        for before_7 in (True, False)
        for sealed in (True, False, None)
    )

    def installation(self, **more: str) -> tuple[Operator, ProxyService]:
        secrets = [
            secret("kube-system", "master", redis_connection_string="redis://:master-password@127.0.0.1:1/0"),
            namespace("team-blue"),
            secret("team-blue", "client", redis_connection_string="redis://:pw-blue@redisproxy:6379/3"),
            namespace("team-green", annotations={"redisproxy/max-connections": "9"}),
            secret("team-green", "client", redis_connection_string="redis://:pw-green@redisproxy:6379/4"),
            secret("team-green", "redis-secret-master", redis_connection_string="redis://:pw-x@redisproxy:6379/5"),
        ]
        operator = self.operator(*secrets, **self.SETTINGS, **more)
        return operator, ProxyService(operator.settings, MemoryReactorClock())

    async def test_both_enrol_by_the_same_rules(self) -> None:
        operator, proxy = self.installation()
        reading = await operator.read()
        found = inspect.resolve(operator, reading, 4)
        proxy.reading._enrolment.use_full_read(reading)
        snapshot, problems = proxy.reading._enrolment.resolve(4)
        self.assertEqual(found.snapshot.backend, snapshot.backend)
        self.assertEqual(found.snapshot.tenants, snapshot.tenants)
        self.assertEqual(found.snapshot.limits, snapshot.limits)
        self.assertEqual(found.snapshot.limits, {"team-blue": Limits(7, 100, 0, max_patterns=100)})
        self.assertEqual(found.problems, problems)

    async def test_both_decide_by_the_same_policy(self) -> None:
        for acl in ("auto", "require", "off"):
            operator, proxy = self.installation(acl=acl)
            rights: list[object] = []
            self.patch(inspect, "inquire", lambda *arguments: rights.append(arguments[-1]) or defer.succeed(None))  # noqa: B023
            await operator.find_redis(BackendAddress("127.0.0.1"))
            proxy.serving.use_snapshot(Snapshot(BackendAddress("127.0.0.1"), []))
            for server in self.SERVERS:
                proxy.serving.backend._server_probed(server)
                policy = proxy.serving.clients.policy
                self.assertEqual(rights[0](server), needed(policy), (acl, server.before_7, server.sealed))
                self.assertEqual(rights[0](server), proxy.serving.backend.control._rights(server))
                found = Findings("", [], [], Snapshot(None, []), True)
                inspect._judge_commands(operator, found, server)
                opened = [warning.split()[2].rstrip(":") for warning in found.warnings if " opens " in warning]
                self.assertEqual(opened, [command for command, _ in policy.exposed])

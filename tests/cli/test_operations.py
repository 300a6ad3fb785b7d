"""What the operator's command writes, over a Kubernetes API: the small one, and a real
kube-apiserver (`make test-cluster`).
"""

from __future__ import annotations

import base64
import calendar
import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from twisted.internet import defer, reactor
from twisted.trial import unittest

from redisproxy.cli import inspect, operations, pausing, render, rotation
from redisproxy.cli.inspect import Operator
from redisproxy.ops.time_text import iso
from redisproxy.settings import Settings
from redisproxy.sources.documents import StoredSecret
from redisproxy.sources.kubernetes import ClusterSource
from redisproxy.sources.kubernetes_api import KubernetesApi, RequestError
from redisproxy.sources.secret_writer import ClusterWriter, WriteError
from redisproxy.tenants.allocation import ADDRESS, Refused
from redisproxy.tenants.enrolment import parse_tenant

from ..cluster.apiserver import ask, shared_api_server
from ..deploy.documents import known_to_1_20
from ..support import proxy
from ..support.apiserver import ANY, NOT_JSON, TOKEN, ApiServer, Fault, refusal, secrets_path
from ..support.servers import RedisServer
from ..support.waiting import LIMIT
from ..support.worlds import RealApiWorld, SmallApiWorld, namespace, secret, url

SECRET = "redis-secret-master"
UNAVAILABLE = refusal(503)


class SmallWorld(SmallApiWorld):
    """Also shows what was stored, and who may only read."""

    def stored(self, where: str, name: str) -> dict | None:
        return self.api.secret(where, name)

    def store(self, document: dict) -> None:
        self.api.put(document)

    def reader(self) -> ClusterSource:
        self.api.tokens.add("reader")
        self.api.readers.add("reader")
        path = self.api.write_kubeconfig(self.api.directory / "reader", "reader")
        return ClusterSource(self.prefix, SECRET, self.master, KubernetesApi(443, {"KUBECONFIG": str(path)}))


class RealWorld(RealApiWorld):
    def stored(self, where: str, name: str) -> dict | None:
        status, found = self.server.request("GET", f"{secrets_path(where)}/{name}")
        return found if status == 200 else None

    def store(self, document: dict) -> None:
        self.put(document)

    def reader(self) -> ClusterSource:
        """With the rights that deploy/kubernetes gives the proxy."""
        ran = self.server.kubectl("apply", "-f", "-", stdin=known_to_1_20())
        if ran.returncode:
            raise AssertionError(ran.stderr)
        path = self.server.write_kubeconfig("redisproxy", self.server.account_token("redisproxy", "redisproxy"))
        return ClusterSource(self.prefix, SECRET, self.master, KubernetesApi(443, {"KUBECONFIG": str(path)}))


class Pauses:
    """Of `Changes`."""

    def annotations(self) -> dict[str, str]:
        reading = self.source.read()
        return dict(next(one.annotations for one in reading.namespaces if one.name == self.blue))

    def set_paused(self, paused: bool, operator: Operator | None = None, dry_run: bool = False) -> defer.Deferred:
        return defer.Deferred.fromCoroutine(pausing.set_paused(operator or self.operator, self.blue, paused, dry_run))

    async def state(self) -> inspect.State:
        found = await inspect.tenants(self.operator)
        return next(view.state for view in found.namespaces if view.namespace == self.blue)

    async def test_a_pause_and_its_end(self) -> None:
        """It changes that annotation alone."""
        self.world.put(namespace(self.blue, max_connections="5"))
        limit = {"redisproxy/max-connections": "5"}
        for paused, before in ((False, False), (True, False), (True, True), (False, True), (False, False)):
            for dry_run in (True, False):
                done = await self.set_paused(paused, dry_run=dry_run)
                self.assertEqual((done.namespace, done.paused, done.changed), (self.blue, paused, paused != before))
                lines = "\n".join(render.paused_lines(done, dry_run))
                self.assertEqual("would" in lines, dry_run and done.changed)
                now = before if dry_run else paused
                self.assertEqual(self.annotations(), {**limit, **({"redisproxy/paused": "true"} if now else {})})
                self.assertEqual(await self.state(), inspect.State.PAUSED if now else inspect.State.SERVED)

    async def test_a_malformed_value_is_replaced(self) -> None:
        self.world.put(namespace(self.blue, paused="yes"))
        self.assertEqual(await self.state(), inspect.State.PROBLEMS)
        self.assertTrue((await self.set_paused(False)).changed)
        self.assertEqual((self.annotations(), await self.state()), ({}, inspect.State.SERVED))

    async def test_who_cannot_be_paused(self) -> None:
        for name, pattern in (("other", "does not begin with"), (self.prefix + "none", "there is no namespace")):
            await self.refuses(pausing.set_paused(self.operator, name, True, False), pattern)
        done = await pausing.set_paused(self.operator, self.red, True, False)
        self.assertIn("is not served", done.notes[0])

    async def test_a_pause_without_the_right(self) -> None:
        operator = self.operate(self.world.reader())
        await self.refuses(self.set_paused(True, operator), "the right to patch namespaces")
        self.assertEqual(self.annotations(), {})
        self.assertTrue((await self.set_paused(True, operator, dry_run=True)).changed)


class Changes(Pauses):
    """Subclasses say in which world."""

    def make_world(self) -> SmallWorld | RealWorld:
        raise NotImplementedError

    def setUp(self) -> None:
        self.world = self.make_world()
        self.addCleanup(self.world.remove)
        mine = secrets.token_hex(3)
        self.prefix, self.master = f"t{mine}-", (f"system-{mine}", "redis-secret-master")
        self.world.prefix, self.world.master = self.prefix, self.master
        self.blue, self.green, self.red = (self.prefix + name for name in ("blue", "green", "red"))
        self.server = RedisServer().start()
        self.addCleanup(self.server.stop)
        self.world.put(namespace(self.master[0]), secret(*self.master, redis_connection_string=self.server.url))
        self.world.put(*self.tenant(self.blue, "pw-blue", 1), namespace(self.red))
        self.source = self.world.source(self.prefix, SECRET, self.master)
        self.operator = self.operate(self.source)

    def operate(self, source: ClusterSource, **more: object) -> Operator:
        settings = Settings(
            ns_prefix=self.prefix, master_namespace=self.master[0], master_secret=self.master[1], connect_timeout=LIMIT
        )
        return Operator(reactor, replace(settings, **more), source)

    def tenant(self, name: str, password: str, index: int) -> list[dict]:
        return [namespace(name), secret(name, SECRET, redis_connection_string=url(password, index))]

    def enroll(self, name: str, wanted: int | None = None, **more: object) -> defer.Deferred:
        options = {"address": None, "databases": None, "keep_data": False, "dry_run": False, **more}
        operator = options.pop("operator", self.operator)
        return defer.Deferred.fromCoroutine(operations.enroll(operator, name, wanted, **options))

    async def refuses(self, waiting: object, pattern: str) -> None:
        """With one line, without a password."""
        with self.assertRaisesRegex((Refused, WriteError), pattern) as caught:
            await waiting
        text = str(caught.exception)
        self.assertNotIn("\n", text)
        self.assertNotIn("pw-", text)
        self.assertNotIn(self.server.password, text)

    def values(self, where: str, name: str = SECRET) -> dict[str, bytes]:
        return {key: base64.b64decode(value) for key, value in self.world.stored(where, name)["data"].items()}

    async def served(self) -> dict[str, tuple[int | None, int]]:
        """By namespace: database, and how many credentials, as the proxy would have it."""
        found = await inspect.tenants(self.operator)
        return {view.namespace: (view.index, len(view.credentials)) for view in found.namespaces}

    def meddle(self, method: str, change: Callable[[], object]) -> None:
        """Makes something happen just before such a request, once."""
        request = self.source.api.request
        left = [change]

        def meddled(called: str, *arguments: object, **options: object) -> dict:
            if called.startswith(method) and left:
                left.pop()()
            return request(called, *arguments, **options)

        self.source.api.request = meddled

    # Enrolling.

    async def test_enroll(self) -> None:
        written = await self.enroll(self.red)
        self.assertEqual((written.namespace, written.secret, written.index), (self.red, SECRET, 2))
        stored = self.world.stored(self.red, SECRET)
        self.assertEqual(stored["type"], "Opaque")
        self.assertEqual(stored["metadata"]["labels"], {"app.kubernetes.io/managed-by": "redisproxy"})
        values = self.values(self.red)
        self.assertEqual(list(values), ["redis-connection-string"])
        _, password, _ = parse_tenant(values)
        self.assertEqual(
            values["redis-connection-string"].decode(), f"{ADDRESS.replace('//', f'//:{password.decode()}@')}/2"
        )
        self.assertEqual(written.url.encode(), values["redis-connection-string"])
        self.assertNotIn(password.decode(), repr(written))
        self.assertEqual(await self.served(), {self.blue: (1, 1), self.red: (2, 1)})
        await self.refuses(self.enroll(self.red), "is enrolled already, with database 2")

    async def test_the_label_that_the_network_policy_asks_for(self) -> None:
        """Without it the tenant's connections time out, and nobody says why."""
        line = f"kubectl label --overwrite namespace {self.red} redisproxy/tenant=true"
        for labels, notes in (({}, 1), ({"redisproxy/tenant": "yes"}, 1), ({"redisproxy/tenant": "true", "a": "b"}, 0)):
            document = namespace(self.red)
            document["metadata"]["labels"] = labels
            self.world.store(document)
            written = await self.enroll(self.red, dry_run=True)
            self.assertEqual(len(written.notes), notes, labels)
            self.assertTrue(all(note.endswith(line) and "redisproxy/tenant=true" in note for note in written.notes))

    async def test_a_dry_run_writes_nothing_and_its_manifest_does(self) -> None:
        written = await self.enroll(self.red, dry_run=True)
        self.assertIsNone(self.world.stored(self.red, SECRET))
        self.world.put(written.manifest)
        self.assertEqual(await self.served(), {self.blue: (1, 1), self.red: (2, 1)})

    async def test_a_database_with_somebodys_keys_is_left_alone(self) -> None:
        self.server.client(2).set("of a tenant", "that was deleted")
        await self.refuses(self.enroll(self.red, 2), "holds 1 keys")
        self.assertEqual((await self.enroll(self.red)).index, 3)
        self.world.put(namespace(self.green))
        self.assertEqual((await self.enroll(self.green, 2, keep_data=True)).index, 2)

    async def test_what_is_refused_before_anything_is_written(self) -> None:
        for name, wanted, pattern in (
            ("kube-system", None, f"kube-system does not begin with '{self.prefix}'"),
            (self.green, None, f"there is no namespace {self.green}: kubectl create namespace {self.green}"),
            (self.blue, None, "is enrolled already, with database 1"),
            (self.red, 1, f"database 1 belongs to {self.blue}"),
            (self.red, 64, "Redis has no database 64: it has databases 0 to 63"),
        ):
            await self.refuses(self.enroll(name, wanted), pattern)
        self.assertIsNone(self.world.stored(self.red, SECRET))

    async def test_redis_that_cannot_be_asked(self) -> None:
        self.server.kill()
        await self.refuses(self.enroll(self.red), "no connection to Redis at redis://127.0.0.1:.*--databases N")
        self.world.delete(*self.master)
        await self.refuses(self.enroll(self.red), f"the master secret {self.master[0]}/.* does not exist.*--databases N")
        written = await self.enroll(self.red, databases=16)
        self.assertEqual(written.index, 2)
        self.assertRegex(written.notes[-1], "did not ask Redis: .* DBSIZE")

    async def test_a_secret_that_is_made_meanwhile_is_not_overwritten(self) -> None:
        theirs = secret(self.red, SECRET, redis_connection_string=url("pw-theirs", 9))
        self.meddle("create", lambda: self.world.put(theirs))
        await self.refuses(self.enroll(self.red), f"{self.red} already has a secret {SECRET}, which was not changed")
        self.assertEqual(self.values(self.red)["redis-connection-string"].decode(), url("pw-theirs", 9))

    async def test_an_index_that_another_takes_meanwhile(self) -> None:
        """The other one may have reported success already: it is us who give way, though our
        namespace is older.
        """
        self.meddle("create", lambda: self.world.put(*self.tenant(self.green, "pw-green", 2)))
        self.assertEqual((await self.enroll(self.red)).index, 3)
        self.assertEqual(await self.served(), {self.blue: (1, 1), self.red: (3, 1), self.green: (2, 1)})

    async def test_a_chosen_index_that_another_takes_meanwhile(self) -> None:
        self.meddle("create", lambda: self.world.put(*self.tenant(self.green, "pw-green", 7)))
        await self.refuses(self.enroll(self.red, 7), f"database 7 was given to {self.green} at the same moment")
        self.assertIsNone(self.world.stored(self.red, SECRET))
        self.assertEqual(await self.served(), {self.blue: (1, 1), self.red: (None, 0), self.green: (7, 1)})

    async def test_many_that_enroll_at_once(self) -> None:
        names = [f"{self.prefix}many-{number}" for number in range(3)]
        self.world.put(*map(namespace, names))
        results = await defer.DeferredList([self.enroll(name) for name in names], consumeErrors=True)
        chosen = {}
        for name, (success, result) in zip(names, results, strict=True):
            if success:
                chosen[name] = result.index
            else:
                result.trap(Refused)
        self.assertEqual(len(set(chosen.values())), len(chosen), "no two get the same index")
        served = await self.served()
        self.assertEqual({name: served[name][0] for name in chosen}, chosen)
        self.assertEqual((await inspect.tenants(self.operator)).problems, [])

    async def test_who_may_only_read(self) -> None:
        reader = self.operate(self.world.reader())
        self.assertEqual((await self.enroll(self.red, operator=reader, dry_run=True, databases=16)).index, 2)
        pattern = (
            f"{self.red}/{SECRET}: 403 Forbidden: you need the right to create secrets in {self.red}; .*kubectl auth can-i"
        )
        await self.refuses(self.enroll(self.red, operator=reader, databases=16), pattern)
        await self.refuses(operations.temporary(reader, self.blue, 1, "x", None, False), "the right to create secrets")
        # A dry run reads by lists alone.
        self.temporary("a", "pw-blue", valid_hours="9")
        self.assertEqual((await operations.temporary(reader, self.blue, 1, "x", None, True)).index, 1)
        self.assertEqual(len((await rotation.rotate(reader, self.blue, 12, True)).others), 2)
        self.assertIsNone(self.world.stored(self.red, SECRET))

    # Temporary credentials.

    async def test_a_temporary_credential(self) -> None:
        written = await operations.temporary(self.operator, self.blue, 8, "debugging", None, False)
        self.assertEqual((written.secret, written.index, written.valid_hours), ("redis-secret-temp-debugging", 1, 8))
        values = self.values(self.blue, written.secret)
        self.assertEqual(values["valid_hours"], b"8")
        self.assertEqual(parse_tenant(values)[2], 1)
        found = await inspect.tenants(self.operator)
        self.assertEqual(found.problems, [])
        [view] = [view for view in found.namespaces if view.namespace == self.blue]
        expires = {credential.secret: credential.expires for credential in view.credentials}
        created = self.world.stored(self.blue, written.secret)["metadata"]["creationTimestamp"]
        self.assertEqual(iso(expires[written.secret] - 8 * 3600), created)
        again = operations.temporary(self.operator, self.blue, 8, "debugging", None, False)
        await self.refuses(again, "already has a secret redis-secret-temp-debugging, which was not changed")
        self.assertEqual(self.values(self.blue, written.secret), values)
        by_chance = await operations.temporary(self.operator, self.blue, 8, "", None, False)
        self.assertRegex(by_chance.secret, "^redis-secret-temp-[a-z0-9]{6}$")
        self.assertEqual((await self.served())[self.blue], (1, 3))

    async def test_a_temporary_url_is_the_tenants_own_with_another_password(self) -> None:
        """Scheme, user, host, port and query, too: the same client connects with it."""
        own = "rediss://green:pw-green@other-host:7000/3?ssl_cert_reqs=none"
        self.world.put(namespace(self.green), secret(self.green, SECRET, redis_connection_string=own))
        for address, start, end in (
            (None, "rediss://green:", "@other-host:7000/3?ssl_cert_reqs=none"),
            ("redis://there:1", "redis://green:", "@there:1/3?ssl_cert_reqs=none"),
        ):
            written = await operations.temporary(self.operator, self.green, 8, "", address, False)
            stored = self.values(self.green, written.secret)["redis-connection-string"].decode()
            self.assertEqual(written.url, stored)
            self.assertRegex(stored, f"^{re.escape(start)}[A-Za-z0-9]{{40}}{re.escape(end)}$")
        rotated = await rotation.rotate(self.operator, self.green, 12, False)
        stored = self.values(self.green)["redis-connection-string"].decode()
        self.assertRegex(stored, r"^rediss://green:[A-Za-z0-9]{40}@other-host:7000/3\?ssl_cert_reqs=none$")
        self.assertEqual(self.values(self.green, rotated.grace.secret)["redis-connection-string"].decode(), own)
        # Without a client secret, as after it was deleted, the oldest temporary one says where
        # clients connect to.
        self.world.delete(self.green, SECRET)
        again = await operations.temporary(self.operator, self.green, 1, "", None, False)
        self.assertRegex(again.url, "^redis(s://green:.*@other-host:7000|://green:.*@there:1)/3")
        enrolled = await self.enroll(self.green, 3, keep_data=True, address=None)
        self.assertRegex(enrolled.url, "^redis(s://green:.*@other-host:7000|://green:.*@there:1)/3")

    async def test_nobody_to_give_one_to(self) -> None:
        self.world.pause()
        self.world.put(*self.tenant(self.green, "pw-green", 1))
        # Something is wrong with it, but it was never enrolled.
        limited = f"{self.prefix}limited"
        self.world.put(namespace(limited, max_connections="many"))
        for name, pattern in (
            (self.red, f"{self.red} is not enrolled: redisproxy enroll {self.red}"),
            (self.prefix + "nobody", "there is no namespace"),
            ("default", "does not begin with"),
            (limited, f"^{limited} is not enrolled: redisproxy enroll {limited}$"),
        ):
            await self.refuses(operations.temporary(self.operator, name, 1, "", None, False), pattern)
        waiting = operations.temporary(self.operator, self.green, 1, "", None, False)
        await self.refuses(waiting, f"{self.green} is kept out: .*database 1 belongs to the older")

    # Rotating.

    async def test_rotate(self) -> None:
        """The new password works, and the old one until the grace is over; whatever else is in the
        secret stays.
        """
        document = secret(
            self.blue, SECRET, redis_connection_string=url("pw-blue", 1), redis_password="pw-blue", other="kept"
        )
        document["metadata"]["labels"] = {"team": "blue"}
        self.world.store(document)
        rotated = await rotation.rotate(self.operator, self.blue, 12, False)
        values = self.values(self.blue)
        user, password, index = parse_tenant(values)
        self.assertEqual((user, index, values["other"], values["redis-password"]), ("", 1, b"kept", password))
        self.assertNotEqual(password, b"pw-blue")
        self.assertEqual(self.world.stored(self.blue, SECRET)["metadata"]["labels"], {"team": "blue"})
        old = self.values(self.blue, rotated.grace.secret)
        self.assertEqual(old, {"redis-connection-string": url("pw-blue", 1).encode(), "valid_hours": b"12"})
        found = await inspect.tenants(self.operator)
        self.assertEqual(found.problems, [])
        for known, name in ((password, SECRET), (b"pw-blue", rotated.grace.secret)):
            self.assertEqual(found.snapshot.authenticate(None, known, 0.0).secret, name)
        self.assertNotIn("pw-blue", repr(rotated))

    async def test_rotate_without_grace(self) -> None:
        rotated = await rotation.rotate(self.operator, self.blue, 0, False)
        self.assertEqual((rotated.grace, rotated.others, rotated.revoked, rotated.unfinished), (None, (), (), ()))
        self.assertEqual((await self.served())[self.blue], (1, 1))
        self.assertNotIn(b"pw-blue", self.values(self.blue)["redis-connection-string"])

    def temporary(self, name: str, password: str, **more: str) -> str:
        """A temporary secret of blue's, made by hand. Its name."""
        name = f"redis-secret-temp-{name}"
        self.world.store(secret(self.blue, name, redis_connection_string=url(password, 1), **more))
        return name

    async def test_passwords_that_are_still_good_are_named(self) -> None:
        """One leaked, but an earlier rotation has put it into a temporary secret; others have
        passwords of their own.
        """
        first = await rotation.rotate(self.operator, self.blue, 48, False)
        earlier = first.grace.secret
        current = parse_tenant(self.values(self.blue))[1].decode()
        same, endless = self.temporary("same", current, valid_hours="9"), self.temporary("endless", "pw-x")
        self.temporary("expired", current, valid_hours="0")
        self.world.store(secret(self.blue, "redis-secret-temp-bad", redis_connection_string=url("pw-bad", 5)))
        created = calendar.timegm(
            time.strptime(self.world.stored(self.blue, earlier)["metadata"]["creationTimestamp"], "%Y-%m-%dT%H:%M:%SZ")
        )
        for dry_run in (True, False):
            rotated = await rotation.rotate(self.operator, self.blue, 0, dry_run)
            self.assertEqual((rotated.grace, rotated.revoked, rotated.unfinished), (None, (), ()))
            found = {password.secret: password for password in rotated.others}
            self.assertEqual(set(found), {earlier, same, endless})
            self.assertEqual({name: one.old for name, one in found.items()}, {earlier: False, same: True, endless: False})
            self.assertEqual((found[earlier].expires, found[endless].expires), (created + 48 * 3600, None))
            text = "\n".join(render.rotated_lines(rotated, dry_run, False))
            self.assertNotIn("at once", text)
            self.assertIn(f"{same}", text)
            self.assertIn(iso(created + 48 * 3600), text)
            self.assertRegex(text, f"kubectl delete secret -n {self.blue} .*{earlier}")
            for shown in (text, repr(rotated), json.dumps(render.rotated_document(rotated, dry_run, False))):
                self.assertNotIn("pw-", shown)
                self.assertNotIn(current, shown)
        # With grace they are named, too, and the grace secret among them.
        rotated = await rotation.rotate(self.operator, self.blue, 12, False)
        self.assertEqual(
            {password.secret: password.old for password in rotated.others},
            {earlier: False, same: False, endless: False, rotated.grace.secret: True},
        )

    async def test_revoke_all(self) -> None:
        """Whatever is in the temporary secrets: one that is malformed, or expired, may be fixed."""
        earlier = (await rotation.rotate(self.operator, self.blue, 48, False)).grace.secret
        names = sorted([earlier, self.temporary("a", "pw-blue"), self.temporary("old", "pw-old", valid_hours="0")])
        self.world.store(secret(self.blue, "redis-secret-temp-bad", redis_connection_string="pw-bad"))
        self.world.store(secret(self.blue, "another", redis_connection_string=url("pw-blue", 1)))
        names = sorted([*names, "redis-secret-temp-bad"])
        foreseen = await rotation.rotate(self.operator, self.blue, 0, True, revoke_all=True)
        self.assertEqual((list(foreseen.revoked), foreseen.others), (names, ()))
        for name in names:
            self.assertIsNotNone(self.world.stored(self.blue, name), "a dry run deletes nothing")
        rotated = await rotation.rotate(self.operator, self.blue, 0, False, revoke_all=True)
        self.assertEqual((sorted(rotated.revoked), rotated.others, rotated.unfinished), (names, (), ()))
        self.assertEqual([self.world.stored(self.blue, name) for name in names], [None] * 4)
        self.assertIsNotNone(self.world.stored(self.blue, "another"), "it is no credential")
        self.assertEqual((await self.served())[self.blue], (1, 1))
        text = "\n".join(render.rotated_lines(rotated, False, False))
        self.assertIn(
            f"temporary secrets that were deleted: {', '.join(rotated.revoked)}\nthe old password ends at once", text
        )

    async def test_revoke_all_while_another_temporary_secret_is_made(self) -> None:
        """As by redisproxy temp at the same moment."""
        self.temporary("a", "pw-a")
        self.meddle("delete", lambda: self.temporary("b", "pw-b"))
        rotated = await rotation.rotate(self.operator, self.blue, 0, False, revoke_all=True)
        self.assertEqual(rotated.revoked, ("redis-secret-temp-a", "redis-secret-temp-b"))
        self.assertEqual((rotated.others, rotated.unfinished), ((), ()))
        self.assertEqual((await self.served())[self.blue], (1, 1))

    async def test_revoke_all_while_a_temporary_secret_is_made_anew(self) -> None:
        """Another one of the same name: what was to be deleted is gone, but the password of the new
        one is good.
        """
        name = self.temporary("a", "pw-a")

        def anew() -> None:
            self.world.delete(self.blue, name)
            self.temporary("a", "pw-b")

        self.meddle("delete", anew)
        rotated = await rotation.rotate(self.operator, self.blue, 0, False, revoke_all=True)
        self.assertEqual((rotated.revoked, rotated.others, rotated.unfinished), ((name,), (), ()))
        self.assertIsNone(self.world.stored(self.blue, name))

    async def test_revoke_all_of_a_secret_that_somebody_changes_meanwhile(self) -> None:
        """The password is not another one, so nothing is deleted."""
        name = self.temporary("a", "pw-a")
        theirs = secret(self.blue, SECRET, redis_connection_string=url("pw-theirs", 1))
        self.meddle("replace", lambda: self.world.store(theirs))
        await self.refuses(
            rotation.rotate(self.operator, self.blue, 0, False, revoke_all=True), "changed or deleted by somebody else"
        )
        self.assertIsNotNone(self.world.stored(self.blue, name))

    async def test_a_dry_run_of_a_rotation(self) -> None:
        before = self.world.stored(self.blue, SECRET)
        rotated = await rotation.rotate(self.operator, self.blue, 12, True)
        self.assertEqual(self.world.stored(self.blue, SECRET), before)
        self.assertIsNone(self.world.stored(self.blue, rotated.grace.secret))
        created = calendar.timegm(
            time.strptime(rotated.grace.manifest["metadata"]["creationTimestamp"], "%Y-%m-%dT%H:%M:%SZ")
        )
        self.assertLess(abs(created - time.time()), 60)

    async def test_a_secret_that_is_changed_meanwhile_keeps_that(self) -> None:
        theirs = secret(self.blue, SECRET, redis_connection_string=url("pw-theirs", 1))
        self.meddle("replace", lambda: self.world.store(theirs))
        await self.refuses(
            rotation.rotate(self.operator, self.blue, 12, False), "changed or deleted by somebody else meanwhile"
        )
        self.assertEqual(self.values(self.blue)["redis-connection-string"].decode(), url("pw-theirs", 1))
        self.assertEqual((await self.served())[self.blue], (1, 1), "the temporary secret was taken back")

    async def test_a_secret_that_is_deleted_meanwhile(self) -> None:
        self.meddle("replace", lambda: self.world.delete(self.blue, SECRET))
        await self.refuses(
            rotation.rotate(self.operator, self.blue, 12, False),
            "changed or deleted by somebody else meanwhile: nothing was written",
        )
        self.assertEqual((await self.served())[self.blue], (None, 0))

    async def test_what_cannot_be_rotated(self) -> None:
        self.world.put(namespace(self.green), secret(self.green, SECRET, redis_connection_string="redis://h/3"))
        for name, pattern in (
            (self.red, f"{self.red} has no secret {SECRET}: redisproxy enroll {self.red}"),
            (self.green, "malformed: .*no password"),
            ("default", "does not begin with"),
        ):
            await self.refuses(rotation.rotate(self.operator, name, 12, False), pattern)

    async def test_the_master_secret_is_no_tenants(self) -> None:
        """It may lie in a namespace with the prefix, under the very name that client secrets
        have.
        """
        self.world.put(*self.tenant(self.green, "pw-master", 0))
        operator = self.operate(self.source, master_namespace=self.green)
        before = self.world.stored(self.green, SECRET)
        await self.refuses(rotation.rotate(operator, self.green, 1, False), f"{self.green}/{SECRET} is the master secret")
        await self.refuses(self.enroll(self.green, operator=operator), "is the master secret")
        self.assertEqual(self.world.stored(self.green, SECRET), before)

    async def test_an_immutable_secret(self) -> None:
        self.world.put(namespace(self.green))
        self.world.store({**secret(self.green, SECRET, redis_connection_string=url("pw-green", 4)), "immutable": True})
        await self.refuses(
            rotation.rotate(self.operator, self.green, 12, False),
            f"is immutable: delete it, and run redisproxy enroll {self.green} --index 4 --keep-data --address "
            f"redis://redis:6379$",
        )
        writer = ClusterWriter(self.source.api)
        found = await self.operator.in_thread(writer.secret, self.green, SECRET)
        with self.assertRaisesRegex(WriteError, "422 Unprocessable Entity: .*immutable"):
            await self.operator.in_thread(writer.replace, found, {"redis-connection-string": b"x"})

    # What the writer itself holds.

    async def test_only_the_very_secret_is_deleted(self) -> None:
        writer = ClusterWriter(self.source.api)
        found = await self.operator.in_thread(writer.secret, self.blue, SECRET)
        other = StoredSecret(found.namespace, found.name, "another-uid", False, found.data, found.document)
        await self.operator.in_thread(writer.delete, other)
        self.assertIsNotNone(self.world.stored(self.blue, SECRET))
        await self.operator.in_thread(writer.delete, found)
        self.assertIsNone(self.world.stored(self.blue, SECRET))
        await self.operator.in_thread(writer.delete, found)

    async def test_what_is_no_name(self) -> None:
        writer = ClusterWriter(self.source.api)
        document = secret(self.red, "Not A Name", redis_connection_string="x")
        with self.assertRaisesRegex(WriteError, "422 Unprocessable Entity"):
            await self.operator.in_thread(writer.create, document)


class SmallApiTests(Changes, unittest.TestCase):
    def make_world(self) -> SmallWorld:
        return SmallWorld()

    async def test_the_answer_to_a_create_is_lost(self) -> None:
        self.meddle("create", lambda: self.world.api.fail(secrets_path(self.red), UNAVAILABLE))
        await self.refuses(
            self.enroll(self.red),
            "503 Service Unavailable.*the change may have been made, or not; check with redisproxy tenants",
        )

    async def test_the_answer_to_a_replacement_is_lost(self) -> None:
        """It may have been written: the old password must go on."""
        request = self.source.api.request

        def lost(method: str, *arguments: object, **options: object) -> dict:
            answer = request(method, *arguments, **options)
            if method.startswith("replace"):
                raise RequestError("no answer: ReadTimeoutError")
            return answer

        self.source.api.request = lost
        pattern = r"no answer: ReadTimeoutError.*does not know whether the password was changed. The old password stays valid for 12 h \(redis-secret-temp-rotated-"
        await self.refuses(rotation.rotate(self.operator, self.blue, 12, False), pattern)
        self.assertEqual((await self.served())[self.blue], (1, 2))

    async def test_a_temporary_secret_that_cannot_be_deleted(self) -> None:
        """The others are, and this one is named, with until when its password is good."""
        names = [self.temporary(end, f"pw-{end}", valid_hours="9") for end in "abc"]
        self.world.api.fail(f"{secrets_path(self.blue)}/{names[1]}", refusal(403))
        rotated = await rotation.rotate(self.operator, self.blue, 0, False, revoke_all=True)
        self.assertEqual(rotated.revoked, (names[0], names[2]))
        self.assertEqual([password.secret for password in rotated.others], [names[1]])
        [reported] = rotated.unfinished
        self.assertRegex(
            reported, f"{names[1]}.*403 Forbidden.*the right to delete secrets.*: its password may still be valid$"
        )
        self.assertNotIn(b"pw-blue", self.values(self.blue)["redis-connection-string"])

    async def test_an_api_that_goes_away_after_a_rotation(self) -> None:
        """Which passwords are still good is not known then, and that is said: not that all have
        ended.
        """
        name = self.temporary("a", "pw-blue")
        request = self.source.api.request

        def then_away(method: str, *arguments: object, **options: object) -> dict:
            answer = request(method, *arguments, **options)
            if method.startswith("replace"):
                self.world.api.fail(ANY, UNAVAILABLE)
            return answer

        self.source.api.request = then_away
        rotated = await rotation.rotate(self.operator, self.blue, 0, False)
        self.assertIsNone(rotated.others)
        self.assertRegex(rotated.written.notes[0], "still valid could not be read: 503 Service Unavailable: see")
        self.assertNotIn("at once", "\n".join(render.rotated_lines(rotated, False, False)))
        self.world.api.fix()
        rotated = await rotation.rotate(self.operator, self.blue, 0, False, revoke_all=True)
        self.assertEqual((rotated.others, rotated.revoked), (None, ()))
        self.assertRegex(rotated.unfinished[0], f"^the temporary secrets of {self.blue} could not be read: 503 .*try again$")
        self.world.api.fix()
        self.assertIsNotNone(self.world.stored(self.blue, name))

    async def test_an_api_that_goes_away_after_the_create(self) -> None:
        """Whether the database was given away twice is not known then: the secret is taken back."""
        path = secrets_path(self.blue)
        self.meddle("create", lambda: self.world.api.fail(path, UNAVAILABLE))
        await self.refuses(
            self.enroll(self.red), "could not check whether .*503 Service Unavailable.*the new secret was deleted"
        )
        self.world.api.fix()
        self.assertIsNone(self.world.stored(self.red, SECRET))

    async def test_a_secret_that_cannot_be_taken_back(self) -> None:
        def happens() -> None:
            self.world.put(*self.tenant(self.green, "pw-green", 2))
            self.world.api.fail(f"{secrets_path(self.red)}/{SECRET}", refusal(403))

        self.meddle("create", happens)
        pattern = f"was created, and could not be deleted again .*the right to delete secrets.*: kubectl delete secret -n {self.red}"
        await self.refuses(self.enroll(self.red), pattern)

    async def test_a_namespace_that_is_being_deleted(self) -> None:
        body = {
            "kind": "Status",
            "code": 403,
            "reason": "Forbidden",
            "details": {"causes": [{"reason": "NamespaceTerminating", "message": "pw-quoted"}]},
        }
        path = secrets_path(self.blue)
        self.meddle("create", lambda: self.world.api.fail(path, Fault(403, body=json.dumps(body).encode())))
        await self.refuses(operations.temporary(self.operator, self.blue, 1, "x", None, False), "is being deleted")

    async def test_an_api_that_cannot_be_read_is_told_first(self) -> None:
        self.world.api.fail(ANY, refusal(503))
        await self.refuses(self.enroll(self.red), "^the namespaces could not be read: 503")

    async def test_who_is_not_known_or_answers_nonsense(self) -> None:
        path = secrets_path(self.blue)
        for fault, pattern in (
            (refusal(401), "401 Unauthorized: log in again"),
            (NOT_JSON, f"the answer of {self.world.api.url} is not JSON"),
            (Fault(200, body=b"[]"), "not a JSON object"),
            (Fault(200, body=b'{"kind": "Pod", "metadata": {}}'), "is not a Secret"),
            (Fault(200, body=b'{"kind": "SecretList", "metadata": {}, "items": {}}'), "is not a Secret"),
            (Fault(200, body=b'{"kind": "SecretList", "metadata": {}, "items": [{"metadata": {}}]}'), "is not a Secret"),
            (refusal(418, "pw-quoted"), r"418 \(no usual status\)"),
        ):
            self.world.api.fail(path, fault)
            await self.refuses(rotation.rotate(self.operator, self.blue, 1, False), pattern)


class PodTests(unittest.TestCase):
    """In the proxy's own pod, whose service account may only read."""

    def setUp(self) -> None:
        self.api = ApiServer(*proxy.tenant("team-blue", 1, "pw-blue"), proxy.namespace("team-red"), tls=True).start()
        self.addCleanup(self.api.remove)
        self.api.readers.add(TOKEN)
        environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1"}
        api = KubernetesApi(self.api.port, environ, self.api.service_account(), (LIMIT, LIMIT))
        settings = Settings(ns_prefix=proxy.PREFIX)
        self.operator = Operator(reactor, settings, ClusterSource(proxy.PREFIX, SECRET, settings.master, api))

    async def refusal(self, waiting: Awaitable[object]) -> str:
        with self.assertRaises((Refused, WriteError)) as caught:
            await waiting
        return str(caught.exception)

    async def test_it_says_where_the_command_runs_instead(self) -> None:
        pod = "403 Forbidden: this pod's service account may only read secrets, by deploy/kubernetes/base/rbac.yaml. Run redisproxy on a machine with a kubeconfig that may create secrets in {0}"
        pipe = (
            ", or add --dry-run --output yaml and let kubectl create the secret with your own rights: kubectl -n redisproxy "
            "exec deploy/redisproxy -- redisproxy {0} --dry-run --output yaml | kubectl create -f -"
        )
        self.assertEqual(
            await self.refusal(operations.enroll(self.operator, "team-red", None, None, 16, False, False)),
            f"cannot create team-red/{SECRET}: {pod.format('team-red')}{pipe.format('enroll team-red')}",
        )
        self.assertEqual(
            await self.refusal(operations.temporary(self.operator, "team-blue", 8, "x", None, False)),
            "cannot create team-blue/redis-secret-temp-x: "
            + pod.format("team-blue")
            + pipe.format("temp team-blue --hours 8"),
        )
        # What a rotation prints is not all to be created.
        refused = await self.refusal(rotation.rotate(self.operator, "team-blue", 12, False))
        self.assertTrue(refused.endswith(pod.format("team-blue")), refused)

    async def test_what_it_advises_works_there(self) -> None:
        self.assertEqual((await operations.enroll(self.operator, "team-red", None, None, 16, False, True)).index, 2)
        self.assertEqual((await operations.temporary(self.operator, "team-blue", 8, "x", None, True)).index, 1)
        self.assertEqual((await rotation.rotate(self.operator, "team-blue", 12, True)).written.index, 1)
        self.assertEqual({request.method for request in self.api.requests}, {"GET"})
        self.assertNotIn(f"{secrets_path('team-blue')}/{SECRET}", [request.path for request in self.api.requests])


class RealApiTests(Changes, unittest.TestCase):
    def make_world(self) -> RealWorld:
        return RealWorld(shared_api_server())

    async def test_a_namespace_that_is_being_deleted(self) -> None:
        status, _ = ask(self.world.server.port, "DELETE", f"/api/v1/namespaces/{self.red}")
        self.assertEqual(status, 200)
        await self.refuses(self.enroll(self.red), f"the namespace {self.red} is being deleted")

"""The console script as a real process: exit statuses, what it prints where, on a terminal and
elsewhere.
"""

from __future__ import annotations

import base64
import calendar
import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

import pexpect
import yaml

from redisproxy.cli.main import main
from redisproxy.tenants.enrolment import parse_tenant

from ..support.apiserver import HANG, NAMESPACES, ApiServer, refusal
from ..support.command import COMMAND, run_command
from ..support.proxy import Manifests, ProxyProcess, master, namespace, plain_environment, secret, tenant
from ..support.punctuation import DOUBLED
from ..support.servers import BOUNDED, RedisServer, free_port, valkey
from ..support.waiting import until


class CommandCase(unittest.TestCase):
    """Two tenants and a namespace that is none yet, over the small API."""

    def setUp(self) -> None:
        self.server = RedisServer(valkey, *BOUNDED).start()
        self.addCleanup(self.server.stop)
        self.api = ApiServer(
            master(self.server.url),
            *tenant("team-blue", 1, "pw-blue"),
            *tenant("team-green", 3, "pw-green"),
            namespace("team-red"),
        ).start()
        self.addCleanup(self.api.remove)
        self.environ = {**plain_environment(), "KUBECONFIG": str(self.api.kubeconfig), "NS_PREFIX": "team-"}

    def start(self, *arguments: str, **more: object) -> subprocess.Popen:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": self.environ, "text": True, **more}
        return subprocess.Popen([COMMAND, *arguments], stdin=subprocess.DEVNULL, **options)

    def run_(self, *arguments: str, status: int = 0) -> str:
        """What it prints; of a failure the one line on the standard error."""
        done = run_command(*arguments, environ=self.environ)
        out, err = done.stdout, done.stderr
        self.assertEqual(done.returncode, status, out + err)
        self.assertNotIn("Traceback", out + err)
        self.assertNotIn(self.server.password, out + err)
        self.assertNotIn("pw-", err)
        self.assertNotRegex(out + err, DOUBLED)
        if err:
            self.assertEqual(err.count("\n"), 1, err)
            self.assertTrue(err.startswith("redisproxy: "), err)
        return out or err.removeprefix("redisproxy: ").rstrip("\n")

    def json(self, *arguments: str, status: int = 0) -> dict:
        return json.loads(self.run_(*arguments, status=status))


class StatusTests(CommandCase):
    def test_check(self) -> None:
        found = self.json("check")
        self.assertEqual((found["ok"], found["problems"], found["warnings"]), (True, [], []))
        self.assertEqual(found["redis"]["databases"], 64)
        self.assertEqual(
            [(t["namespace"], t["index"]) for t in found["tenants"]],
            [("team-blue", 1), ("team-green", 3), ("team-red", None)],
        )
        self.api.put(*tenant("team-new", 3, "pw-new", "2026-02-01T00:00:00Z"))
        found = self.json("check", status=1)
        [problem] = found["problems"]
        self.assertEqual((problem["namespace"], problem["secret"]), ("team-new", "redis-secret-master"))
        self.assertEqual(problem["reason"], "database 3 belongs to the older team-green")
        self.assertRegex(problem["advice"], "another index")

    def test_check_takes_what_the_proxy_takes(self) -> None:
        options = ("--listen", "tcp:0", "--listen", "tcp6:0", "--processes", "2", "--status", "tcp:0", "--no-watch")
        self.assertTrue(self.json("check", *options, "--deny-commands", "KEYS")["ok"])
        self.assertEqual(self.json("check", "--embedded", status=0)["redis"], None)

    def test_what_only_shows_when_the_proxy_is_made(self) -> None:
        for arguments, expected in (
            (("--listen", "nowhere"), "--listen is 'nowhere'"),
            (("--status", "nowhere"), "--status is"),
        ):
            self.assertTrue(self.run_("check", *arguments, status=2).startswith(expected), arguments)

    def test_help_and_version(self) -> None:
        self.assertRegex(self.run_("--version"), r"^redisproxy \d+\.\d+")
        output = self.run_("--help")
        for command in ("check", "tenants", "enroll", "temp", "rotate"):
            self.assertIn(f"  {command} ", output)
        self.assertIn("[NS_PREFIX]", self.run_("check", "-h"))

    def test_the_api_is_away(self) -> None:
        self.api.stop()
        away = f"the namespaces could not be read: no answer from {self.api.url}: NewConnectionError: Connection refused"
        self.assertEqual(self.run_("tenants", status=1), away)
        self.assertEqual(self.run_("enroll", "team-red", "--databases", "16", status=1), away)
        self.assertRegex(
            self.run_("rotate", "team-blue", status=1),
            f"^cannot read team-blue/redis-secret-master: no answer from {self.api.url}: ",
        )
        [problem] = self.json("check", status=1)["problems"]
        self.assertEqual(problem["namespace"], "all namespaces and the master secret")
        self.environ["KUBECONFIG"] = "/nowhere"
        self.assertEqual(
            self.run_("tenants", status=1),
            "the namespaces could not be read: no access to the Kubernetes API: there is no kubeconfig at /nowhere; "
            "KUBECONFIG can name another",
        )

    def test_secrets_of_one_namespace_cannot_be_read(self) -> None:
        self.api.fail(f"{NAMESPACES}/team-green/secrets", refusal(403))
        found = self.json("tenants", status=1)
        states = {t["namespace"]: t["state"] for t in found["tenants"]}
        self.assertEqual(states, {"team-blue": "ok", "team-green": "not read", "team-red": "not enrolled"})
        expected = "the secrets of team-green could not be read: 403 Forbidden"
        self.assertEqual(self.run_("temp", "team-green", "--hours", "1", status=1), expected)
        self.api.fix()
        # The API fails in the middle: one line, and nobody is kept out.
        self.api.fail(f"{NAMESPACES}/team-green/secrets", refusal(503))
        done = run_command("tenants", environ=self.environ)
        self.assertEqual(
            (done.returncode, done.stderr),
            (1, "redisproxy: some namespaces: the secrets of 2 of 3 were not read: 503 Service Unavailable\n"),
        )
        states = {t["namespace"]: t["state"] for t in json.loads(done.stdout)["tenants"]}
        self.assertEqual(states, {"team-blue": "ok", "team-green": "not read", "team-red": "not read"})
        self.api.fix()
        self.api.fail(f"{NAMESPACES}/team-green/secrets", refusal(403))
        self.assertRegex(self.run_("enroll", "team-red", status=1), "the secrets of team-green could not be read")

    def test_ctrl_c(self) -> None:
        self.api.fail(NAMESPACES, HANG)
        process = self.start("tenants")
        until(lambda: self.api.requests, "it asks")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=9)  # the time-out of what it waits for is 10 s
        self.assertEqual((process.returncode, out, err), (-signal.SIGINT, "", ""))

    def test_whoever_reads_has_seen_enough(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        process = self.start("tenants", stdout=writer)
        os.close(writer)
        _, err = process.communicate(timeout=180)
        self.assertEqual((process.returncode, err), (0, ""))

    def test_manifests(self) -> None:
        """Whatever it says, it does not send the operator of manifests to kubectl, or to a pod."""
        shown: list[str] = []
        self.addCleanup(lambda: self.assertNotRegex("\n".join(shown), "kubectl|pod|rbac"))
        run = self.run_

        def run_and_keep(*arguments: str, status: int = 0) -> str:
            shown.append(run(*arguments, status=status))
            return shown[-1]

        self.run_ = run_and_keep
        manifests = Manifests([master(self.server.url), *tenant("team-blue", 1, "pw-blue"), namespace("team-red")])
        self.addCleanup(manifests.remove)
        self.environ["REDISPROXY_MANIFESTS"] = str(manifests.path)
        self.assertTrue(self.json("check")["ok"])
        self.assertEqual(self.json("tenants")["source"], f"the manifests in {manifests.path}")
        for command in (("enroll", "team-red"), ("temp", "team-blue", "--hours", "1")):
            self.assertRegex(self.run_(*command, status=1), "this command does not write to .*: add --dry-run --output yaml")
        self.assertRegex(
            self.run_("rotate", "team-blue", status=1), "this command does not write to .*: add --dry-run --output yaml"
        )
        for command, text in (
            ("pause", r'add redisproxy/paused: "true" to metadata.annotations'),
            ("resume", "remove redisproxy/paused from metadata.annotations"),
        ):
            self.assertRegex(self.run_(command, "team-blue", status=1), f"does not write to .*: in the Namespace .*{text}")
            done = self.json(command, "team-blue", "--dry-run")
            self.assertRegex(done.pop("notes")[0], text)
            self.assertEqual(
                done,
                {"namespace": "team-blue", "paused": command == "pause", "changed": command == "pause", "dry_run": True},
            )
        self.assertEqual(
            self.run_("enroll", "team-white", "--dry-run", status=1),
            "there is no namespace team-white: add a Namespace of that name, with a creationTimestamp, to "
            f"the manifests in {manifests.path}",
        )
        self.assertEqual(
            self.json("enroll", "team-red", "--dry-run")["notes"],
            [
                "--output yaml prints the Secret redis-secret-master: add it to a file in the directory of manifests",
                "its URL has the proxy's address in a cluster: use --address HOST:PORT for another one",
            ],
        )
        self.assertEqual(len(self.json("enroll", "team-red", "--dry-run", "--address", "localhost:6379")["notes"]), 1)
        for name, command in (
            ("red", ("enroll", "team-red", "--address", "localhost:6379")),
            ("temp", ("temp", "team-blue", "--hours", "2")),
        ):
            done = run_command(*command, "--dry-run", "--output", "yaml", environ=self.environ)
            (manifests.path / f"{name}.yaml").write_text(done.stdout)
            self.assertRegex(
                done.stderr,
                r"^redisproxy: --output yaml prints the Secret [-\w]+: add it to a file in the directory of manifests\n$",
            )
        found = {t["namespace"]: (t["index"], len(t["credentials"])) for t in self.json("check")["tenants"]}
        self.assertEqual(found, {"team-blue": (1, 2), "team-red": (2, 1)})
        [blue] = [t for t in self.json("tenants")["tenants"] if t["namespace"] == "team-blue"]
        expires = {credential["secret"]: credential["expires"] for credential in blue["credentials"]}
        [ends] = [calendar.timegm(time.strptime(when, "%Y-%m-%dT%H:%M:%SZ")) for when in expires.values() if when]
        self.assertLess(abs(ends - time.time() - 2 * 3600), 60)
        # A rotation: what is printed takes the place of the old secret, and is served.
        (manifests.path / "temp.yaml").unlink()
        text = yaml.safe_dump(secret("team-blue", "redis-secret-temp-a", redis_connection_string="redis://:pw-blue@h/1"))
        (manifests.path / "again.yaml").write_text(text)
        planned = self.json("rotate", "team-blue", "--dry-run", "--grace-hours", "0")
        self.assertEqual(planned["still_good"], [{"secret": "redis-secret-temp-a", "expires": None, "old_password": True}])
        self.assertEqual(
            planned["notes"],
            ["replace the Secret redis-secret-master in all.yaml with the one that --output yaml prints"],
        )
        planned = self.json("rotate", "team-blue", "--dry-run", "--revoke-all")
        self.assertEqual((planned["revoked"], planned["still_good"]), (["redis-secret-temp-a"], []))
        self.assertEqual(planned["notes"][1:], ["remove the Secret redis-secret-temp-a from again.yaml"])
        done = run_command("rotate", "team-blue", "--dry-run", "-o", "yaml", environ=self.environ)
        grace, changed = yaml.safe_load_all(done.stdout)
        new = f"--output yaml prints the Secret {grace['metadata']['name']}: add it to a file in the directory of manifests"
        self.assertEqual((done.returncode, done.stderr), (0, f"redisproxy: {planned['notes'][0]}\nredisproxy: {new}\n"))
        self.assertEqual(grace["stringData"]["redis-connection-string"], "redis://:pw-blue@redisproxy:6379/1")
        (manifests.path / "again.yaml").unlink()
        # it is the later one
        (manifests.path / "changed.yaml").write_text(yaml.safe_dump_all([grace, changed]))
        found = {t["namespace"]: (t["index"], len(t["credentials"])) for t in self.json("check")["tenants"]}
        self.assertEqual(found, {"team-blue": (1, 2), "team-red": (2, 1)})
        self.assertEqual(
            self.json("rotate", "team-blue", "--dry-run", "--grace-hours", "0")["still_good"][0]["old_password"], False
        )
        self.json("tenants")
        # What is wrong with a namespace, with a tenant, or with Redis.
        limited = namespace("team-limited", annotations={"redisproxy/max-connections": "many"})
        away = master(f"redis://:pw-x@127.0.0.1:{free_port()}/0")
        (manifests.path / "wrong.yaml").write_text(yaml.safe_dump_all([limited, *tenant("team-wrong", 1, "pw-wrong"), away]))
        self.assertEqual(len(self.json("check", status=1)["problems"]), 3)
        self.assertRegex(
            self.run_("enroll", "team-limited", "--dry-run", status=1),
            "reached, such as where the proxy runs, or use --databases N$",
        )
        (manifests.path / "wrong.yaml").unlink()
        # One file that is none: the others are reported, but nothing is given away that may be in
        # it.
        (manifests.path / "bad.yaml").write_text("\tpw-")
        (manifests.path / "grey.yaml").write_text(yaml.safe_dump(namespace("team-grey")))
        bad = "bad.yaml: it is not YAML or JSON (line 1, column 1)"
        process = self.start("tenants")
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1)
        self.assertEqual(
            err, f"redisproxy: {bad}: nothing in it is in force, and no namespace gets a database that it may name\n"
        )
        self.assertEqual(len(json.loads(out)["tenants"]), 3)
        self.assertRegex(
            self.run_("enroll", "team-grey", "--dry-run", status=1),
            "^bad.yaml could not be read, so the command does not know",
        )
        self.assertEqual(
            self.run_("rotate", "team-grey", "--dry-run", status=1),
            "bad.yaml could not be read, and may have team-grey/redis-secret-master: fix the file",
        )
        [problem] = self.json("check", status=1)["problems"]
        self.assertEqual((problem["namespace"], problem["reason"][: len(bad) - 10]), ("bad.yaml", bad[10:]))
        self.assertEqual(self.api.requests, [])


class CommandLineTests(unittest.TestCase):
    """What is refused before anything is asked: no process is needed."""

    def refused(self, *arguments: str, **environ: str) -> str:
        """The one line, with which it ends."""
        errors = io.StringIO()
        with (
            mock.patch.dict(os.environ, environ, clear=True),
            contextlib.redirect_stderr(errors),
            self.assertRaises(SystemExit) as caught,
        ):
            main(arguments)
        self.assertEqual((caught.exception.code, errors.getvalue().count("\n")), (2, 1), errors.getvalue())
        return errors.getvalue().removeprefix("redisproxy: ").rstrip("\n")

    def test_settings_that_the_proxy_would_not_start_with(self) -> None:
        for arguments, expected in (
            (("check", "--refresh", "0"), "--refresh is '0'; it takes a number of seconds from 1 to 86400"),
            (("check", "--status-token-file", "/dev/null"), "--status-token-file is '/dev/null'; it takes a file"),
            (
                ("tenants", "--manifests", "/nowhere"),
                "--manifests is '/nowhere'; it takes a directory of manifests, and there is nothing at that path",
            ),
            (
                ("check", "--redis-ca", "/nowhere/ca.pem"),
                "--redis-ca is '/nowhere/ca.pem'; it takes a file, and there is nothing at that path",
            ),
            (("tenants", "--ns-prefix", ""), "--ns-prefix is ''; it takes the beginning of namespaces' names"),
            (("tenants", "--redis-secret", "A"), "--redis-secret is 'A'; it takes a Kubernetes name"),
        ):
            self.assertTrue(self.refused(*arguments, NS_PREFIX="team-").startswith(expected), arguments)
        self.assertRegex(self.refused("tenants"), r"^NS_PREFIX \(or --ns-prefix\) is not set")
        self.assertRegex(self.refused("check", "--ns-prefix", "team-", MAX_WORKERS="many"), "^MAX_WORKERS is 'many'")

    def test_a_command_line_that_is_none(self) -> None:
        """What click says differs from one version to the next; where it points to does not."""
        for arguments, expected in (
            ((), "Missing command.*; see redisproxy --help"),
            (("help",), "No such command 'help'.*; see redisproxy --help"),
            (("check", "--nothing"), "No such option.* '?--nothing.*; see redisproxy check --help"),
            (("check", "--output", "xml"), "'xml' is not one of 'table', 'json'; see redisproxy check --help"),
            (("enroll",), "Missing argument 'NAMESPACE'; see redisproxy enroll --help"),
            (
                ("enroll", "team-red", "--index", "-1"),
                "'-1' is neither the number of a database nor auto; see redisproxy enroll",
            ),
            (("enroll", "team-red", "--index", "01"), "'01' is neither the number of a database nor auto"),
            (("enroll", "team-red", "--keep-data"), "^--keep-data needs --index N; see redisproxy enroll --help$"),
            (
                ("enroll", "team-red", "--address", "a b"),
                "^--address takes HOST, HOST:PORT or rediss://HOST:PORT",
            ),
            (
                ("enroll", "team-red", "--output", "yaml"),
                "^--output yaml needs --dry-run: it prints the manifest to write",
            ),
            (("enroll", "team-red", "--databases", "0"), "0 is not in the .*range 1<=x<=1000000"),
            (("temp", "team-blue"), "Missing option '--hours'; see redisproxy temp --help"),
            (("temp", "team-blue", "--hours", "0"), "0 is not in the .*range 1<=x<=8784; see redisproxy temp --help"),
            (
                ("temp", "team-blue", "--hours", "1", "--name", "A b"),
                "'A b' is not a name: use lower-case letters, digits and -",
            ),
            (
                ("rotate", "team-blue", "--revoke-all", "--grace-hours", "1"),
                "^--revoke-all ends the old password at once, so --grace-hours can only be 0; see redisproxy rotate --help$",
            ),
            (
                ("rotate", "team-blue", "--grace-hours", "1.5"),
                "'1.5' is not a valid integer.*; see redisproxy rotate --help",
            ),
        ):
            self.assertRegex(self.refused(*arguments, NS_PREFIX="team-"), expected)


class ChangeTests(CommandCase):
    def test_a_tenants_life(self) -> None:
        """Enrolled, served, given a temporary password, rotated: by a proxy that watches."""
        proxy = ProxyProcess(environ={"KUBECONFIG": str(self.api.kubeconfig)}).ready()
        self.addCleanup(proxy.stop)
        proxy.logged("namespaces and secrets are watched")

        def works(url: str) -> bool:
            password = parse_tenant({"redis-connection-string": url.encode()})[1].decode()
            with proxy.client(password, index) as client:
                try:
                    return client.ping()
                except Exception:
                    return False

        enrolled = self.json("enroll", "team-red", "--show-password", "--address", "redis.example:7000")
        index = enrolled["index"]
        self.assertEqual(
            (enrolled["namespace"], enrolled["secret"], index, enrolled["dry_run"]),
            ("team-red", "redis-secret-master", 2, False),
        )
        first = enrolled["connection_string"]
        self.assertRegex(first, "^redis://:[A-Za-z0-9]{40}@redis.example:7000/2$")
        until(lambda: works(first), "the new tenant is served")
        temporary = self.json("temp", "team-red", "--hours", "8", "--name", "debugging", "--show-password")
        self.assertEqual((temporary["secret"], temporary["valid_hours"]), ("redis-secret-temp-debugging", 8))
        until(lambda: works(temporary["connection_string"]), "the temporary password works")
        rotated = self.json("rotate", "team-red", "--show-password")
        until(lambda: works(rotated["connection_string"]), "the new password works")
        self.assertTrue(works(first), "the old one still does")
        self.assertEqual((rotated["grace"]["valid_hours"], rotated["index"]), (24, 2))
        self.assertNotIn("connection_string", rotated["grace"])
        last = self.json("rotate", "team-red", "--grace-hours", "0")
        self.assertEqual((last["grace"], "connection_string" in last), (None, False))
        until(lambda: not works(rotated["connection_string"]), "without grace the old one ends")
        self.assertTrue(works(first))
        [red] = [t for t in self.json("tenants")["tenants"] if t["namespace"] == "team-red"]
        self.assertEqual(len(red["credentials"]), 3)
        # The passwords that still work are named.
        names = {temporary["secret"], rotated["grace"]["secret"]}
        self.assertEqual({one["secret"] for one in last["still_good"]}, names)
        self.assertEqual([one["old_password"] for one in last["still_good"]], [False, False])
        last = self.json("rotate", "team-red", "--revoke-all", "--show-password")
        self.assertEqual((set(last["revoked"]), last["still_good"]), (names, []))
        until(lambda: works(last["connection_string"]), "the new password works")
        for ended in (first, temporary["connection_string"]):
            until(lambda: not works(ended), "it has ended")  # noqa: B023
        self.json("temp", "team-red", "--hours", "1", "--name", "kept")
        self.api.fail(f"{NAMESPACES}/team-red/secrets/redis-secret-temp-kept", refusal(403))
        done = run_command("rotate", "team-red", "--revoke-all", environ=self.environ)
        self.assertEqual(
            (done.returncode, [one["secret"] for one in json.loads(done.stdout)["still_good"]]),
            (1, ["redis-secret-temp-kept"]),
        )
        self.assertRegex(done.stderr, "^redisproxy: .*redis-secret-temp-kept.*: its password may still be valid\n$")
        self.api.fix()
        self.assertEqual(self.json("check")["problems"], [])

    def test_a_dry_run(self) -> None:
        shown = self.json("enroll", "team-red", "--dry-run")
        self.assertEqual((shown["index"], shown["dry_run"], "connection_string" in shown), (2, True, False))
        self.assertEqual(self.json("rotate", "team-blue", "--dry-run")["grace"]["valid_hours"], 24)
        self.assertEqual({request.method for request in self.api.requests}, {"GET"})
        manifest = yaml.safe_load(self.run_("enroll", "team-red", "--dry-run", "--output", "yaml"))
        self.assertEqual((manifest["kind"], manifest["metadata"]["namespace"]), ("Secret", "team-red"))
        parse_tenant({k: v.encode() for k, v in manifest["stringData"].items()})
        self.assertEqual({request.method for request in self.api.requests}, {"GET"})

    def test_redis_is_not_reached_from_here(self) -> None:
        self.api.put(master(f"redis://:pw-x@127.0.0.1:{free_port()}/0"))
        error = self.run_("enroll", "team-red", status=1)
        self.assertRegex(error, "no connection to Redis at .*run it where Redis can be reached, .* or use --databases N$")
        # Redis's own text has a full stop.
        self.api.put(master(f"redis://:pw-wrong@127.0.0.1:{self.server.port}/0"))
        error = self.run_("enroll", "team-red", status=1)
        self.assertRegex(error, "WRONGPASS .* disabled. So the command does not know which")
        enrolled = self.json("enroll", "team-red", "--databases", "16")
        self.assertEqual((enrolled["index"], len(enrolled["notes"])), (2, 2))


class TerminalTests(CommandCase):
    def screen(self, *arguments: str, status: int = 0, width: int = 100) -> str:
        session = pexpect.spawn(
            COMMAND, list(arguments), env=self.environ, encoding="utf-8", dimensions=(40, width), timeout=180
        )
        shown = session.read().replace("\r\n", "\n")
        session.close()
        self.assertEqual(session.exitstatus, status, shown)
        self.assertNotIn("pw-", shown)
        return shown

    def test_tenants(self) -> None:
        self.api.put(
            secret(
                "team-blue",
                "redis-secret-temp-a",
                "2020-01-01T00:00:00Z",
                redis_connection_string="redis://:pw-a@h/1",
                valid_hours="1",
            )
        )
        self.assertEqual(
            self.screen("tenants"),
            "NAMESPACE    DATABASE   STATE          SECRET                EXPIRES\n"
            "team-blue    1          ok             redis-secret-master   never\n"
            "                                       redis-secret-temp-a   2020-01-01T01:00:00Z (expired)\n"
            "team-green   3          ok             redis-secret-master   never\n"
            "team-red     -          not enrolled   -                     -\n",
        )
        self.assertEqual(len(json.loads(self.screen("tenants", "--output", "json"))["tenants"]), 3)

    def test_check(self) -> None:
        shown = self.screen("check")
        self.assertRegex(shown, "(?m)^source   the Kubernetes API: 3 namespaces, 2 enrolled$")
        self.assertRegex(
            shown, r"(?m)^Redis    redis://127.0.0.1:\d+: Valkey 9\S+, 64 databases, ACL users, scripts allowed$"
        )
        self.assertRegex(shown, "(?m)^team-blue +1 +1 +ok$")
        self.assertTrue(shown.endswith("\nno problems\n"))
        self.api.put(*tenant("team-new", 3, "pw-new", "2026-02-01T00:00:00Z"))
        shown = self.screen("check", status=1, width=60)
        self.assertIn(
            "1 problem:\n  team-new/redis-secret-master: database 3 belongs to the\n    older team-green\n    -> First "
            "find out which namespace",
            shown,
        )
        self.assertTrue(all(len(line) <= 60 for line in shown.splitlines()))

    def test_enroll_and_rotate(self) -> None:
        shown = self.screen("enroll", "team-red")
        self.assertTrue(shown.startswith("team-red is enrolled: database 2, secret team-red/redis-secret-master\n"), shown)
        self.assertIn(": kubectl label --overwrite namespace team-red redisproxy/tenant=true\n", shown)
        self.assertIn(
            "kubectl get secret -n team-red redis-secret-master -o jsonpath='{.data.redis-connection-string}'", shown
        )
        self.assertRegex(
            self.screen("rotate", "team-red", "--show-password"),
            r"redis://:\w{40}@redisproxy.redisproxy.svc:6379/2\n"
            r"the old password stays valid for 24 h, until \d{4}-\S+Z: secret team-red/redis-secret-temp-rotated-\w{6}\n$",
        )
        self.assertRegex(
            self.screen("rotate", "team-red", "--grace-hours", "0"),
            r"(?m)^the old password ends at once\n"
            r"still valid in team-red:\n"
            r"  SECRET +EXPIRES +PASSWORD\n"
            r"  redis-secret-temp-rotated-\w{6}   \d{4}-\S+Z   another\n"
            r"to end it: kubectl delete secret -n team-red redis-secret-temp-rotated-\w{6}\n$",
        )
        shown = self.screen("temp", "team-red", "--hours", "3", "--dry-run")
        self.assertRegex(
            shown,
            r"^team-red would have a temporary password, valid for 3 h from its creation: database 2, secret team-red/redis-secret-temp-\w{6}\n$",
        )

    def test_the_lines_to_try_it_with(self) -> None:
        """They log in to the proxy, and the password is not among the arguments of what they
        start.
        """
        proxy = ProxyProcess(environ={"KUBECONFIG": str(self.api.kubeconfig)}).ready()
        self.addCleanup(proxy.stop)
        proxy.logged("namespaces and secrets are watched")
        shown = self.screen("enroll", "team-red", "--address", f"127.0.0.1:{proxy.port}", width=200)
        lines = [line.strip() for line in shown.splitlines() if line.startswith("  ")]
        self.assertEqual([re.search("redis-cli|python3", line)[0] for line in lines], ["redis-cli", "python3"])
        stored = self.api.secret("team-red", "redis-secret-master")["data"]["redis-connection-string"]
        url = base64.b64decode(stored).decode()
        password = parse_tenant({"redis-connection-string": url.encode()})[1].decode()
        with tempfile.TemporaryDirectory() as directory:
            stand_in = Path(directory, "redis-cli")
            stand_in.write_text('#!/bin/sh\necho "$@" "$REDISCLI_AUTH"\n')
            stand_in.chmod(0o755)
            path = os.pathsep.join((directory, str(Path(sys.executable).parent), os.environ["PATH"]))

            def tried(line: str) -> str:
                environ = {**plain_environment(), "PATH": path, "REDIS_URL": url}
                return subprocess.run(
                    ["/bin/sh", "-c", line], env=environ, capture_output=True, text=True, timeout=60, check=False
                ).stdout

            self.assertEqual(tried(lines[0]), f"-h 127.0.0.1 -p {proxy.port} PING {password}\n")
            until(lambda: tried(lines[1]) == "True\n", "the proxy takes the password")
        self.assertNotIn(password, shown)

    def test_an_error(self) -> None:
        self.assertRegex(self.screen("enroll", "team-blue", status=1), "^redisproxy: team-blue is enrolled already")

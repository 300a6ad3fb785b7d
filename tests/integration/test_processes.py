"""Tests a proxy of several processes: clients see one proxy, and it survives the end of one
process.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import tempfile
import unittest
from pathlib import Path

import redis

from redisproxy.resp.framing import encode

from ..support.certificates import Authority
from ..support.processes import runs
from ..support.proxy import Installation, ProxyProcess, has_ended, master, shared, tenant
from ..support.raw import RawClient, raw_client
from ..support.servers import MASTER_PASSWORD, free_port
from ..support.waiting import LIMIT, until

LOCAL = Path(__file__).parents[2] / "deploy" / "local"


class ProcessesCase(unittest.TestCase):
    def start(self, *options: str) -> Installation:
        installation = Installation("--processes", "2", *options)
        self.addCleanup(installation.stop)
        self.workers = installation.proxy.workers
        self.assertEqual(len(set(self.workers.values())), 2)
        return installation

    def at_both(self, installation: Installation, password: str = Installation.BLUE, index: int = 3) -> list[redis.Redis]:
        """Returns a client of worker 1 and one of worker 2, each with one connection. The client
        ids show the worker: 1, 3, 5 … and 2, 4, 6 …
        """
        found: dict[int, redis.Redis] = {}

        def one_more() -> bool:
            client = installation.proxy.client(password, index, single_connection_client=True)
            self.addCleanup(client.close)
            found.setdefault(2 - client.client_id() % 2, client)
            return len(found) == 2

        # On a busy machine one worker may not run for a long time, and the other accepts many
        # clients.
        until(one_more, "a connection at each worker")
        return [found[1], found[2]]

    def assertEnd(self, *pids: int) -> None:
        until(lambda: not any(map(runs, pids)), f"no process of {pids} is left")


class ServingTests(ProcessesCase):
    def shared(self) -> Installation:
        installation = shared("--processes", "2")
        self.workers = installation.proxy.workers
        return installation

    def test_it_is_one_proxy_to_its_clients(self) -> None:
        installation = self.shared()
        first, second = self.at_both(installation)
        first.set("a", 1)
        self.assertEqual(second.get("a"), b"1")
        self.assertEqual([client.execute_command("SELECT", 3) for client in (first, second)], [True, True])
        for client in (first, second):
            with self.assertRaisesRegex(redis.ResponseError, "opens database 3 only"):
                client.execute_command("SELECT", 5)
        for client in self.at_both(installation, Installation.GREEN, 5):
            self.assertIsNone(client.get("a"))
        # A pattern that one worker allowed at Redis stays allowed after the other worker allows
        # another one.
        heard = [client.pubsub() for client in (first, second)]
        for number, pubsub in enumerate(heard):
            pubsub.psubscribe(f"news.{number}*")
            self.assertEqual(pubsub.get_message(timeout=LIMIT)["type"], "psubscribe")
        for number, pubsub in enumerate(heard):
            installation.green().publish(f"news.{number}", "green")
            installation.blue().publish(f"news.{number}", "blue")
            self.assertEqual(pubsub.get_message(timeout=LIMIT)["data"], b"blue")
            pubsub.close()

    def test_the_load_is_even(self) -> None:
        installation = self.shared()
        clients = [installation.proxy.client(Installation.BLUE, 3, single_connection_client=True) for _ in range(30)]
        for client in clients:
            self.addCleanup(client.close)
        odd = sum(client.client_id() % 2 for client in clients)
        self.assertTrue(13 <= odd <= 17, odd)

    def test_a_new_password_is_the_new_one_at_both(self) -> None:
        installation = self.start()
        before = self.at_both(installation)
        installation.manifests.write([master(installation.server.url), *tenant("team-blue", 3, "new-password")])
        installation.proxy.refresh()
        for client in before:
            until(lambda: self.is_closed(client), "its session has ended")  # noqa: B023
        for client in self.at_both(installation, "new-password"):
            self.assertTrue(client.ping())
        for _ in range(4):
            with self.assertRaises(redis.AuthenticationError):
                installation.blue(single_connection_client=True)

    is_closed = staticmethod(has_ended)

    def test_what_is_secret_is_in_no_argument_and_no_environment(self) -> None:
        self.shared()
        for pid in self.workers.values():
            for name in ("cmdline", "environ"):
                content = Path(f"/proc/{pid}/{name}").read_bytes()
                for word in (MASTER_PASSWORD, Installation.BLUE, Installation.GREEN):
                    self.assertNotIn(word.encode(), content)

    def test_places_are_for_all_workers_together(self) -> None:
        installation = self.start("--max-workers", "4", "--work-queue-size", "0")
        clients = []
        for _ in range(4):
            clients.append(installation.blue(single_connection_client=True))
            self.addCleanup(clients[-1].close)
        with RawClient(installation.proxy.port) as fifth:
            refusal = b"-ERR max number of clients reached\r\n"
            self.assertEqual(fifth.ask([b"AUTH", Installation.BLUE.encode()]), refusal)

    def test_each_kind_of_endpoint(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            authority = Authority(Path(directory))
            certificate, key = authority.issue("proxy", "127.0.0.1")
            path, port = f"{directory}/proxy.sock", free_port()
            tls = f"ssl:{port}:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
            installation = self.start("--listen", f"unix:{path}", "--listen", tls)
            self.assertEqual(sum("listening on" in line for line in installation.proxy.lines), 3)
            for _ in range(4):
                with redis.Redis(unix_socket_path=path, password=Installation.BLUE, db=3) as client:
                    self.assertTrue(client.set("a", 1))
                context = {"ssl": True, "ssl_ca_certs": str(authority.path)}
                with redis.Redis(port=port, host="127.0.0.1", password=Installation.BLUE, db=3, **context) as client:
                    self.assertEqual(client.get("a"), b"1")
            # A worker that ends removes neither the path of the Unix socket nor the port.
            os.kill(self.workers[1], signal.SIGTERM)
            installation.proxy.logged("worker 1 .* ended with status 0")
            with redis.Redis(unix_socket_path=path, password=Installation.BLUE, db=3) as client:
                self.assertTrue(client.ping())
            installation.proxy.stop()
            self.assertFalse(Path(path).exists())

    def test_an_endpoint_that_cannot_be_shared(self) -> None:
        proxy = ProxyProcess("--manifests", str(LOCAL), "--processes", "2", listen="stdio:")
        self.addCleanup(proxy.stop)
        self.assertEqual(proxy.process.wait(LIMIT), 1)
        proxy._reader.join(10)
        self.assertIn("cannot listen on stdio: for several processes", proxy.log)


class EndTests(ProcessesCase):
    COMMAND = encode([b"SET", b"a", b"x" * 200_000])
    HALF = len(COMMAND) // 2

    def busy(self, installation: Installation) -> RawClient:
        """Returns a connection that has sent half of a command."""
        connection = raw_client(self, installation.proxy.port, b"AUTH", b"blue-password")
        connection.send(self.COMMAND[: self.HALF])
        straight = installation.server.client(3)
        until(lambda: any(int(c["qbuf"]) > self.HALF // 2 for c in straight.client_list()), "Redis has the half")
        return connection

    def assertComesToItsEnd(self, connection: RawClient) -> None:
        connection.send(self.COMMAND[self.HALF :])
        self.assertEqual(connection.rest(), b"+OK\r\n")

    def assertRefusesNew(self, installation: Installation) -> None:
        def refused() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", installation.proxy.port)) != 0

        until(refused, "nobody listens")

    def test_sigterm_ends_all_with_status_0_and_clients_have_what_is_pending(self) -> None:
        installation = self.start()
        idle = self.at_both(installation)
        connection = self.busy(installation)
        installation.proxy.process.send_signal(signal.SIGTERM)
        self.assertRefusesNew(installation)
        self.assertComesToItsEnd(connection)
        self.assertEqual(installation.proxy.process.wait(LIMIT), 0)
        self.assertEnd(*self.workers.values())
        self.assertEqual(len(idle), 2)
        self.assertNotIn("Traceback", installation.proxy.log)
        self.assertNotIn("another is started", installation.proxy.log)

    def test_a_second_signal_ends_all_at_once(self) -> None:
        installation = self.start()
        self.busy(installation)
        installation.proxy.process.send_signal(signal.SIGINT)
        self.assertRefusesNew(installation)
        installation.proxy.process.send_signal(signal.SIGINT)
        self.assertEqual(installation.proxy.process.wait(LIMIT), -signal.SIGINT)
        self.assertEnd(*self.workers.values())

    def test_workers_whose_parent_was_killed_end_after_their_clients(self) -> None:
        installation = self.start()
        connection = self.busy(installation)
        installation.proxy.process.kill()
        self.assertRefusesNew(installation)
        self.assertComesToItsEnd(connection)
        self.assertEnd(*self.workers.values())

    def test_a_killed_worker_is_replaced_and_the_other_serves_on(self) -> None:
        installation = self.start()
        first, second = self.at_both(installation)
        second.set("a", 1)
        os.kill(self.workers[1], signal.SIGKILL)
        installation.proxy.logged(rf"worker 1 \({self.workers[1]}\) ended with signal SIGKILL: its clients have to connect")
        with self.assertRaises(redis.ConnectionError):
            first.connection.read_response()
        self.assertEqual(second.get("a"), b"1")
        until(lambda: installation.proxy.workers[1] != self.workers[1], "another one serves")
        for client in self.at_both(installation):
            self.assertEqual(client.get("a"), b"1")
        # The new worker gets changes, too.
        installation.manifests.write([master(installation.server.url), *tenant("team-blue", 3, "new-password")])
        installation.proxy.refresh()
        until(lambda: self.logs_in(installation, "new-password"), "the new password is in force")
        for client in self.at_both(installation, "new-password"):
            self.assertEqual(client.get("a"), b"1")
        self.assertEqual(installation.proxy.stop(), 0)
        self.assertEnd(*installation.proxy.workers.values())

    def logs_in(self, installation: Installation, password: str) -> bool:
        try:
            return bool(installation.proxy.client(password, 3).ping())
        except redis.AuthenticationError:
            return False

    def test_a_worker_that_cannot_start_says_why_and_is_tried_later_and_later(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            ca = Authority(Path(directory)).path
            installation = self.start("--redis-ca", str(ca), "--log-format", "json")
            moved = ca.rename(f"{ca}.moved")
            os.kill(self.workers[2], signal.SIGKILL)
            proxy = installation.proxy
            failed = (
                r"worker 2 \(\d+\) could not start: .*--redis-ca is '[^']*'; it takes a file, "
                r"and there is nothing at that path \(status 1\); another is"
            )
            until(lambda: len(re.findall(failed, proxy.log)) >= 2, "it was tried twice")
            self.assertNotIn("Traceback", proxy.log)
            moved.rename(ca)
            until(lambda: proxy.workers[2] != self.workers[2], "it serves again")
            self.assertEqual(proxy.stop(), 0)
            events = [json.loads(line) for line in proxy.lines]
            delays = [event["delay"] for event in events if "delay" in event]
            self.assertGreater(len(delays), 2)
            self.assertTrue(all(delay >= 0.1 * 2**number for number, delay in enumerate(delays[:5])), delays)
            writers = {(event["worker"], event["pid"]) for event in events if event["logger"].endswith("ConnectionPool")}
            self.assertLessEqual(set(self.workers.items()), writers)


class EmbeddedTests(ProcessesCase):
    def test_make_run_with_two(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            proxy = ProxyProcess(
                *("--ns-prefix", "tenant-", "--embedded", "--manifests", str(LOCAL), "--processes", "2"),
                environ={"TMPDIR": directory},
                fresh=True,
            )
            self.addCleanup(proxy.stop)
            proxy.logged("Ctrl-C stops the proxy")
            self.assertEqual(proxy.log.count("GET greeting -> hello from database"), 2)
            self.assertNotIn("has not read its credentials", proxy.log)
            self.assertEqual(proxy.stop(signal.SIGINT), 0)
            self.assertEqual(list(Path(directory).iterdir()), [])
            self.assertEnd(*proxy.workers.values())

"""What a tenant gets of INFO."""

from __future__ import annotations

import unittest

from redisproxy.session.info import CLIENT_STATS, sections, tenants_info

OWN = {name: number for number, name in enumerate(CLIENT_STATS, 41)}

INFO = b"""# Server\r
redis_version:7.0.15\r
tcp_port:6379\r
executable:/usr/bin/redis-server\r
config_file:/etc/redis/redis.conf\r
run_id:abc\r
\r
# Clients\r
connected_clients:99\r
maxclients:10000\r
blocked_clients:7\r
\r
# Memory\r
used_memory:1000\r
maxmemory_policy:noeviction\r
\r
# Stats\r
total_connections_received:5000\r
total_commands_processed:6000\r
instantaneous_ops_per_sec:70\r
keyspace_hits:80\r
pubsub_channels:90\r
pubsub_patterns:100\r
\r
# Replication\r
role:master\r
slave0:ip=10.0.0.9,port=6379\r
master_replid:abc\r
\r
# Commandstats\r
cmdstat_get:calls=5\r
\r
# Newsection\r
something:new\r
\r
# Keyspace\r
db0:keys=1,expires=0\r
db3:keys=2,expires=0\r
db33:keys=3,expires=0\r
"""


class InfoTests(unittest.TestCase):
    def test_cut(self) -> None:
        self.assertEqual(
            tenants_info([INFO], 3, OWN).decode(),
            "# Server\r\nredis_version:7.0.15\r\n\r\n"
            "# Clients\r\nconnected_clients:41\r\nmaxclients:10000\r\nblocked_clients:42\r\n\r\n"
            "# Memory\r\nused_memory:1000\r\nmaxmemory_policy:noeviction\r\n\r\n"
            "# Stats\r\ntotal_connections_received:44\r\ntotal_commands_processed:45\r\n"
            "instantaneous_ops_per_sec:48\r\npubsub_channels:51\r\npubsub_patterns:52\r\n\r\n"
            "# Replication\r\nrole:master\r\n\r\n"
            "# Keyspace\r\ndb3:keys=2,expires=0\r\n",
        )

    def test_an_empty_database_has_its_section(self) -> None:
        self.assertEqual(tenants_info([b"# Keyspace\r\ndb0:keys=1\r\n"], 3, OWN), b"# Keyspace\r\n")

    def test_what_is_no_info(self) -> None:
        for answers in ([], [b""], [b"nonsense"], [b"secret:1\r\n"], [7, None, [b"secret"]]):
            self.assertNotIn(b"secret", tenants_info(answers, 3, OWN))

    def test_several_answers(self) -> None:
        answers = [b"# Server\r\nredis_version:7.0.15\r\n", b"# Nosuch\r\na:1\r\n", b"# Keyspace\r\n", b""]
        self.assertEqual(tenants_info(answers, 3, OWN), b"# Server\r\nredis_version:7.0.15\r\n\r\n# Keyspace\r\n")


class SectionsTests(unittest.TestCase):
    def test_which_are_asked_for(self) -> None:
        every = [b"server", b"clients", b"memory", b"persistence", b"stats", b"replication", b"cluster", b"keyspace"]
        for words in ([], [b"default"], [b"ALL"], [b"Everything"], [b"clients", b"all"], [b"nosuch", b"default"]):
            self.assertEqual(sections(words), every, words)
        self.assertEqual(sections([b"KEYSPACE", b"nosuch", b"server", b"server"]), [b"server", b"keyspace"])

    def test_what_tenants_are_not_shown_is_not_asked_for(self) -> None:
        for word in (b"errorstats", b"commandstats", b"latencystats", b"modules", b"cpu", b"keysizes", b"*", b"", b"serve"):
            self.assertEqual(sections([word]), [], word)

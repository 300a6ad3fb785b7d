"""The examples of docs/command.md are what the command prints.

An example is a block of code that begins with ``$ redisproxy``. The examples run in the order of
the page, over one small API and a real Redis. Times, random names, passwords and the address of
Redis differ each time: `MASKS` has what the page says instead.
"""

from __future__ import annotations

import re
import unittest
from pathlib import Path

from ..support.apiserver import ApiServer
from ..support.command import run_command
from ..support.proxy import master, namespace, plain_environment, tenant
from ..support.servers import BOUNDED, RedisServer, valkey

PAGE = Path(__file__).parents[2] / "docs/command.md"
MASKS = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "2026-01-31T12:00:00Z"),
    (r"(redis-secret-temp-rotated)-[a-z0-9]{6}", r"\1-2f45qk"),
    (r"redis://:[A-Za-z0-9]{40}@", "redis://:PASSWORD@"),
    (r"(Redis +)redis://\S+: Valkey [\d.]+", r"\1redis://redis.example.com:6379: Valkey 9.1.2"),
)


def examples(text: str) -> list[tuple[str, str]]:
    """(command line, output) of each example of a page."""
    blocks = re.findall(r"^    \$ (redisproxy .*)\n((?:    .*\n|\n(?=    (?!\$)))*)", text, re.MULTILINE)
    return [(line, re.sub(r"^    ", "", output, flags=re.MULTILINE)) for line, output in blocks]


def masked(text: str) -> str:
    for pattern, replacement in MASKS:
        text = re.sub(pattern, replacement, text)
    return text


class ExamplesTests(unittest.TestCase):
    maxDiff = None

    def test_each_example(self) -> None:
        server = RedisServer(valkey, *BOUNDED).start()
        self.addCleanup(server.stop)
        new = [namespace("team-red"), namespace("team-white")]
        for labelled in new:
            labelled["metadata"]["labels"] = {"redisproxy/tenant": "true"}
        api = ApiServer(
            master(server.url),
            *tenant("team-blue", 1, "pw-blue"),
            *tenant("team-green", 3, "pw-green"),
            *tenant("team-new", 3, "pw-new", "2026-02-01T00:00:00Z"),
            *new,
        ).start()
        self.addCleanup(api.remove)
        environ = {**plain_environment(), "KUBECONFIG": str(api.kubeconfig), "NS_PREFIX": "team-", "COLUMNS": "100"}
        found = examples(PAGE.read_text())
        self.assertGreater(len(found), 6)
        for line, output in found:
            with self.subTest(line):
                words = line.split()[1:]
                # What it prints on a terminal, which this is not.
                form = () if {"--output", "-o"} & {*words} else ("--output", "table")
                done = run_command(*words, *form, environ=environ)
                printed = masked(done.stdout + done.stderr)
                self.assertEqual(printed, output, f"docs/command.md: `{line}` prints this:\n\n{printed}")

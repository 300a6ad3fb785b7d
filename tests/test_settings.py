"""Tests the table of settings: the values that each setting takes, and the errors for others."""

from __future__ import annotations

import unittest
from dataclasses import fields

from redisproxy.policy.costs import CommandLimits
from redisproxy.settings import Settings, SettingsError, described, misspelt, option_name
from redisproxy.tap import Options


class ReadTests(unittest.TestCase):
    def read(self, *, ns_prefix: str = "team-", **environ: str) -> Settings:
        return Settings.read({"ns-prefix": ns_prefix}, environ)

    def test_the_originals_variables_and_defaults(self) -> None:
        settings = Settings.read({}, {"NS_PREFIX": "team-"})
        self.assertEqual(settings.ns_prefix, "team-")
        self.assertEqual(settings.redis_secret, "redis-secret-master")
        self.assertEqual(settings.kubernetes_port, 443)
        self.assertEqual((settings.max_workers, settings.work_queue_size, settings.base_workers), (1000, 1000, 1))
        self.assertEqual((settings.worker_idle_timeout, settings.refresh), (30.0, 300.0))
        self.assertEqual(settings.master, ("kube-system", "redis-secret-master"))
        self.assertEqual(settings.listen, ("tcp:6379",))

    def test_the_prefix_is_required(self) -> None:
        self.assertRaisesRegex(SettingsError, r"NS_PREFIX \(or --ns-prefix\) is not set", Settings.read, {}, {})

    def test_what_can_not_be_opened(self) -> None:
        for name in ("SELECT", "acl|setuser", "CLIENT|KILL", "script|debug", "MONITOR", "slowlog|get", "commandlog|get"):
            with self.assertRaisesRegex(SettingsError, "can never be opened to tenants"):
                self.read(REDISPROXY_ALLOW_COMMANDS=name)
        self.assertEqual(self.read(REDISPROXY_ALLOW_COMMANDS="script|flush").allow_commands, {b"SCRIPT|FLUSH"})

    def test_config_can_not_be_opened_and_the_error_says_what_to_do(self) -> None:
        """CONFIG shows the master password, so the error says what works without it. A runbook once
        advised to open CONFIG.
        """
        for text in ("CONFIG", "config", "CONFIG|GET", "Config|get", "config|set", "CONFIG GET", "GET,config|nosuch"):
            with self.assertRaisesRegex(
                SettingsError,
                r"^--allow-commands names commands that can never be opened to tenants: CONFIG\S* \(it shows and changes the master "
                r"password; CONFIG GET of databases, maxmemory, .* needs no opening, for the rest ask Redis itself\)$",
            ):
                self.read(REDISPROXY_ALLOW_COMMANDS=text)
        self.assertEqual(self.read(REDISPROXY_DENY_COMMANDS="CONFIG|GET").deny_commands, {b"CONFIG|GET"})

    def test_both_forms_of_kubernetes_port(self) -> None:
        for text, port in (
            ("443", 443),
            ("tcp://10.0.0.1:6443", 6443),
            ("tcp://[fd00::1]:443", 443),
            ("tcp://api.local:1", 1),
        ):
            self.assertEqual(self.read(KUBERNETES_PORT=text).kubernetes_port, port)
        for text in ("", "0", "65536", "udp://10.0.0.1:443", "tcp://10.0.0.1", "443 ", "4_43", "tcp://a:b:443"):
            self.assertRaisesRegex(SettingsError, "KUBERNETES_PORT is .*it takes a port", self.read, KUBERNETES_PORT=text)

    def test_numbers_are_canonical(self) -> None:
        for text in ("", " 1", "1 ", "+1", "1_0", "0x1", "1e3", "\u0661", "-1", "1.5"):
            with self.assertRaisesRegex(SettingsError, "MAX_WORKERS is .*; it takes a whole number from 1 to 1000000"):
                self.read(MAX_WORKERS=text)
        self.assertEqual(self.read(WORKER_IDLE_TIMEOUT_SEC="1.5").worker_idle_timeout, 1.5)

    def test_limits_of_commands(self) -> None:
        self.assertEqual(self.read().command_limits, CommandLimits(1000, 100_000, 64 << 20))
        for text, size in (("0", 0), ("1000", 1000), ("5Ki", 5120), ("2Gi", 2 << 30)):
            settings = self.read(REDISPROXY_TENANT_TRANSACTION_BYTES=text)
            self.assertEqual(settings.policy().limits.transaction, size)
        for text in ("", "-1", "64M", "1.5Mi", "64 Mi"):
            with self.assertRaisesRegex(
                SettingsError, "^REDISPROXY_TENANT_TRANSACTION_BYTES is .*; it takes a number of bytes, such as 64Mi; or 0$"
            ):
                self.read(REDISPROXY_TENANT_TRANSACTION_BYTES=text)
        limits = self.read(REDISPROXY_COMMAND_MAX_KEYS="0", REDISPROXY_COMMAND_MAX_COUNT="7").policy().limits
        self.assertEqual((limits.keys, limits.count), (0, 7))

    def test_networks(self) -> None:
        for text, expected in (
            ("", []),
            (" ", []),
            ("10.0.0.0/8", ["10.0.0.0/8"]),
            ("192.0.2.7, 2001:db8::/32,::1", ["192.0.2.7/32", "2001:db8::/32", "::1/128"]),
            ("0.0.0.0/0", ["0.0.0.0/0"]),
        ):
            found = self.read(REDISPROXY_TRUST_PROXY=text).trust_proxy
            self.assertEqual([str(network) for network in found], expected)
        for text in (
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/8,",
            ",",
            "10.0.0.0/8 11.0.0.0/8",
            "balancer",
            "10.0.0",
            "::1%eth0/64",
            "1",
        ):
            with self.assertRaisesRegex(
                SettingsError, "^REDISPROXY_TRUST_PROXY is .*; it takes addresses and networks with"
            ):
                self.read(REDISPROXY_TRUST_PROXY=text)

    def test_an_option_wins(self) -> None:
        settings = Settings.read({"ns-prefix": "a-", "max-workers": "5"}, {"NS_PREFIX": "b-", "MAX_WORKERS": "nonsense"})
        self.assertEqual((settings.ns_prefix, settings.max_workers), ("a-", 5))

    def test_flags(self) -> None:
        for text, value in (("yes", True), ("1", True), ("True", True), ("no", False), ("0", False), ("", False)):
            self.assertIs(self.read(REDISPROXY_EMBEDDED=text).embedded, value)


class MisspeltTests(unittest.TestCase):
    def test_the_nearest_setting_is_named(self) -> None:
        for name, nearest in (
            ("REDISPROXY_PROCESES", "REDISPROXY_PROCESSES"),
            ("REDISPROXY_COLOUR", ""),
            ("MAX_WORKERZ", "MAX_WORKERS"),
            ("MAX_WORKER", "MAX_WORKERS"),
            ("NSPREFIX", "NS_PREFIX"),
            ("WORKER_IDLE_TIMEOUT_SECS", "WORKER_IDLE_TIMEOUT_SEC"),
        ):
            with self.subTest(name):
                self.assertEqual(misspelt([name, "HOME"]), {name: nearest})

    def test_settings_and_what_others_set_are_right(self) -> None:
        variables = [setting.metadata["variable"] for setting in fields(Settings)]
        kubernetes = [
            *(
                "KUBERNETES_SERVICE_HOST",
                "KUBERNETES_SERVICE_PORT",
                "KUBERNETES_SERVICE_PORT_HTTPS",
                "KUBERNETES_PORT_443_TCP",
            ),
            *("KUBERNETES_PORT_443_TCP_ADDR", "REDISPROXY_SERVICE_HOST", "REDISPROXY_SERVICE_PORT", "REDISPROXY_PORT"),
            *("REDISPROXY_PORT_6379_TCP", "REDISPROXY_PORT_6379_TCP_ADDR", "REDISPROXY_STATUS_SERVICE_PORT_STATUS"),
            *(
                "REDISPROXY_STATUS_PORT_9180_TCP_PROTO",
                "REDIS_SERVICE_HOST",
                "REDIS_PORT",
                "REDIS_URL",
                "PATH",
                "HOSTNAME",
                "STATUS",
                "WATCHED",
                "LOG_FORMATS",
            ),
        ]
        self.assertEqual(misspelt([*variables, *kubernetes]), {})


class OneTableTests(unittest.TestCase):
    def test_the_plugin_knows_each_setting_by_option_and_variable(self) -> None:
        usage = str(Options())
        for setting in fields(Settings):
            self.assertIn(f"--{option_name(setting.name)}", usage)

    def test_words_in_a_usage_line_are_those_that_are_taken(self) -> None:
        words = {setting.name: setting.metadata["takes"].split("|") for setting in fields(Settings)}
        options = {name: found for name, found in words.items() if found[1:]}
        self.assertGreater(len(options), 3)
        for name, found in options.items():
            for word in found:
                given = {"ns-prefix": "team-", option_name(name): word}
                self.assertEqual(getattr(Settings.read(given, {}), name), word)
            with self.assertRaisesRegex(SettingsError, f"it takes one of: {', '.join(found)}$"):
                Settings.read({option_name(name): "none"}, {})

    def test_help_has_the_default_with_its_unit(self) -> None:
        texts = {setting.name: described(setting) for setting in fields(Settings)}
        for name, end in (
            ("refresh", " Default: 300 s. [REDISPROXY_REFRESH]"),
            ("drain_delay", " Default: 0 s. [REDISPROXY_DRAIN_DELAY]"),
            ("tenant_max_connections", " Default: 0. [REDISPROXY_TENANT_MAX_CONNECTIONS]"),
            ("embedded", " Default: no. [REDISPROXY_EMBEDDED]"),
            ("listen", " Default: tcp:6379. [REDISPROXY_LISTEN]"),
            ("ns_prefix", " Required. [NS_PREFIX]"),
            ("status", " Off by default. [REDISPROXY_STATUS]"),
        ):
            self.assertTrue(texts[name].endswith(end), texts[name])
        self.assertNotIn("`", "".join(texts.values()))

    def test_options_are_collected_as_text(self) -> None:
        options = Options()
        options.parseOptions(["--listen", "tcp:1", "--listen", "tcp:2", "--embedded", "--max-workers", "7"])
        self.assertEqual(options.given(), {"listen": "tcp:1 tcp:2", "embedded": "yes", "max-workers": "7"})

    def test_a_flag_can_be_switched_off(self) -> None:
        for given, watch, embedded in (
            (["--no-watch", "--no-embedded"], False, False),
            (["--watch"], True, True),
            ([], False, True),
        ):
            options = Options()
            options.parseOptions(["--ns-prefix", "team-", *given])
            settings = Settings.read(options.given(), {"REDISPROXY_WATCH": "no", "REDISPROXY_EMBEDDED": "yes"})
            self.assertEqual((settings.watch, settings.embedded), (watch, embedded))
        self.assertIs(Settings.read({"ns-prefix": "team-"}, {}).watch, True)
        with self.assertRaisesRegex(SystemExit, "--watch and --no-watch are both given; see"):
            Options().parseOptions(["--no-watch", "--watch"])

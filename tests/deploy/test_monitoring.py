"""Tests the alerts, their runbooks and the dashboard: they query metrics that exist, and explain
them.

A real proxy shows which metrics exist. promtool checks the rules. If Debian's package is installed,
a real Prometheus scrapes the proxy, evaluates the rules and answers every query.
"""

from __future__ import annotations

import functools
import http.client
import json
import re
import subprocess
import tempfile
import time
import unittest
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import promql_parser
import redis
import yaml
from prometheus_client.parser import text_string_to_metric_families

from redisproxy import messages

from ..support.certificates import Authority
from ..support.proxy import Installation, master, secret, tenant
from ..support.servers import free_port
from ..support.status import ask, status_port
from ..support.waiting import until
from .documents import COMPONENTS, ROOT, kustomized, load, only, run, tool, with_components
from .documents import PRODUCTION as OVERLAY

RULES = COMPONENTS / "monitoring/rules.yaml"
DASHBOARD = COMPONENTS / "monitoring/dashboard.json"
RUNBOOKS = ROOT / "docs/runbooks"
ALERT_TESTS = Path(__file__).parent / "alerts.yaml"
PACKAGE = "apt-get install prometheus"

#: Labels that Prometheus itself adds.
TARGET = {"job", "instance"}


def rules() -> list[dict]:
    (group,) = load(RULES.read_text())[0]["spec"]["groups"]
    return group["rules"]


def panels() -> list[dict]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def queries() -> list[tuple[str, str]]:
    """Returns (title, query) of the dashboard, with the first values of Grafana's variables."""
    variables = {"$job": "redisproxy", "$instance": ".*", "$namespace": ".*", "$__rate_interval": "1m"}
    found = [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]
    return [(title, functools.reduce(lambda q, v: q.replace(*v), variables.items(), query)) for title, query in found]


def asked(query: str) -> Iterator[object]:
    """Returns all parts of a query."""
    parts: list[object] = []
    promql_parser.walk(promql_parser.parse(query), lambda part: parts.append(part))
    return iter(parts)


def selectors(query: str) -> list[promql_parser.VectorSelector]:
    # `walk` does not visit the selector inside a MatrixSelector.
    found = [getattr(part, "vector_selector", part) for part in asked(query)]
    return [part for part in found if isinstance(part, promql_parser.VectorSelector)]


def grouped(query: str) -> set[str]:
    """Returns the labels that a query groups or matches by."""
    found: set[str] = set()
    for part in asked(query):
        modifier = getattr(part, "modifier", None)
        if isinstance(part, promql_parser.AggregateExpr) and modifier is not None:
            found |= set(modifier.labels)
        elif isinstance(part, promql_parser.BinaryExpr) and modifier is not None and modifier.matching is not None:
            found |= set(modifier.matching.labels)
    return found


#: The values that were seen, by the name of the metric and the name of the label.
Metrics = dict[str, dict[str, set[str]]]


class Busy(Installation):
    """An installation that has values for all metrics: a malformed secret, a temporary credential,
    refusals, wrong passwords.
    """

    TOKEN = "token-of-the-tests"

    def __init__(self, *options: str) -> None:
        self.files = tempfile.TemporaryDirectory(prefix="redisproxy-test-")
        token = Path(self.files.name) / "token"
        token.write_text(self.TOKEN)
        certificate, key = Authority(Path(self.files.name)).issue("server", "127.0.0.1", days=30)
        super().__init__(
            *("--status", "tcp:0:interface=127.0.0.1", "--status-token-file", str(token)),
            *("--listen", f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"),
            *options,
        )
        self.use()

    def documents(self) -> list[dict]:
        url = f"redis://:{self.BLUE}-for-now@redisproxy:6379/3"
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return [
            master(self.server.url),
            *tenant("team-blue", 3, self.BLUE),
            *tenant("team-green", 5, self.GREEN),
            secret("team-green", "redis-secret-temp-bad", redis_connection_string="nonsense"),
            secret("team-blue", "redis-secret-temp-job", now, redis_connection_string=url, valid_hours="1"),
        ]

    def use(self) -> None:
        """Does some of everything that is counted."""
        blue = self.blue()
        blue.set("key", "value")
        blue.publish("channel", "message")
        for client, error in ((blue, redis.ResponseError), (self.proxy.client("wrong"), redis.AuthenticationError)):
            try:
                client.execute_command("CONFIG", "REWRITE")
            except error:
                pass
            else:
                raise AssertionError("it was not refused")

    def stop(self) -> None:
        super().stop()
        self.files.cleanup()

    def metrics(self) -> Metrics:
        _, _, text = ask(status_port(self), "/metrics", authorization=f"Bearer {self.TOKEN}")
        found: Metrics = defaultdict(lambda: defaultdict(set))
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = found[sample.name]
                for label, value in sample.labels.items():
                    labels[label].add(value)
        return dict(found)


@functools.cache
def reported() -> Metrics:
    """Returns the metrics of a real proxy, with one process and with several."""
    found: Metrics = {}
    for options in ((), ("--processes", "2")):
        installation = Busy(*options)
        try:
            found = installation.metrics() | found
        finally:
            installation.stop()
    return found


class QueryTests(unittest.TestCase):
    """An alert or the dashboard may query only metrics, labels and values that the proxy has."""

    def setUp(self) -> None:
        self.metrics = reported()

    def assert_known(self, query: str, title: str = "") -> None:
        found = selectors(query)
        self.assertTrue(found, title)
        labels: set[str] = set()
        for selector in found:
            if selector.name == "up":
                labels |= TARGET
                continue
            self.assertIn(selector.name, self.metrics)
            known = self.metrics[selector.name]
            labels |= set(known) | TARGET
            for matcher in selector.matchers.matchers:
                self.assertIn(matcher.name, set(known) | TARGET, f"{title} {selector.name}")
                if matcher.op in (promql_parser.MatchOp.Equal, promql_parser.MatchOp.NotEqual) and matcher.name != "job":
                    self.assertIn(matcher.value, known[matcher.name], f"{selector.name}: {matcher.name}")
            # A query must not count other jobs.
            self.assertIn("job", [matcher.name for matcher in selector.matchers.matchers], query)
        self.assertLessEqual(grouped(query), labels, query)

    def test_of_the_alerts(self) -> None:
        for rule in rules():
            self.assert_known(rule["expr"])
            for query in re.findall(r'query "((?:[^"\\]|\\.)*)"', rule["annotations"]["description"]):
                self.assert_known(query.replace('\\"', '"'))

    def test_of_the_dashboard(self) -> None:
        for title, query in queries():
            self.assert_known(query, title)

    def test_of_the_dashboards_variables(self) -> None:
        for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
                name = selector.partition("{")[0]
                self.assertIn(label, set(self.metrics[name]) | TARGET)

    def test_a_misspelt_one_would_be_found(self) -> None:
        for query in (
            'redisproxy_session{job="redisproxy"}',
            'redisproxy_sessions{job="redisproxy",status="waiting"}',
            'redisproxy_sessions{job="redisproxy",state="waits"}',
            'rate(redisproxy_logins_total{job="redisproxy",outcome="bad"}[5m])',
            'sum by (tenant) (redisproxy_sessions{job="redisproxy"})',
            "redisproxy_sessions",
        ):
            with self.assertRaises(AssertionError, msg=query):
                self.assert_known(query)

    def test_what_alerts_say_names_labels_that_they_have(self) -> None:
        for rule in rules():
            labels = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
            query = promql_parser.parse(rule["expr"])
            if isinstance(query, promql_parser.BinaryExpr):
                query = query.lhs
            while isinstance(query, promql_parser.BinaryExpr):  # min(…) - time() < …
                query = query.lhs
            if isinstance(query, promql_parser.AggregateExpr) and query.modifier.type == promql_parser.AggModifierType.By:
                self.assertLessEqual(labels, set(query.modifier.labels), rule["alert"])
            else:
                own = {label for selector in selectors(rule["expr"]) for label in self.metrics.get(selector.name, ())}
                self.assertLessEqual(labels, TARGET | {"pod"} | own, rule["alert"])

    def test_each_metric_is_documented(self) -> None:
        used = {
            re.sub(r"_(bucket|sum|count)$", "", selector.name)
            for query in [query for _, query in queries()] + [rule["expr"] for rule in rules()]
            for selector in selectors(query)
        }
        table = (ROOT / "docs/metrics.md").read_text()
        documented = set(re.findall(r"^\| `(redisproxy_\w+)`", table, re.MULTILINE))
        self.assertEqual({name for name in used if name.startswith("redisproxy_")} - documented, set())
        self.assertGreater(len(used & documented), 20)


class RunbookTests(unittest.TestCase):
    """Each alert has its page, and each page its alert."""

    def test_one_each(self) -> None:
        names = [rule["alert"] for rule in rules()]
        self.assertEqual(len(names), len(set(names)))
        self.assertEqual(sorted(path.name for path in RUNBOOKS.iterdir()), sorted(f"{name}.md" for name in names))

    def test_alerts_lead_to_them(self) -> None:
        for rule in rules():
            link = rule["annotations"]["runbook_url"]
            self.assertEqual(ROOT / link, RUNBOOKS / f"{rule['alert']}.md")

    def test_an_overlay_says_where_they_are(self) -> None:
        document = only("PrometheusRule", kustomized(OVERLAY))
        docs = document["metadata"]["annotations"]["redisproxy/docs"]
        self.assertTrue(docs.startswith("https://"))
        (group,) = document["spec"]["groups"]
        for rule in group["rules"]:
            self.assertEqual(rule["annotations"]["runbook_url"], f"{docs}/runbooks/{rule['alert']}.md")

    def test_each_says_what_an_operator_asks(self) -> None:
        for path in RUNBOOKS.iterdir():
            text = path.read_text()
            self.assertEqual(
                re.findall(r"^#.*", text, re.MULTILINE), [f"# {path.stem}", "## Who is hurt", "## Look", "## Fix"]
            )

    def test_what_they_name_is_there(self) -> None:
        for path in RUNBOOKS.iterdir():
            text = path.read_text()
            for link in re.findall(r"\]\(([^)]+)\)", text):
                self.assertTrue((RUNBOOKS / link.partition("#")[0]).is_file(), f"{path.name}: {link}")
            for file in re.findall(r"\bdeploy/[\w/.-]+\w", text):
                self.assertTrue((ROOT / file).exists(), f"{path.name}: {file}")

    def test_the_log_lines_that_they_quote_are_said(self) -> None:
        """A runbook quotes a log line with capitals or … for what the line fills in."""
        texts = [re.sub(r"\{[^}]*\}", "~", message.text) for _, message in messages.all_messages()]
        for path in RUNBOOKS.iterdir():
            for quote in re.findall(r"^- `([a-z][^`]*(?: …| NS|N belongs[^`]*))`", path.read_text(), re.MULTILINE):
                pattern = ".*".join(map(re.escape, re.split(r"…|\b(?:NS|N)\b", quote)))
                self.assertTrue(any(re.search(pattern, text) for text in texts), f"{path.name}: {quote}")


class DashboardTests(unittest.TestCase):
    def test_grafana_finds_it(self) -> None:
        found = only("ConfigMap", with_components("monitoring"))
        self.assertEqual(found["metadata"]["labels"]["grafana_dashboard"], "1")
        ((file, text),) = found["data"].items()
        self.assertTrue(file.endswith(".json"))
        self.assertEqual(json.loads(text), json.loads(DASHBOARD.read_text()))

    def test_its_panels_are_told_apart_and_do_not_overlap(self) -> None:
        board = json.loads(DASHBOARD.read_text())
        self.assertEqual(len({panel["id"] for panel in board["panels"]}), len(board["panels"]))
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            self.assertFalse(taken & cells, panel["title"])
            self.assertLessEqual(at["x"] + at["w"], 24)
            taken |= cells

    def test_each_source_and_variable_is_one_of_its_own(self) -> None:
        board = json.loads(DASHBOARD.read_text())
        variables = {variable["name"] for variable in board["templating"]["list"]}
        used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(board)))
        self.assertEqual(used, variables)
        for panel in panels():
            self.assertEqual(panel["datasource"], {"type": "prometheus", "uid": "${datasource}"})
            self.assertTrue(panel["fieldConfig"]["defaults"].get("unit"), panel["title"])

    def test_what_is_a_rate_is_made_of_a_counter(self) -> None:
        for title, query in queries():
            for part in asked(query):
                if isinstance(part, promql_parser.Call) and part.func.name in ("rate", "increase"):
                    self.assertRegex(part.args[0].vector_selector.name, "_(total|bucket)$", title)


class PromtoolTests(unittest.TestCase):
    def setUp(self) -> None:
        self.promtool = tool("promtool", PACKAGE)
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="redisproxy-test-")))

    def write(self, found: Iterable[dict]) -> None:
        groups = {"groups": [{"name": "redisproxy", "rules": list(found)}]}
        (self.directory / "rules.yaml").write_text(yaml.safe_dump(groups))

    def test_the_rules_are_rules(self) -> None:
        self.write(rules())
        checked = run(self.promtool, "check", "rules", "--lint=all", "--lint-fatal", str(self.directory / "rules.yaml"))
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)
        self.assertIn(f"{len(rules())} rules found", checked.stdout)

    def test_they_fire_when_they_should_and_only_then(self) -> None:
        described = [{**rule, "annotations": {"description": rule["annotations"]["description"]}} for rule in rules()]
        self.write(described)
        (self.directory / "alerts.yaml").write_text(ALERT_TESTS.read_text())
        tested = run(self.promtool, "test", "rules", str(self.directory / "alerts.yaml"))
        self.assertEqual(tested.returncode, 0, tested.stdout + tested.stderr)

    def test_each_is_tested_both_ways(self) -> None:
        cases = [case for test in yaml.safe_load(ALERT_TESTS.read_text())["tests"] for case in test["alert_rule_test"]]
        names = {rule["alert"] for rule in rules()}
        self.assertEqual({case["alertname"] for case in cases if case.get("exp_alerts")}, names)
        self.assertEqual({case["alertname"] for case in cases if not case.get("exp_alerts")}, names)


class PrometheusTests(unittest.TestCase):
    """A Prometheus scrapes a proxy as the ServiceMonitor says, evaluates the rules, and answers the
    dashboard's queries.
    """

    def setUp(self) -> None:
        program = tool("prometheus", PACKAGE)
        self.installation = Busy()
        self.addCleanup(self.installation.stop)
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="redisproxy-test-")))
        (self.directory / "rules.yaml").write_text(yaml.safe_dump(load(RULES.read_text())[0]["spec"]))
        (monitor,) = load((COMPONENTS / "monitoring/service-monitor.yaml").read_text())
        (endpoint,) = monitor["spec"]["endpoints"]
        scrape = {
            "job_name": "redisproxy",
            "metrics_path": endpoint["path"],
            "honor_labels": endpoint["honorLabels"],
            "authorization": {
                "type": endpoint["authorization"]["type"],
                "credentials_file": f"{self.installation.files.name}/token",
            },
            # The operator labels each target with the pod's namespace.
            "static_configs": [
                {"targets": [f"127.0.0.1:{status_port(self.installation)}"], "labels": {"namespace": "redisproxy"}}
            ],
        }
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [scrape],
        }
        (self.directory / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
        self.port = free_port()
        log = (self.directory / "log").open("w")
        self.addCleanup(log.close)
        self.prometheus = subprocess.Popen(
            [
                program,
                f"--config.file={self.directory}/prometheus.yaml",
                f"--storage.tsdb.path={self.directory}/data",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stdout=log,
            stderr=log,
        )
        self.addCleanup(self.prometheus.wait)
        self.addCleanup(self.prometheus.terminate)
        until(self.scraped, "two scrapes")

    def get(self, path: str, **parameters: str) -> dict:
        try:
            status, _, text = ask(self.port, f"/api/v1/{path}?{urlencode(parameters)}")
        except (OSError, http.client.HTTPException):
            self.assertIsNone(self.prometheus.poll(), (self.directory / "log").read_text())
            return {}
        self.assertIn(status, (200, 503), text)  # 503: it has just started
        return json.loads(text)["data"] if status == 200 else {}

    def query(self, text: str) -> list[dict]:
        return self.get("query", query=text).get("result", [])

    def scraped(self) -> bool:
        found = self.query('count_over_time(up{job="redisproxy"}[1m])')
        return bool(found) and float(found[0]["value"][1]) >= 2 and bool(self.query("redisproxy_ready == 1"))

    def states(self) -> dict[str, str]:
        """Returns the state of each alert."""
        groups = self.get("rules").get("groups", [])
        return {rule["name"]: rule["state"] for group in groups for rule in group["rules"] if rule["health"] == "ok"}

    def test_all_is_answered_and_a_fault_is_noticed(self) -> None:
        names = {rule["alert"] for rule in rules()}
        until(lambda: set(self.states()) == names, "each rule is evaluated, and none has an error")

        def firing() -> set[str]:
            return {name for name, state in self.states().items() if state != "inactive"}

        # One secret is malformed, and a temporary credential ends within an hour. Nothing else is
        # wrong.
        until(lambda: len(firing()) >= 2, "what is wrong is noticed")
        self.assertEqual(firing(), {"RedisProxyProblems", "RedisProxyCredentialExpiring"})
        # The label `namespace` is the tenant's.
        self.assertEqual(self.query('redisproxy_problem{job="redisproxy"}')[0]["metric"]["namespace"], "team-green")

        blue = self.installation.blue()

        def empty() -> list[str]:
            blue.set("key", "value")
            return [title for title, query in queries() if not self.query(query)]

        until(lambda: not empty(), "each panel shows something")

        self.installation.server.kill()
        expected = {"RedisProxyRedisUnreachable", "RedisProxyNotReady"}
        until(lambda: all(self.states().get(name) == "pending" for name in expected), "Redis is missed")
        self.assertEqual(self.states()["RedisProxyDown"], "inactive")
        groups = self.get("rules")["groups"]
        told_of = [alert["annotations"] for group in groups for rule in group["rules"] for alert in rule["alerts"]]
        self.assertGreaterEqual(len(told_of), 4)
        self.assertIn(
            f"127.0.0.1:{status_port(self.installation)} does not reach Redis", [text["summary"] for text in told_of]
        )
        self.assertNotIn("<error", str(told_of))

    def test_another_token_is_noticed(self) -> None:
        (Path(self.installation.files.name) / "token").write_text("another")
        # Prometheus reads the same file, and continues with the new token.
        time_of = 'timestamp(up{job="redisproxy"} == 1)'
        now = time.time()
        until(lambda: (found := self.query(time_of)) and float(found[0]["value"][1]) > now + 2, "it is scraped on")
        self.assertEqual(self.query('up{job="redisproxy"}')[0]["value"][1], "1")

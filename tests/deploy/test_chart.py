"""Tests the Helm chart: it equals the kustomize form, is valid with all values, and refuses wrong
values with a clear error.
"""

from __future__ import annotations

import copy
import json
import re
import unittest
from dataclasses import fields

import yaml

from redisproxy import __version__
from redisproxy.settings import Settings

from .documents import (
    BASE,
    CHART,
    CHOICES,
    COMPONENTS,
    HelmRefusal,
    charted,
    documents,
    helm,
    load,
    name,
    only,
    settings_of,
    validate,
    with_components,
)


class ChartTests(unittest.TestCase):
    """Helm renders the same documents as kustomize."""

    #: The values that correspond to each component, if those are more than `enabled`.
    VALUES = {
        "autoscaling": {"autoscaling": {"enabled": True}},
        "dual-stack": {"service": {"ipFamilyPolicy": "PreferDualStack"}},
        "dual-stack-tls": {"service": {"ipFamilyPolicy": "PreferDualStack"}, "tls": {"secret": "redisproxy-tls"}},
        "monitoring": {"monitoring": {"enabled": True}},
        "narrow-rbac": {"rbac": {"allNamespaces": False}},
        "network-policy": {"networkPolicy": {"enabled": True}},
        "redis-ca": {"redisCA": {"configMap": "redisproxy-redis-ca"}},
        "tls": {"tls": {"secret": "redisproxy-tls"}},
    }

    def plain(self, found: list[dict]) -> dict[tuple[str, str, str], dict]:
        """Returns the documents by name, without Helm's own labels. Lists whose order does not
        matter are sorted.
        """
        by_name = {}
        for document in copy.deepcopy(found):
            if document["kind"] == "Namespace":
                continue  # helm install --create-namespace
            labels = document["metadata"]["labels"]
            if "helm.sh/chart" in labels:
                self.assertEqual(labels.pop("helm.sh/chart"), f"redisproxy-{__version__}")
                self.assertEqual(labels.pop("app.kubernetes.io/managed-by"), "Helm")
            if document["kind"] == "Service":
                document["spec"]["ports"].sort(key=lambda port: port["name"])
            if document["kind"] == "Deployment":
                pod = document["spec"]["template"]["spec"]
                pod.get("volumes", []).sort(key=lambda volume: volume["name"])
                for container in pod["containers"]:
                    container["env"].sort(key=lambda variable: variable["name"])
                    container["ports"].sort(key=lambda port: port["name"])
                    container.get("volumeMounts", []).sort(key=lambda mount: mount["name"])
            self.assertNotIn(name(document), by_name)
            by_name[name(document)] = document
        return by_name

    def assert_same(self, chart: list[dict], kustomize: list[dict]) -> None:
        mine, theirs = self.plain(chart), self.plain(kustomize)
        self.assertEqual(sorted(mine), sorted(theirs))
        for key, document in mine.items():
            self.assertEqual(document, theirs[key], key)

    def test_by_default_it_is_the_base(self) -> None:
        self.assert_same(charted(), documents(BASE))

    def test_with_each_and_all_values_it_is_the_base_with_components(self) -> None:
        self.assertEqual(sorted(self.VALUES), CHOICES)
        # dual-stack-tls has these two in it.
        everything = tuple(choice for choice in CHOICES if choice not in ("dual-stack", "tls"))
        for chosen in (*((choice,) for choice in CHOICES), everything):
            values = {key: value for choice in chosen for key, value in self.VALUES[choice].items()}
            self.assert_same(charted(values), with_components(*chosen))

    def test_what_it_renders_is_valid_whatever_is_set(self) -> None:
        for values in (
            {value: setting for chosen in self.VALUES.values() for value, setting in chosen.items()},
            {"rbac": {"allNamespaces": False, "tenants": ["tenant-a", "tenant-b"]}},
            {"master": {"namespace": "vault", "secret": "redis"}, "redisSecret": "redis-client"},
            {"image": {"digest": "sha256:" + "0" * 64, "pullSecrets": ["registry"]}, "priorityClassName": "high"},
            {"nodeSelector": {"disk": "ssd"}, "tolerations": [{"operator": "Exists"}], "podAnnotations": {"a": "b"}},
            {"networkPolicy": {"enabled": True, "redis": {"inCluster": False, "addresses": [{"cidr": "10.1.2.3/32"}]}}},
            {"service": {"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]}},
            {"service": {"type": "LoadBalancer", "annotations": {"a": "b"}}, "settings": {"MAX_WORKERS": "20000"}},
        ):
            found = charted(values, release="other", namespace="elsewhere")
            for document in found:
                validate(document)
            self.assertTrue(settings_of(found))

    def test_without_its_policies_it_is_the_base_without_one(self) -> None:
        without = [document for document in documents(BASE) if document["kind"] != "NetworkPolicy"]
        self.assert_same(charted({"networkPolicy": {"statusPort": False}}), without)

    def test_the_strict_policies_do_not_need_the_one_of_the_status_port(self) -> None:
        values = {"networkPolicy": {"enabled": True, "statusPort": False}}
        self.assert_same(charted(values), with_components("network-policy"))

    def test_values_become_settings(self) -> None:
        values = {
            "nsPrefix": "team-",
            "processes": 4,
            "redisSecret": "redis-client",
            "master": {"namespace": "vault", "secret": "redis"},
            "settings": {"MAX_WORKERS": "20000", "REDISPROXY_LOG_FORMAT": "text"},
            "autoscaling": {"enabled": True},
        }
        found = charted(values)
        settings = settings_of(found)
        self.assertEqual((settings.ns_prefix, settings.processes, settings.redis_secret), ("team-", 4, "redis-client"))
        self.assertEqual((settings.master, settings.max_workers, settings.log_format), (("vault", "redis"), 20_000, "text"))
        (role,) = (d for d in found if d["kind"] == "Role")
        self.assertEqual((role["metadata"]["namespace"], *role["rules"][0]["resourceNames"]), settings.master)
        (metric,) = only("HorizontalPodAutoscaler", found)["spec"]["metrics"]
        self.assertEqual(metric["resource"]["target"]["averageValue"], "2800m")

    def test_the_proxy_listens_for_the_families_of_its_service(self) -> None:
        both = (("tcp6:6379",), r"tcp6:9180:interface=\:\:")
        for service, expected in (
            ({}, (("tcp:6379",), "tcp:9180:interface=0.0.0.0")),
            ({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]}, (("tcp:6379",), "tcp:9180:interface=0.0.0.0")),
            ({"ipFamilyPolicy": "PreferDualStack"}, both),
            ({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]}, both),
            ({"ipFamilies": ["IPv6"]}, both),
        ):
            found = charted({"service": service})
            settings = settings_of(found)
            self.assertEqual((settings.listen, settings.status), expected)
            self.assertLessEqual(service.items(), only("Service", found)["spec"].items())
        own = {
            "service": {"ipFamilyPolicy": "PreferDualStack"},
            "settings": {"REDISPROXY_LISTEN": "tcp6:6379 haproxy:tcp6:6381"},
        }
        self.assertEqual(settings_of(charted(own)).listen, ("tcp6:6379", "haproxy:tcp6:6381"))

    def test_prometheus_finds_each_pod_once(self) -> None:
        """With addresses of both families it would find each twice."""
        found = charted({"monitoring": {"enabled": True}, "service": {"ipFamilyPolicy": "PreferDualStack"}})
        families = {d["metadata"]["name"]: d["spec"].get("ipFamilyPolicy") for d in found if d["kind"] == "Service"}
        self.assertEqual(families, {"redisproxy": "PreferDualStack", "redisproxy-status": None})

    def test_a_pod_has_the_time_to_end(self) -> None:
        found = charted({"drain": {"delay": 0, "seconds": 60}})
        settings = settings_of(found)
        self.assertEqual((settings.drain_delay, settings.drain_seconds), (0.0, 60.0))
        self.assertEqual(only("Deployment", found)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"], 65)

    def test_each_tenant_gets_its_pair(self) -> None:
        found = charted({"rbac": {"allNamespaces": False, "tenants": ["tenant-a"]}})
        pair = [d for d in found if d["metadata"].get("namespace") == "tenant-a"]
        expected = load((COMPONENTS / "narrow-rbac/tenant.yaml").read_text())
        for document in expected:
            document["metadata"]["namespace"] = "tenant-a"
        self.assert_same(pair, expected)

    def test_alerts_are_those_of_this_release_and_lead_to_its_documents(self) -> None:
        values = {"monitoring": {"enabled": True, "docs": "https://git.example.com/docs"}}
        (group,) = only("PrometheusRule", charted(values, release="other"))["spec"]["groups"]
        for rule in group["rules"]:
            self.assertEqual(rule["annotations"]["runbook_url"], f"https://git.example.com/docs/runbooks/{rule['alert']}.md")
            self.assertNotIn('job="redisproxy"', rule["expr"] + rule["annotations"]["description"].replace("\\", ""))
            self.assertIn('job="other"', rule["expr"])

    def test_what_is_wrong_is_refused_in_one_line(self) -> None:
        for values, wanted in (
            ({"nsprefix": "team-"}, "nsprefix"),
            ({"nsPrefix": "Team-"}, "/nsPrefix"),
            ({"settings": {"MAX_WORKERS": 5}}, "/settings/MAX_WORKERS"),
            ({"settings": {"MAX_WORKERZ": "5"}}, "MAX_WORKERZ"),
            ({"settings": {"NS_PREFIX": "team-"}}, "settings.NS_PREFIX: it has a value of its own"),
            ({"rbac": {"tenants": ["tenant-a"]}}, "rbac.tenants is for rbac.allNamespaces=false"),
            ({"networkPolicy": {"enabled": True, "redis": {"inCluster": False}}}, "networkPolicy.redis.addresses is empty"),
            ({"networkPolicy": {"tenantLabels": {"redisproxy/tenant": None}}}, "tenantLabels"),
            ({"image": {"digest": "latest"}}, "/image/digest"),
            ({"service": {"ipFamilyPolicy": "DualStack"}}, "/service/ipFamilyPolicy"),
            ({"service": {"ipFamilies": ["IPv4", "IPv4"]}}, "/service/ipFamilies"),
            ({"service": {"ipFamilies": ["IPv4", "IPv6"]}}, "service.ipFamilyPolicy has to be PreferDualStack or"),
        ):
            with self.assertRaisesRegex(HelmRefusal, re.escape(wanted), msg=str(values)):
                helm(values)

    def test_its_versions_are_the_proxys(self) -> None:
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        self.assertEqual((chart["version"], chart["appVersion"]), (__version__, __version__))

    def test_each_value_has_its_schema(self) -> None:
        values = yaml.safe_load((CHART / "values.yaml").read_text())
        schema = json.loads((CHART / "values.schema.json").read_text())
        self.assertEqual(set(values) | {"global"}, set(schema["properties"]))
        for key, value in values.items():
            properties = schema["properties"][key].get("properties")
            if properties:
                self.assertEqual(set(value), set(properties), key)

    def test_the_settings_that_it_takes_are_those_that_there_are(self) -> None:
        schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["settings"]
        self.assertEqual(schema["propertyNames"]["enum"], [setting.metadata["variable"] for setting in fields(Settings)])

    def test_the_notes_say_where_clients_connect(self) -> None:
        rendered, _ = helm({"nsPrefix": "team-"}, release="other", namespace="elsewhere")
        self.assertIn(
            "begin with team-. Their clients connect to other.elsewhere.svc:6379", rendered["redisproxy/templates/NOTES.txt"]
        )

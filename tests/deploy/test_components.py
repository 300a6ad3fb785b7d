"""Tests the components that an overlay chooses from, the overlay to copy, and the connections that
the network policies allow.
"""

from __future__ import annotations

import ipaddress
import re
import textwrap
import unittest
from pathlib import Path

import yaml
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock

from redisproxy import __version__
from redisproxy.listen.endpoints import Listening
from redisproxy.tenants.allocation import TENANT_LABEL

from .documents import (
    BASE,
    CHOICES,
    COMPONENTS,
    DEPLOY,
    EXAMPLE,
    PRODUCTION,
    START,
    documented,
    documents,
    environment,
    kustomized,
    load,
    name,
    only,
    settings_of,
    started_with,
    validate,
    with_components,
)


class ComponentTests(unittest.TestCase):
    """The components that an overlay may choose, and the overlay to copy."""

    def test_each_alone_and_all_together_are_valid(self) -> None:
        for chosen in (*((choice,) for choice in CHOICES), tuple(CHOICES)):
            for document in with_components(*chosen):
                validate(document)

    def test_the_overlays_know_all_of_them(self) -> None:
        for overlay in (START, PRODUCTION):
            text = (overlay / "kustomization.yaml").read_text()
            self.assertEqual(sorted(re.findall(r"- \.\./\.\./components/([a-z-]+)\n", text)), CHOICES)

    def test_the_start_is_the_base_with_an_image(self) -> None:
        found = kustomized(START)
        (container,) = only("Deployment", found)["spec"]["template"]["spec"]["containers"]
        self.assertEqual(container["image"], f"registry.example.com/redisproxy:{__version__}")
        container["image"] = f"redisproxy:{__version__}"
        self.assertEqual(sorted(found, key=name), sorted(documents(BASE), key=name))

    def test_the_start_takes_each_component_by_its_line(self) -> None:
        """As docs/install.md says: without the # before it."""
        for choice in CHOICES:
            found = started_with(choice)
            self.assertEqual({name(one) for one in found}, {name(one) for one in with_components(choice)}, choice)

    def test_the_policy_for_a_redis_outside_is_as_the_page_says(self) -> None:
        parts = (DEPLOY.parent / "docs/install.md").read_text().split("\n\n")
        _, block = (textwrap.dedent(part) for part in parts if part.startswith("    patches:"))
        found = started_with("network-policy", yaml.safe_load(block)["patches"])
        (policy,) = (document for document in found if document["kind"] == "NetworkPolicy")
        validate(policy)
        self.assertEqual(policy["metadata"]["namespace"], "redisproxy")
        peers = [peer for rule in policy["spec"]["egress"] for peer in rule["to"]]
        self.assertIn({"ipBlock": {"cidr": "203.0.113.7/32"}}, peers)

    def test_the_policy_for_a_prometheus_elsewhere_is_as_the_page_says(self) -> None:
        parts = (DEPLOY.parent / "docs/install.md").read_text().split("\n\n")
        block, _ = (textwrap.dedent(part) for part in parts if part.startswith("    patches:"))
        for component in ("monitoring", "network-policy"):
            found = started_with(component, yaml.safe_load(block)["patches"])
            policy = next(document for document in found if name(document) == ("NetworkPolicy", "redisproxy", "redisproxy"))
            validate(policy)
            self.assertEqual(policy["spec"]["ingress"][-1]["from"], [{"ipBlock": {"cidr": "10.0.1.0/24"}}])

    def test_the_overlay(self) -> None:
        found = kustomized(PRODUCTION)
        for document in found:
            validate(document)
        (container,) = only("Deployment", found)["spec"]["template"]["spec"]["containers"]
        self.assertEqual(container["image"], f"registry.example.com/redisproxy:{__version__}")
        self.assertEqual(container["resources"]["requests"]["cpu"], "500m")
        self.assertEqual(settings_of(found).ns_prefix, "tenant-")
        # The base's variables are still there, although a patch of a list could replace them.
        self.assertLessEqual(environment(only("Deployment")).keys(), environment(only("Deployment", found)).keys())
        kinds = {document["kind"] for document in found}
        self.assertLessEqual(
            {"HorizontalPodAutoscaler", "NetworkPolicy", "ServiceMonitor", "PrometheusRule", "PodDisruptionBudget"}, kinds
        )

    def test_what_the_pages_about_load_balancers_and_meshes_have_is_valid(self) -> None:
        found = [document for block in documented("load-balancers.md") for document in load(block)]
        self.assertEqual([document["kind"] for document in found], ["Service", "NetworkPolicy"])
        for document in found:
            validate(document)
            selects = document["spec"].get("selector") or document["spec"]["podSelector"]["matchLabels"]
            self.assertEqual(selects, only("Deployment")["spec"]["selector"]["matchLabels"])
        istio, linkerd = (with_components("tls", "network-policy", patch=block) for block in documented("meshes.md"))
        for found in (istio, linkerd):
            for document in found:
                validate(document)
            self.assertEqual(environment(only("Deployment", found)), environment(only("Deployment", with_components("tls"))))
        ports = {port["name"]: port for port in only("Service", istio)["spec"]["ports"]}
        self.assertEqual((ports["redis"]["appProtocol"], ports["redis"]["targetPort"]), ("tcp", "redis"))
        self.assertEqual(ports.keys(), {"redis", "redis-tls"})

    def test_the_autoscaler_alone_says_how_many(self) -> None:
        found = with_components("autoscaling")
        deployment = only("Deployment", found)
        self.assertNotIn("replicas", deployment["spec"])
        scaler = only("HorizontalPodAutoscaler", found)
        self.assertEqual(scaler["spec"]["scaleTargetRef"]["name"], deployment["metadata"]["name"])
        # With a minimum of one pod, none would run for a moment while its node is drained.
        self.assertGreaterEqual(scaler["spec"]["minReplicas"], 2)

    def test_the_token_is_one_for_who_asks_and_who_answers(self) -> None:
        found = with_components("monitoring")
        pod = only("Deployment", found)["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        (mount,) = container["volumeMounts"]
        (volume,) = pod["volumes"]
        self.assertEqual((mount["name"], mount["readOnly"]), (volume["name"], True))
        path = Path(environment(only("Deployment", found))["REDISPROXY_STATUS_TOKEN_FILE"])
        self.assertEqual(str(path.parent), mount["mountPath"])
        (endpoint,) = only("ServiceMonitor", found)["spec"]["endpoints"]
        self.assertEqual(
            endpoint["authorization"]["credentials"], {"name": volume["secret"]["secretName"], "key": path.name}
        )
        # The token is never in the manifests.
        self.assertEqual([document for document in found if document["kind"] == "Secret"], [])

    def test_prometheus_finds_the_pods_and_the_job_has_its_name(self) -> None:
        found = with_components("monitoring")
        monitor = only("ServiceMonitor", found)["spec"]
        (service,) = (
            document
            for document in found
            if document["kind"] == "Service"
            and monitor["selector"]["matchLabels"].items() <= document["metadata"]["labels"].items()
        )
        self.assertEqual(service["metadata"]["labels"][monitor["jobLabel"]], "redisproxy")
        (port,) = service["spec"]["ports"]
        self.assertEqual(port["name"], monitor["endpoints"][0]["port"])
        pod = only("Deployment", found)["spec"]["template"]
        self.assertEqual(service["spec"]["selector"], pod["metadata"]["labels"])
        self.assertIn(port["targetPort"], [exposed["name"] for exposed in pod["spec"]["containers"][0]["ports"]])
        # Pods that are not ready matter most. The label `namespace` is the tenant's.
        self.assertIs(service["spec"]["publishNotReadyAddresses"], True)
        self.assertIs(monitor["endpoints"][0]["honorLabels"], True)

    def test_narrow_rbac_leaves_no_right_to_the_secrets_of_all(self) -> None:
        found = with_components("narrow-rbac")
        self.assertEqual([name(d) for d in found if d["metadata"]["name"] == "redisproxy-secrets"], [])
        rules = [rule for d in found if d["kind"] == "ClusterRole" for rule in d["rules"]]
        self.assertEqual(rules, [{"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list", "watch"]}])
        settings = settings_of(found)
        self.assertEqual((settings.watch, settings.refresh), (False, 60))
        role, binding = load((COMPONENTS / "narrow-rbac/tenant.yaml").read_text())
        for document in (role, binding):
            validate(document)
            self.assertNotIn("namespace", document["metadata"])  # kubectl -n sets it
        self.assertEqual(role["rules"], [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}])
        self.assertEqual((binding["roleRef"]["kind"], binding["roleRef"]["name"]), ("Role", role["metadata"]["name"]))
        self.assertEqual(binding["subjects"][0]["namespace"], only("ServiceAccount")["metadata"]["namespace"])

    def test_the_ca_is_mounted_where_the_proxy_reads_it(self) -> None:
        deployment = only("Deployment", with_components("redis-ca", "monitoring"))
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"] for volume in deployment["spec"]["template"]["spec"]["volumes"]}
        self.assertEqual(set(mounts.values()), volumes)
        for variable in ("REDISPROXY_REDIS_CA", "REDISPROXY_STATUS_TOKEN_FILE"):
            self.assertIn(str(Path(environment(deployment)[variable]).parent), mounts)

    def test_tls_is_beside_the_plain_port(self) -> None:
        found = with_components("tls")
        deployment = only("Deployment", found)
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        exposed = {port["name"]: port["containerPort"] for port in container["ports"]}
        self.assertEqual(exposed, {"redis": 6379, "status": 9180, "redis-tls": 6380})
        service = only("Service", found)["spec"]
        self.assertEqual({port["port"]: port["targetPort"] for port in service["ports"]}, {6379: "redis", 6380: "redis-tls"})
        plain, tls = settings_of(found).listen
        self.assertEqual(plain, "tcp:6379")
        (mount,) = container["volumeMounts"]
        for file in re.findall(r"Key=([^:]+)", tls):
            self.assertEqual(str(Path(file).parent), mount["mountPath"])

    def test_the_proxy_listens_for_both_families(self) -> None:
        for chosen, ports in ((("dual-stack",), [6379]), (("dual-stack-tls", "monitoring"), [6379, 6380])):
            found = with_components(*chosen)
            (service,) = (d["spec"] for d in found if name(d) == ("Service", "redisproxy", "redisproxy"))
            self.assertEqual(service["ipFamilyPolicy"], "PreferDualStack")
            self.assertEqual(sorted(port["port"] for port in service["ports"]), ports)
            settings = settings_of(found)
            reactor = MemoryReactorClock()
            Listening(reactor, (*settings.listen, settings.status)).open(Factory())
            opened = [(port, interface) for port, _, _, interface in reactor.tcpServers]
            self.assertEqual(opened, [(port, "::") for port in (*ports, 9180)])

    def test_dual_stack_with_tls_is_one_component(self) -> None:
        """Each of the two sets REDISPROXY_LISTEN, and the last one wins, in either order."""
        whole = settings_of(with_components("dual-stack-tls")).listen
        self.assertEqual(len(whole), 2)
        for order in (("dual-stack", "tls"), ("tls", "dual-stack")):
            self.assertNotEqual(settings_of(with_components(*order)).listen, whole)


class PolicyTestCase(unittest.TestCase):
    """Which connections the policies allow, by the rules of Kubernetes."""

    #: Those in force besides the base.
    components: tuple[str, ...] = ()

    #: Labels of namespaces, and of the pods in them.
    PLACES = {
        "tenant": ({"kubernetes.io/metadata.name": "tenant-example", "redisproxy/tenant": "true"}, {"app": "web"}),
        "other": ({"kubernetes.io/metadata.name": "other"}, {"app.kubernetes.io/name": "redisproxy"}),
        "monitoring": ({"kubernetes.io/metadata.name": "monitoring"}, {"app": "prometheus"}),
        "proxy": ({"kubernetes.io/metadata.name": "redisproxy"}, {"app.kubernetes.io/name": "redisproxy"}),
        "beside the proxy": ({"kubernetes.io/metadata.name": "redisproxy"}, {"app": "debug"}),
        "redis": ({"kubernetes.io/metadata.name": "redis"}, {"app.kubernetes.io/name": "redis"}),
        "beside redis": ({"kubernetes.io/metadata.name": "redis"}, {"app": "debug"}),
        "dns": ({"kubernetes.io/metadata.name": "kube-system"}, {"k8s-app": "kube-dns"}),
    }

    def setUp(self) -> None:
        self.policies = [d for d in with_components(*self.components) if d["kind"] == "NetworkPolicy"]

    def matches(self, selector: dict | None, labels: dict) -> bool:
        self.assertLessEqual(set(selector or {}), {"matchLabels"})
        return (selector or {}).get("matchLabels", {}).items() <= labels.items()

    def peer_is(self, peer: dict, place: str, own_namespace: str) -> bool:
        if "ipBlock" in peer:
            return False
        namespace, pod = self.PLACES[place]
        if "namespaceSelector" not in peer:
            return namespace["kubernetes.io/metadata.name"] == own_namespace and self.matches(peer["podSelector"], pod)
        return self.matches(peer["namespaceSelector"], namespace) and self.matches(peer.get("podSelector"), pod)

    def allows(self, direction: str, of: str, place: str, port: int, protocol: str = "TCP") -> bool:
        """Returns whether a pod at `of` accepts connections from a place (Ingress), or may connect
        to it (Egress).
        """
        namespace, pod = self.PLACES[of]
        own = namespace["kubernetes.io/metadata.name"]
        applying = [
            policy["spec"]
            for policy in self.policies
            if policy["metadata"]["namespace"] == own
            and self.matches(policy["spec"]["podSelector"], pod)
            and direction in policy["spec"]["policyTypes"]
        ]
        peers = {"Ingress": "from", "Egress": "to"}[direction]
        return not applying or any(
            (peers not in rule or any(self.peer_is(peer, place, own) for peer in rule[peers]))
            and any(
                open_["port"] <= port <= open_.get("endPort", open_["port"]) and open_["protocol"] == protocol
                for open_ in rule["ports"]
            )
            for spec in applying
            for rule in spec[direction.lower()]
        )

    def who(self, direction: str, of: str, port: int, protocol: str = "TCP") -> set[str]:
        return {place for place in self.PLACES if self.allows(direction, of, place, port, protocol)}


class BasePolicyTests(PolicyTestCase):
    """The base closes the status port, and nothing else."""

    def test_only_monitoring_reaches_the_status_port(self) -> None:
        (container,) = only("Deployment")["spec"]["template"]["spec"]["containers"]
        (port,) = (port for port in container["ports"] if port["name"] == "status")
        self.assertEqual(self.who("Ingress", "proxy", port["containerPort"]), {"monitoring"})

    def test_all_other_ports_stay_open(self) -> None:
        """Also those of a mesh: 15008 is Istio's, 4143 Linkerd's."""
        for port in (1, 4143, 6379, 6380, 6390, 9179, 9181, 15008, 65535):
            self.assertEqual(self.who("Ingress", "proxy", port), set(self.PLACES), port)

    def test_the_ports_for_clients_need_no_range(self) -> None:
        (policy,) = self.policies
        for rule in policy["spec"]["ingress"]:
            rule["ports"] = [port for port in rule["ports"] if "endPort" not in port]
        for name_ in ("redis", "redis-tls"):
            (port,) = (
                port["port"] for port in only("Service", with_components("tls"))["spec"]["ports"] if port["name"] == name_
            )
            self.assertEqual(self.who("Ingress", "proxy", port), set(self.PLACES))

    def test_what_leaves_the_pod_is_not_bounded(self) -> None:
        self.assertEqual(self.who("Egress", "proxy", 6379), set(self.PLACES))

    def test_redis_is_as_before(self) -> None:
        self.assertEqual(self.who("Ingress", "redis", 6379), set(self.PLACES))


class NetworkPolicyTests(PolicyTestCase):
    """The component takes the place of the base's policy: policies only ever allow more."""

    components = ("network-policy",)

    def test_who_reaches_the_proxy(self) -> None:
        for port in (6379, 6380):
            self.assertEqual(self.who("Ingress", "proxy", port), {"tenant"})
        self.assertEqual(self.who("Ingress", "proxy", 9180), {"monitoring"})
        self.assertEqual(self.who("Ingress", "proxy", 22), set())

    def test_who_reaches_redis(self) -> None:
        for port in (6379, 26379):
            self.assertEqual(self.who("Ingress", "redis", port), {"proxy", "redis"})
        self.assertEqual(self.who("Ingress", "redis", 16379), set())

    def test_what_the_proxy_reaches(self) -> None:
        self.assertEqual(self.who("Egress", "proxy", 6379), {"redis"})
        self.assertEqual(self.who("Egress", "proxy", 26379), {"redis"})
        for protocol in ("UDP", "TCP"):
            self.assertEqual(self.who("Egress", "proxy", 53, protocol), {"dns"})
        self.assertEqual(self.who("Egress", "proxy", 80), set())

    def test_the_api_server_is_reached_and_the_metadata_service_is_not(self) -> None:
        (proxy,) = (policy["spec"] for policy in self.policies if policy["metadata"]["namespace"] == "redisproxy")
        (rule,) = (rule for rule in proxy["egress"] if any("ipBlock" in peer for peer in rule["to"]))
        self.assertEqual({port["port"] for port in rule["ports"]}, {443, 6443})

        def reached(address: str) -> bool:
            found = ipaddress.ip_address(address)
            return any(
                found in ipaddress.ip_network(block["cidr"])
                and not any(found in ipaddress.ip_network(left_out) for left_out in block.get("except", ()))
                for block in (peer["ipBlock"] for peer in rule["to"])
            )

        self.assertTrue(reached("10.96.0.1"))
        self.assertTrue(reached("fd00::1"))
        self.assertFalse(reached("169.254.169.254"))

    def test_the_label_of_tenants_is_one_everywhere(self) -> None:
        """The policy, the chart, the example, `redisproxy enroll` and the documents all use the
        same label.
        """
        label = dict([TENANT_LABEL])
        (tenant,) = (d for d in documents(EXAMPLE) if d["kind"] == "Namespace")
        self.assertEqual(tenant["metadata"]["labels"], label)
        policies = [d for d in with_components("network-policy") if d["kind"] == "NetworkPolicy"]
        selectors = [
            peer["namespaceSelector"]["matchLabels"]
            for policy in policies
            for rule in policy["spec"]["ingress"]
            for peer in rule["from"]
            if "namespaceSelector" in peer
        ]
        self.assertIn(label, selectors)
        values = load((DEPLOY / "helm/redisproxy/values.yaml").read_text())[0]
        self.assertEqual(values["networkPolicy"]["tenantLabels"], label)
        for page in ("README.md", "docs/install.md", "docs/operate.md"):
            self.assertIn("redisproxy/tenant=true", (DEPLOY.parent / page).read_text(), page)

"""The commands of README.md and docs/ that install and recover, on a fresh Kubernetes API server.

The lines are taken out of the pages and run by bash. Only the address of Redis is another one. What
needs nodes is done by `kubectl_without_nodes`: there are none here, so the tests start the proxy as
a process, with the environment and the token that its pods would have. Run by `make test-cluster`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import redis

from ..deploy.documents import KUBERNETES, ROOT, environment, kubectl
from ..support.proxy import PREFIX, ProxyProcess, plain_environment
from ..support.servers import BOUNDED, RedisServer, free_port, release, valkey
from ..support.waiting import LIMIT, until
from .apiserver import KubeApiServer, wanted

README, INSTALL = ROOT / "README.md", ROOT / "docs/install.md"
RECOVERY, STORE = ROOT / "docs/disaster-recovery.md", ROOT / "docs/external-secrets.md"
IMAGE = "registry.example.com/redisproxy:0.1.0"
ACCOUNT = "system:serviceaccount:redisproxy:redisproxy"
#: Of a code block: all lines that are indented by four or more, and empty lines between them.
_BLOCK = re.compile(r"^ {4,}\S.*\n(?:(?: {4,}.*)?\n(?=(?: {4,}.*)?\n| {4,}))*(?: {4,}.*\n)?", re.MULTILINE)


def blocks(page: Path, heading: str) -> list[str]:
    """The code blocks of a section, without those of its subsections, as they are typed."""
    parts = re.split(r"\n##+ (.*)\n", page.read_text())
    section = parts[parts.index(heading) + 1]
    return [textwrap.dedent(block) for block in _BLOCK.findall(section)]


class TypedTests(unittest.TestCase):
    """A checkout in which lines are typed, a cluster without nodes, and a Redis."""

    def setUp(self) -> None:
        wanted()
        self.settings = {"kubectl": kubectl()}
        self.api = KubeApiServer()
        self.addCleanup(self.api.stop)
        self.api.start()
        self.server = RedisServer(valkey, *BOUNDED).start()
        self.addCleanup(self.server.stop)
        directory = tempfile.TemporaryDirectory(prefix="redisproxy-test-")
        self.addCleanup(directory.cleanup)
        self.checkout = Path(directory.name).resolve()
        shutil.copytree(KUBERNETES, self.checkout / "deploy/kubernetes")
        self.programs = self.checkout / ".programs"
        self.programs.mkdir()
        self.settings["logs"] = str(self.checkout)
        self.program("docker", f'printf "%s\\n" "$*" >>{self.checkout}/docker.log')
        self.program("kubectl", f'exec {sys.executable} {ROOT}/tests/cluster/kubectl_without_nodes.py "$@"')
        self.program("redisproxy", f"""exec {sys.executable} -c 'from redisproxy.cli.main import main; main()' "$@\"""")

    def program(self, name: str, line: str) -> None:
        """Makes a program of the test's own, which is found before the machine's."""
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)

    def try_to_type(self, lines: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs lines in bash, which stops at the first one that fails."""
        config = self.checkout / "without-nodes.json"
        config.write_text(json.dumps(self.settings))
        variables = plain_environment()
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", lines],
            cwd=self.checkout,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=5 * LIMIT,
            env={
                **variables,
                "PATH": f"{self.programs}:{variables['PATH']}",
                "HOME": str(self.checkout),
                "KUBECONFIG": str(self.api.kubeconfig),
                "NS_PREFIX": PREFIX,
                "WITHOUT_NODES": str(config),
            },
        )

    def type(self, lines: str, stdin: str = "") -> str:
        """What the lines print on the standard output. All of them have to succeed."""
        ran = self.try_to_type(lines, stdin)
        self.assertEqual(ran.returncode, 0, f"{lines}\n{ran.stdout}\n{ran.stderr}")
        self.assertNotIn(self.server.password, ran.stdout + ran.stderr)
        return ran.stdout

    def start_the_proxy(self) -> ProxyProcess:
        """As the kubelet would: with what the Deployment says, and the token of its account."""
        status, deployment = self.api.request("GET", "/apis/apps/v1/namespaces/redisproxy/deployments/redisproxy")
        self.assertEqual(status, 200, deployment)
        account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
        kubeconfig = self.api.write_kubeconfig("pod", self.api.account_token("redisproxy", account))
        pod = {**environment(deployment), "KUBECONFIG": str(kubeconfig)}
        del pod["KUBERNETES_SERVICE_HOST"]  # the API server is not at that address here
        self.assertEqual(pod["NS_PREFIX"], PREFIX, "which is also an option of the process")
        port = free_port()
        self.addCleanup(release, port)
        environ = {**pod, "REDISPROXY_DRAIN_DELAY": "0"}
        proxy = ProxyProcess("--status", f"tcp:{port}:interface=127.0.0.1", environ=environ)
        self.addCleanup(proxy.stop)
        proxy.ready()
        self.settings |= {"pod": pod, "service": f"127.0.0.1:{proxy.port}", "status": f"http://127.0.0.1:{port}"}
        return proxy

    def install(self) -> None:
        """Steps 2 and 3 of the README."""
        variables, _, master, deploy, *_ = blocks(README, "Install it in a cluster")
        self.variables = re.sub("(?m)^REDIS=.*", f"REDIS=redis://127.0.0.1:{self.server.port}/0", variables)
        self.type(self.variables + master, f"{self.server.password}\n")
        self.type(self.variables + deploy)

    def url(self, namespace: str) -> str:
        """A tenant's connection string."""
        path = "{.data.redis-connection-string}"
        return self.type(f"kubectl -n {namespace} get secret redis-secret-master -o jsonpath='{path}' | base64 -d")

    def client(self, proxy: ProxyProcess, namespace: str) -> redis.Redis:
        url = urlsplit(self.url(namespace))
        client = redis.Redis(port=proxy.port, db=int(url.path[1:]), password=url.password, socket_timeout=LIMIT)
        self.addCleanup(client.close)
        return client


class ReadmeTests(TypedTests):
    def test_an_existing_cluster_in_ten_minutes(self) -> None:
        found = shutil.which("redis-cli")
        if found is None:
            self.skipTest("redis-cli is not installed: apt-get install redis-tools")
        self.program("valkey-cli", f'exec {found} "$@"')  # the image has this one
        variables, build, _, _, check, tenant, ping, forward, token = blocks(README, "Install it in a cluster")
        self.assertEqual(re.findall(r"(?m)^(\w+)=", variables), ["REGISTRY", "NS_PREFIX", "NAMESPACE", "REDIS"])
        self.type(variables + build)
        built = (self.checkout / "docker.log").read_text().splitlines()
        self.assertEqual(built, [f"build -t {IMAGE} .", f"push {IMAGE}"])
        self.install()
        image = "{.spec.template.spec.containers[0].image}"
        self.assertEqual(self.type(f"kubectl -n redisproxy get deployment redisproxy -o jsonpath='{image}'"), IMAGE)
        proxy = self.start_the_proxy()
        output = self.type(variables + check)
        self.assertIn("successfully rolled out", output)
        self.assertEqual(output.splitlines()[-1], "no problems, 1 warning", "there is no tenant yet")
        self.type(variables + tenant)
        self.assertEqual(self.type(variables + ping).splitlines()[-1], "PONG")
        self.assertTrue(self.client(proxy, "team-blue").set("greeting", "hello"))
        index = int(urlsplit(self.url("team-blue")).path[1:])
        self.assertEqual(self.server.client(index).get("greeting"), b"hello")
        # kubectl port-forward reaches the pod's 127.0.0.1, where the page takes no token.
        self.assertEqual(forward.strip(), "kubectl -n redisproxy port-forward deploy/redisproxy 9180")
        with urlopen(self.settings["status"], timeout=LIMIT) as page:
            self.assertIn("team-blue", page.read().decode())
        self.type(blocks(INSTALL, "monitoring")[-1])
        self.assertRegex(self.type(token), r"^[0-9a-f]{64}$")

    def test_a_pod_may_not_write(self) -> None:
        """As the README says: 403."""
        self.install()
        self.start_the_proxy()
        self.type("kubectl create namespace team-blue")
        ran = self.try_to_type("kubectl -n redisproxy exec deploy/redisproxy -- redisproxy enroll team-blue")
        self.assertEqual(ran.returncode, 1, ran.stdout)
        self.assertIn("403", ran.stderr)


class InstallTests(TypedTests):
    """docs/install.md."""

    #: What the Prometheus Operator brings, as far as it matters here.
    def define(self, kind: str, plural: str) -> None:
        schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
        definition = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.monitoring.coreos.com"},
            "spec": {
                "group": "monitoring.coreos.com",
                "names": {"kind": kind, "plural": plural},
                "scope": "Namespaced",
                "versions": [version],
            },
        }
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        status, answer = self.api.request("POST", path, definition)
        self.assertEqual(status, 201, answer)
        until(lambda: self.api.request("GET", f"/apis/monitoring.coreos.com/v1/{plural}")[0] == 200, plural)

    def add(self, component: str) -> None:
        """Takes the # away before its line."""
        file = self.checkout / "deploy/kubernetes/overlays/mine/kustomization.yaml"
        line = f"- ../../components/{component}\n"
        self.assertIn(f"# {line}", file.read_text())
        file.write_text(file.read_text().replace(f"# {line}", line))
        self.type("kubectl apply -k deploy/kubernetes/overlays/mine")

    def replicas(self) -> str:
        return self.type("kubectl -n redisproxy get deployment redisproxy -o jsonpath='{.spec.replicas}'")

    def can_list_secrets(self, namespace: str) -> bool:
        ran = self.try_to_type(f"kubectl auth can-i list secrets -n {namespace} --as {ACCOUNT}")
        self.assertIn(ran.stdout.strip(), ("yes", "no"), ran.stderr)
        return ran.stdout.strip() == "yes"

    def test_each_component_by_its_commands(self) -> None:
        self.install()
        self.type("kubectl create namespace team-blue; kubectl create namespace other")
        # monitoring
        missing, chart, token = blocks(INSTALL, "monitoring")
        self.assertEqual(self.try_to_type(missing).returncode, 1)
        self.assertIn("helm upgrade --install", chart)
        self.define("ServiceMonitor", "servicemonitors")
        self.define("PrometheusRule", "prometheusrules")
        self.type(missing + token)
        self.add("monitoring")
        self.type("kubectl -n redisproxy get servicemonitor,prometheusrule redisproxy")
        # network-policy
        label, patches = blocks(INSTALL, "network-policy")
        self.assertTrue(patches.startswith("patches:"))
        self.type(label)
        labelled = self.type("kubectl get namespaces -l redisproxy/tenant=true -o name")
        self.assertEqual(labelled, "namespace/team-blue\n")
        self.type(blocks(INSTALL, "A Redis for a trial")[0].splitlines()[1])  # its namespace
        self.add("network-policy")
        self.type("kubectl -n redis get networkpolicy redisproxy-only")
        # autoscaling: the API server is too old for the autoscaler itself
        self.assertEqual(self.replicas(), "2")
        self.add("autoscaling")
        self.assertEqual(self.replicas(), "1", "as the page says")
        # narrow-rbac
        grant, revoke = blocks(INSTALL, "narrow-rbac")
        self.assertTrue(self.can_list_secrets("other"))
        self.type(grant)
        self.add("narrow-rbac")
        self.assertTrue(self.can_list_secrets("other"), "kubectl takes nothing away by itself")
        self.type(revoke)
        until(lambda: not self.can_list_secrets("other"), "the wide right is gone")
        self.assertTrue(self.can_list_secrets("team-blue"))
        # tls, redis-ca
        secret, certificate = blocks(INSTALL, "tls")
        self.type(certificate + secret)
        self.add("tls")
        (config,) = blocks(INSTALL, "redis-ca")
        self.type(f"cp tls.crt ca.crt\n{config}")
        self.add("redis-ca")

    def test_the_production_overlay(self) -> None:
        """In a fresh cluster it fails for want of what the page names."""
        (commands,) = blocks(INSTALL, "All at once: the production overlay")
        ran = self.try_to_type(commands)
        self.assertNotEqual(ran.returncode, 0)
        for text in ('no matches for kind "ServiceMonitor"', 'namespaces "redis" not found'):
            self.assertIn(text, ran.stderr)
        self.define("ServiceMonitor", "servicemonitors")
        self.define("PrometheusRule", "prometheusrules")
        self.type(f"kubectl create namespace redis\n{commands.splitlines()[-1]}")

    def test_a_redis_for_a_trial(self) -> None:
        (commands,) = blocks(INSTALL, "A Redis for a trial")
        self.type(commands, "pw\n")
        selector = "{.spec.selector} {.spec.ports[0].port}"
        output = self.type(f"kubectl -n redis get service redis -o jsonpath='{selector}'")
        self.assertEqual(output, '{"app.kubernetes.io/name":"redis"} 6379')

    def test_the_master_secret_is_changed(self) -> None:
        """As docs/disaster-recovery.md says."""
        _, commands = blocks(RECOVERY, "The master secret is lost")[0].splitlines()
        self.install()
        changed = commands.replace("HOST", "elsewhere") + " --dry-run=client --output yaml | kubectl apply -f -"
        self.type(f"PASSWORD=other\n{changed}")
        path = "{.data.redis-connection-string}"
        output = self.type(f"kubectl -n kube-system get secret redis-secret-master -o jsonpath='{path}' | base64 -d")
        self.assertEqual(output, "redis://elsewhere:6379/0")


class RecoveryTests(TypedTests):
    """docs/disaster-recovery.md, and what it shares with docs/external-secrets.md."""

    def setUp(self) -> None:
        super().setUp()
        found = shutil.which("redis-cli")
        if found is None:
            self.skipTest("redis-cli is not installed: apt-get install redis-tools")
        # Straight to Redis.
        line = f'REDISCLI_AUTH={self.server.password} exec {found} -p {self.server.port} "$@"'
        self.program("redis-cli", line)
        self.install()
        for name in ("team-blue", "team-green"):
            self.type(f"kubectl create namespace {name}\nredisproxy enroll {name}")
        self.proxy = self.start_the_proxy()
        for name in ("team-blue", "team-green"):
            until(lambda: self.logs_in(name), f"{name} is served", 4 * LIMIT)  # noqa: B023
            self.client(self.proxy, name).set("whose", name)

    def logs_in(self, name: str) -> bool:
        try:
            return self.client(self.proxy, name).ping()
        except redis.RedisError:
            return False

    def test_all_secrets_are_lost(self) -> None:
        saved, kept = blocks(RECOVERY, "What to save")
        self.type(saved + kept)
        indexes = {
            tenant["namespace"]: tenant["index"]
            for tenant in json.loads((self.checkout / "tenants.json").read_text())["tenants"]
        }
        self.assertEqual(set(indexes), {"team-blue", "team-green"})
        before = {name: self.url(name) for name in indexes}
        stop, find, enrol, start = blocks(RECOVERY, "All secrets of tenants are lost")
        self.type(stop)
        self.proxy.stop()
        self.type("".join(f"kubectl -n {name} delete secret redis-secret-master\n" for name in indexes))
        self.type(find)
        found = dict(line.split() for line in (self.checkout / "indexes").read_text().splitlines())
        self.assertEqual(found, {name: str(index) for name, index in indexes.items()})
        self.type(enrol)
        self.proxy = self.start_the_proxy()
        self.assertEqual(self.type(start).splitlines()[-1], "no problems")
        for name in indexes:
            self.assertNotEqual(self.url(name), before[name])
            self.assertEqual(self.client(self.proxy, name).get("whose"), name.encode())
        # The saved ones are as good: the old passwords are back.
        self.type("".join(f"kubectl -n {name} delete secret redis-secret-master\n" for name in indexes))
        self.try_to_type("kubectl create -f secrets.json")  # the master secret is there
        self.assertEqual({name: self.url(name) for name in indexes}, before)

    def test_databases_after_a_restore(self) -> None:
        self.type(blocks(RECOVERY, "What to save")[0])
        _, see, compare, move, _ = blocks(RECOVERY, "Redis is lost, and there is a backup")
        output = self.type(see)
        self.assertIn("db1:keys=1", output)
        self.assertRegex(output, "team-blue +1 +ok")
        self.assertEqual(self.type(compare), "")
        self.type(move.replace("3 7", "1 2").replace("-n 9", "-n 1"))
        self.assertEqual(self.client(self.proxy, "team-green").get("whose"), b"team-blue")
        self.assertEqual(self.server.client(1).dbsize(), 0)
        self.copy_one_database()

    def copy_one_database(self) -> None:
        backup = RedisServer().start()
        self.addCleanup(backup.stop)
        backup.client(3).mset({f"key {number}": number for number in range(250)})
        (command,) = blocks(RECOVERY, "One tenant lost its data")
        # The two hosts are ports here.
        self.program("redis-cli", f'REDISCLI_AUTH={backup.password} exec {shutil.which("redis-cli")} "$@"')
        command = command.replace("-h BACKUP", f"-p {backup.port}").replace("REDIS 6379", f"127.0.0.1 {self.server.port}")
        self.type(f"PASSWORD={self.server.password}\n{command}")
        self.assertEqual((self.server.client(3).dbsize(), backup.client(3).dbsize()), (250, 250))

    def test_the_old_password_for_a_day(self) -> None:
        """docs/external-secrets.md: only the first of the two secrets that rotate would write."""
        before = self.url("team-blue")
        (command,) = (block for block in blocks(STORE, "A change in the store") if "awk" in block)
        self.type(command)
        self.assertEqual(self.url("team-blue"), before)
        output = self.type("redisproxy tenants --output table")
        self.assertRegex(output, "redis-secret-temp-rotated-")
        # The password in the store changes now.
        after = before.replace(urlsplit(before).password, "changed-in-the-store")
        patch = json.dumps({"stringData": {"redis-connection-string": after}})
        self.type(f"kubectl -n team-blue patch secret redis-secret-master -p '{patch}'")
        until(lambda: self.logs_in("team-blue"), "the new password is good")
        url = urlsplit(before)
        with redis.Redis(port=self.proxy.port, password=url.password, socket_timeout=LIMIT) as client:
            self.assertTrue(client.ping())

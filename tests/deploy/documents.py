"""Deployed documents as data: manifests of a directory, the output of kubectl and Helm, and the
checks that each must pass.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Iterable
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

from redisproxy.settings import Settings

from .crds import SCHEMAS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
BASE = KUBERNETES / "base"
COMPONENTS = KUBERNETES / "components"
PRODUCTION = KUBERNETES / "overlays/production"
START = KUBERNETES / "overlays/start"
EXAMPLE = KUBERNETES / "example"
LOCAL = DEPLOY / "local"
CHART = DEPLOY / "helm/redisproxy"

#: The names of all components.
CHOICES = sorted(path.name for path in COMPONENTS.iterdir())

#: The oldest and the newest release of Kubernetes that the manifests are checked against.
RELEASES = ("1.27", "1.34")

#: Files that are no manifests of Kubernetes.
OTHERS = ("kustomization.yaml", "compose.yaml")


def load(text: str) -> list[dict]:
    return [document for document in yaml.safe_load_all(text) if document is not None]


def documents(directory: Path) -> list[dict]:
    """Returns the manifests in one directory's files."""
    return [
        document
        for path in sorted(directory.glob("*.yaml"))
        if path.name not in OTHERS
        for document in load(path.read_text())
    ]


def known_to_1_20() -> str:
    """Returns the base's manifests, without the fields and kinds that are newer than the API server
    of the tests.
    """
    found = [document for document in documents(BASE) if document["apiVersion"] != "policy/v1"]
    for document in found:
        if document["kind"] == "Deployment":
            for constraint in document["spec"]["template"]["spec"]["topologySpreadConstraints"]:
                del constraint["matchLabelKeys"]
        if document["kind"] == "NetworkPolicy":
            for rule in document["spec"]["ingress"]:
                rule["ports"] = [port for port in rule["ports"] if "endPort" not in port]
    return yaml.safe_dump_all(sorted(found, key=lambda document: document["kind"] != "Namespace"))


def name(document: dict) -> tuple[str, str, str]:
    """Returns (kind, namespace, name). The namespace is empty if there is none."""
    metadata = document["metadata"]
    return document["kind"], metadata.get("namespace", ""), metadata["name"]


def only(kind: str, found: list[dict] | None = None) -> dict:
    """Returns the one document of a kind. found: the documents to search; default: the base's."""
    (document,) = (document for document in found or documents(BASE) if document["kind"] == kind)
    return document


def tool(program: str, package: str) -> str:
    """Returns the path of a program, preferring this Python's environment. Skips the test if it is
    not installed.
    """
    beside = Path(sys.executable).parent / program
    path = str(beside) if beside.is_file() else shutil.which(program)
    if path is None:
        raise unittest.SkipTest(f"{program} is not installed: {package}")
    return path


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=180)


@functools.cache
def kubectl() -> str:
    path = tool("kubectl", "apt-get install kubernetes-client")
    version = json.loads(run(path, "version", "--client", "-o", "json").stdout)["clientVersion"]
    if (int(version["major"]), int(version["minor"].rstrip("+"))) < (1, 21):
        raise unittest.SkipTest(f"{version['gitVersion']} of kubectl is too old: components of kustomize take 1.21")
    return path


def _kustomized(directory: Path) -> str:
    rendered = run(kubectl(), "kustomize", str(directory))
    if rendered.returncode or rendered.stderr:  # a warning says that something is deprecated
        raise AssertionError(f"kubectl kustomize {directory}: {rendered.stderr}")
    return rendered.stdout


@functools.cache
def kustomized(directory: Path) -> list[dict]:
    """Returns kubectl's output for a directory."""
    return load(_kustomized(directory))


def documented(page: str) -> list[str]:
    """The manifests and patches in a page of docs/: a text for each block."""
    blocks = re.findall(r"(?<=\n\n)(?: {4}\S?[^\n]*\n|\n+(?= {4}))+", (ROOT / "docs" / page).read_text())
    plain = [re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in blocks]
    return [block for block in plain if block.startswith("apiVersion:")]


def with_components(*names: str, patch: str = "") -> list[dict]:
    """Returns the base with these components and a patch, as a site's own overlay combines them."""
    with tempfile.TemporaryDirectory(prefix="redisproxy-test-") as directory:
        there = os.path.relpath(KUBERNETES, Path(directory).resolve())
        overlay = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [f"{there}/base"],
            "components": [f"{there}/components/{name}" for name in names],
            "patches": [{"patch": patch}] if patch else [],
        }
        (Path(directory) / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
        return load(_kustomized(Path(directory)))


def started_with(component: str, patches: Iterable[dict] = ()) -> list[dict]:
    """What kubectl renders of a copy of `START` with the line of one component, and patches."""
    with tempfile.TemporaryDirectory(prefix="redisproxy-test-") as directory:
        copied = Path(directory).resolve() / "kubernetes"
        shutil.copytree(KUBERNETES, copied)
        file = copied / "overlays/start/kustomization.yaml"
        line = f"- ../../components/{component}\n"
        overlay = yaml.safe_load(file.read_text().replace(f"# {line}", line))
        overlay["patches"] += patches
        file.write_text(yaml.safe_dump(overlay))
        return load(_kustomized(file.parent))


def settings_of(found: list[dict]) -> Settings:
    """Returns the settings that the proxy reads from a rendered Deployment's environment, without
    those that name files.
    """
    variables = environment(only("Deployment", found))
    return Settings.read({}, {key: value for key, value in variables.items() if not value.startswith("/etc/")})


#: Runs in a process of its own, because Helm is a Go library with its own threads and signal
#: handlers.
_HELM = """
import json, sys
from helm_python import HelmError
from helm_python.chart import Chart, lint
path, values, name, namespace = sys.argv[1:]
values = json.loads(values)
try:
    rendered = Chart.load(path).render(values, name=name, namespace=namespace)
    report = lint(path, values, strict=True)
except HelmError as error:
    sys.exit(f"Helm: {error}")
print(json.dumps([rendered, report]))
"""


class HelmRefusal(Exception):
    """Helm does not render the chart with these values. The text gives the reason."""


def helm(
    values: dict | None = None, release: str = "redisproxy", namespace: str = "redisproxy"
) -> tuple[dict[str, str], list[str]]:
    """Returns (texts by template, findings of lint) for the chart. Raises HelmRefusal."""
    try:
        import helm_python  # noqa: F401 - tests whether it is installed
    except ImportError:
        raise unittest.SkipTest("helm-python-sdk has no wheel for this machine") from None
    ran = run(sys.executable, "-c", _HELM, str(CHART), json.dumps(values or {}), release, namespace)
    if ran.returncode:
        raise HelmRefusal(ran.stderr)
    rendered, report = json.loads(ran.stdout)
    findings = [message["error"] for message in report["messages"] if message["severity"] > 1] + report["errors"]
    return rendered, findings


def charted(values: dict | None = None, **options: str) -> list[dict]:
    """Returns the manifests of the chart. Raises AssertionError if lint finds something."""
    rendered, findings = helm(values, **options)
    if findings:
        raise AssertionError(f"helm lint: {findings}")
    return [document for path, text in rendered.items() if path.endswith(".yaml") for document in load(text)]


def validate(document: dict) -> None:
    """Validates a document with Kubernetes' own schemas. They are strict: an unknown field is an
    error. Raises ValidationError of the library that validates.
    """
    schema = SCHEMAS.get((document["apiVersion"], document["kind"]))
    try:
        if schema is not None:
            jsonschema.Draft202012Validator(schema).validate(document)
            return
        for release in RELEASES:
            # The library takes the newest schemas up to this release: those of another release
            # would test nothing.
            if kubernetes_validate.validate(document, release, strict=True) != release:
                raise AssertionError(f"there are no schemas of {release}")
    except Exception as error:
        error.add_note(str(name(document)))
        raise


def environment(document: dict) -> dict[str, str]:
    """Returns the environment that a Deployment sets, with the variables that Kubernetes adds to
    every pod.
    """
    (container,) = document["spec"]["template"]["spec"]["containers"]
    return {variable["name"]: variable["value"] for variable in container["env"]} | {
        "KUBERNETES_PORT": "tcp://10.0.0.1:443",
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    }


def plain_environment() -> dict[str, str]:
    """Returns an environment for programs of others."""
    return {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}

"""A kubectl for an API server that has no controllers and no nodes, and is of Kubernetes 1.20.

It passes all commands to the real kubectl, except those that need a node: `rollout status`, `exec`,
`wait` and `logs`. There it does what the kubelet would do, on this machine. It leaves out of
manifests what is newer than the API server.

Run as a program, with the real kubectl's arguments. The environment variable WITHOUT_NODES names a
JSON file:

- `kubectl`: path of the real one
- `status`: URL of the status endpoint of the proxy that runs in place of the Deployment's pods
- `pod`: the environment of such a pod
- `service`: HOST:PORT at which the proxy listens, in place of the Service's address
- `logs`: directory for what pods print
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import urlopen

import yaml

#: Seconds that a pod, or a roll-out, has.
LIMIT = 180


def main(arguments: list[str], settings: dict) -> int:
    words = [word for word in arguments if not word.startswith("-")]
    if arguments[:2] == ["apply", "-k"]:
        return apply(settings, arguments[2])
    if "rollout" in words:
        return rolled_out(settings)
    if "exec" in words:
        return execute(settings, arguments)
    if "wait" in words:
        return run_pod(settings, namespace(arguments), next(word[4:] for word in words if word.startswith("pod/")))
    if "logs" in words:
        print((Path(settings["logs"]) / words[-1]).read_text(), end="")
        return 0
    return subprocess.run([settings["kubectl"], *arguments]).returncode


def namespace(arguments: list[str]) -> str:
    return arguments[arguments.index("-n") + 1]


def read(settings: dict, *arguments: str) -> dict:
    """An object as the API server has it. Ends the program if there is none."""
    ran = subprocess.run([settings["kubectl"], "get", "-o", "json", *arguments], stdout=subprocess.PIPE)
    if ran.returncode:
        raise SystemExit(ran.returncode)
    return json.loads(ran.stdout)


def known_to_1_20(documents: list[dict]) -> list[dict]:
    """Without the kinds and the fields that are newer than the API server."""
    newer = ("policy/v1", "autoscaling/v2")
    found = [document for document in documents if document["apiVersion"] not in newer]
    for document in found:
        if document["kind"] == "Deployment":
            for constraint in document["spec"]["template"]["spec"].get("topologySpreadConstraints", ()):
                constraint.pop("matchLabelKeys", None)
    return sorted(found, key=lambda document: document["kind"] != "Namespace")


def apply(settings: dict, directory: str) -> int:
    rendered = subprocess.run([settings["kubectl"], "kustomize", directory], stdout=subprocess.PIPE, text=True)
    if rendered.returncode:
        return rendered.returncode
    documents = known_to_1_20([document for document in yaml.safe_load_all(rendered.stdout) if document])
    applied = subprocess.run([settings["kubectl"], "apply", "-f", "-"], input=yaml.safe_dump_all(documents), text=True)
    return applied.returncode


def rolled_out(settings: dict) -> int:
    """Waits until the proxy is ready, as the kubelet's probe would."""
    read(settings, "-n", "redisproxy", "deployment", "redisproxy")
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            with urlopen(f"{settings['status']}/readyz", timeout=LIMIT):
                print('deployment "redisproxy" successfully rolled out')
                return 0
        except URLError as error:
            if time.monotonic() > deadline:
                print(f"the proxy is not ready: {error}", file=sys.stderr)
                return 1
            time.sleep(0.1)


def execute(settings: dict, arguments: list[str]) -> int:
    """Runs a command with the environment of a pod of the Deployment."""
    read(
        settings,
        "-n",
        namespace(arguments),
        *arguments[arguments.index("exec") + 1].replace("deploy/", "deployment/").split("/"),
    )
    return subprocess.run(arguments[arguments.index("--") + 1 :], env={**os.environ, **settings["pod"]}).returncode


def run_pod(settings: dict, where: str, name: str) -> int:
    """Runs the command of a pod, with what its secrets say, and keeps what it prints."""
    (container,) = read(settings, "-n", where, "pod", name)["spec"]["containers"]
    environ = {"PATH": os.environ["PATH"]}
    for variable in container["env"]:
        reference = variable["valueFrom"]["secretKeyRef"]
        value = read(settings, "-n", where, "secret", reference["name"])["data"][reference["key"]]
        environ[variable["name"]] = to_the_proxy(base64.b64decode(value).decode(), settings["service"])
    ran = subprocess.run(container["command"], env=environ, stdout=subprocess.PIPE, text=True, timeout=LIMIT)
    (Path(settings["logs"]) / name).write_text(ran.stdout)
    print(f"pod/{name} condition met" if ran.returncode == 0 else f"pod/{name} ended with {ran.returncode}")
    return ran.returncode


def to_the_proxy(url: str, service: str) -> str:
    """A URL of the Service as one of the proxy: there is no DNS of the cluster here."""
    parts = urlsplit(url)
    if f"{parts.hostname}:{parts.port}" != "redisproxy.redisproxy.svc:6379":
        raise SystemExit(f"{parts.hostname}:{parts.port} is not the Service")
    return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{service}"))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:], json.loads(Path(os.environ["WITHOUT_NODES"]).read_text())))

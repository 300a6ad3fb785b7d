"""Where the API server is: kubeconfig, pods, TLS."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest import mock

from kubernetes.config import ConfigException

from redisproxy.sources import kubernetes_api
from redisproxy.sources.kubernetes import ClusterSource

from ..support.apiserver import TOKEN
from ..support.cluster_source import ClusterCase

PLANTED = "planted-secret"


class WhereItIsTests(ClusterCase):
    """kubeconfig, pods, TLS."""

    tls = True

    def pod_source(self, host: str = "127.0.0.1") -> ClusterSource:
        directory = self.api.service_account()
        # The port is that of the setting, whatever the pod's own variables say.
        environ = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "1", "KUBECONFIG": "/nonexistent"}
        return self.make_source(environ, port=self.api.port, service_account=directory)

    def test_kubeconfig_with_the_right_ca(self) -> None:
        self.assertGood()
        self.assertEqual(self.api.requests[0].authorization.lower(), f"bearer {TOKEN}")

    def test_an_unknown_ca(self) -> None:
        self.api.write_kubeconfig(self.api.directory / "kubeconfig", ca=False)
        self.assertUnreachable(f"^no answer from {self.api.url}: SSLError: .*issuer")
        self.assertEqual(self.asked, [])

    def test_in_a_pod(self) -> None:
        self.source = self.pod_source()
        self.assertGood()

    def test_in_a_pod_a_token_that_is_rotated_on_disk_is_taken_up(self) -> None:
        self.source = self.pod_source()
        self.assertGood()
        self.api.tokens = {"rotated"}
        self.assertUnreachable("401")
        self.api.service_account("rotated")
        self.assertGood()

    def test_in_a_pod_with_a_certificate_for_another_name(self) -> None:
        self.source = self.pod_source("localhost")
        self.assertUnreachable(f"^no answer from https://localhost:{self.api.port}: SSLError: .*localhost'$")
        self.assertEqual(self.asked, [])

    def test_in_a_pod_with_a_token_or_ca_that_is_not_there(self) -> None:
        self.source = self.pod_source()
        account = self.api.service_account()
        (account / "ca.crt").write_text("")
        self.assertUnreachable(f"^no access to the Kubernetes API: {account}: ca.crt is empty$")
        (account / "ca.crt").write_text("nonsense")
        self.assertUnreachable(f"^no answer from {self.api.url}: SSLError")
        (account / "ca.crt").unlink()
        self.assertUnreachable(f"{account}: there is no ca.crt$")
        self.api.service_account("")
        self.assertUnreachable(f"{account}: token is empty$")
        (account / "token").unlink()
        self.assertUnreachable(
            f"^no access to the Kubernetes API: this pod has no service account token at {account}/token, "
            "and there is no kubeconfig at /nonexistent; KUBECONFIG can name another$"
        )
        self.api.service_account()
        self.assertGood()

    def test_a_token_that_cannot_be_sent_is_not_repeated(self) -> None:
        self.source = self.pod_source()
        self.api.service_account(f"{PLANTED}\n{PLANTED}")
        self.assertNotIn(PLANTED, self.assertUnreachable("cannot be sent").reason)

    def test_what_a_credential_plugin_prints_is_not_told(self) -> None:
        for error in ("exec: process returned 1. hunter2", "cmd-path: process returned 1\nCmd: hunter2\nStderr: hunter2"):
            with mock.patch.object(kubernetes_api, "kubernetes_config") as config:
                config.load_kube_config.side_effect = ConfigException(error)
                reading = self.kubeconfig_source().read()
            self.assertRegex(reading.namespaces.reason, "^no access to the Kubernetes API: .*: process returned 1$")

    def test_a_kubeconfig_that_is_none(self) -> None:
        path = Path(tempfile.mkdtemp(dir=self.api.directory)) / "config"
        self.source = self.make_source({"KUBECONFIG": str(path)})
        self.assertUnreachable(
            f"^no access to the Kubernetes API: there is no kubeconfig at {path}; KUBECONFIG can name another$"
        )
        context = "current-context: a\ncontexts: [{name: a, context: {cluster: b, user: c}}]\n"
        cluster = "clusters: [{name: b, cluster: {server: 'https://h'}}]\n"
        for text, expected in (
            ("", "it is empty"),
            ("[]", r"it cannot be used \(TypeError\)"),
            ("text", r"it cannot be used \(TypeError\)"),
            (f"token: '{PLANTED}", r"it cannot be used \([A-Za-z]+\)"),
            (f"users: [{PLANTED}: {PLANTED}: {PLANTED}]", r"it cannot be used \([A-Za-z]+\)"),
            ("current-context: nowhere", "it has no nowhere among its contexts"),
            ("current-context: a\ncontexts: {}", "it has no a among its contexts"),
            (context, "it has no b among its clusters"),
            # The official client's own words quote the whole entry here.
            (f"{context}clusters: [{{name: b, token: {PLANTED}}}]", "it has no cluster"),
            (f"{context}{cluster}users: [{{name: c, token: {PLANTED}}}]", "it has no user"),
            (
                f"{context}clusters: [{{name: b, cluster: {{server: 'https://h', certificate-authority: "
                f"/nowhere/ca.crt}}}}]",
                "there is no file /nowhere/ca.crt",
            ),
        ):
            path.write_text(text)
            failure = self.assertUnreachable(f"^no access to the Kubernetes API: {path}: {expected}$")
            self.assertNotIn(PLANTED, failure.reason)

    def test_a_user_in_the_address_is_not_shown(self) -> None:
        path = self.api.directory / "kubeconfig"
        path.write_text(path.read_text().replace("127.0.0.1", f"user:{PLANTED}@127.0.0.1"))
        self.api.stop()
        self.assertNotIn(PLANTED, self.assertUnreachable(f"no answer from {self.api.url}: ").reason)

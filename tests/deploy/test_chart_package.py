"""The packaged chart: what is in the archive, what the OCI artifact says of itself, and what Helm
and skopeo make of both at a real registry.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
import urllib.request
from pathlib import Path

import yaml

from redisproxy import __version__

from ..support.servers import free_port
from ..support.waiting import until
from .documents import CHART, DEPLOY, ROOT, helm, plain_environment, run, tool

ARCHIVE, LAYOUT = f"redisproxy-{__version__}.tgz", f"redisproxy-{__version__}.oci"
CONFIG = "application/vnd.cncf.helm.config.v1+json"
CONTENT = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class PackageCase(unittest.TestCase):
    def setUp(self) -> None:
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="redisproxy-test-")))

    def package(self, name: str = "dist", chart: Path = CHART, **environ: str) -> Path:
        """Packages the chart. Returns the directory with both forms."""
        target = self.directory / name
        ran = self.packaged(target, chart, **environ)
        self.assertEqual((ran.returncode, ran.stderr), (0, ""))
        return target

    def packaged(self, target: Path, chart: Path = CHART, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(DEPLOY / "chart-package"), str(chart), str(target)],
            env={**plain_environment(), **environ},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def content(self, archive: Path) -> dict[str, bytes]:
        """The archive's files. All are plain files in the directory `redisproxy`."""
        with tarfile.open(archive) as tar:
            for entry in tar:
                self.assertTrue(entry.isfile(), entry.name)
            return {entry.name.removeprefix("redisproxy/"): tar.extractfile(entry).read() for entry in tar}

    def helm_says(self, code: str, *arguments: str) -> str:
        """What a program prints that has Helm's library, in a process of its own: see
        `documents.helm`.
        """
        try:
            import helm_python  # noqa: F401 - whether it is there
        except ImportError:
            raise unittest.SkipTest("helm-python-sdk has no wheel for this machine") from None
        # Helm's settings and logins are not this user's.
        home = {f"HELM_{kind}_HOME": str(self.directory / "helm") for kind in ("CACHE", "CONFIG", "DATA")}
        command = [sys.executable, "-c", code, *arguments]
        ran = subprocess.run(command, env=plain_environment() | home, capture_output=True, text=True, timeout=120)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        return ran.stdout


class PackageTests(PackageCase):
    def test_the_archive_has_the_files_of_the_chart(self) -> None:
        expected = {path.relative_to(CHART).as_posix(): path.read_bytes() for path in CHART.rglob("*") if path.is_file()}
        self.assertIn("files/dashboard.json", expected)  # a link in the tree
        self.assertEqual(self.content(self.package() / ARCHIVE), expected)

    def test_what_helmignore_names_is_left_out(self) -> None:
        chart = self.directory / "chart"
        shutil.copytree(CHART, chart)
        expected = self.content(self.package(chart=chart) / ARCHIVE)
        for name in ("values.yaml~", "old-0.0.1.tgz", "templates/.service.yaml.swp", ".git/HEAD", "templates/.git/x"):
            (chart / name).parent.mkdir(exist_ok=True)
            (chart / name).write_text("x")
        self.assertEqual(self.content(self.package(chart=chart) / ARCHIVE), expected)
        (chart / ".helmignore").write_text("/ci/values.yaml\n")
        ran = self.packaged(self.directory / "other", chart)
        self.assertIn("/ci/values.yaml is more than a name", ran.stderr)

    def test_the_same_chart_gives_the_same_bytes(self) -> None:
        def written(directory: Path) -> dict[str, bytes]:
            return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}

        copy = self.directory / "copy"
        shutil.copytree(CHART, copy)
        (copy / "values.yaml").chmod(0o600)
        first = self.package("first", SOURCE_DATE_EPOCH="1700000000")
        self.assertEqual(written(first), written(self.package("second", copy, SOURCE_DATE_EPOCH="1700000000")))
        self.assertEqual(written(first), written(self.package("first", SOURCE_DATE_EPOCH="1700000000")))
        self.assertNotEqual(written(first), written(self.package("dateless")))

    def test_the_layout_is_whole(self) -> None:
        directory = self.package(SOURCE_DATE_EPOCH="1700000000")
        layout = directory / LAYOUT
        self.assertEqual(json.loads((layout / "oci-layout").read_text()), {"imageLayoutVersion": "1.0.0"})
        blobs = {path.name: path.read_bytes() for path in (layout / "blobs/sha256").iterdir()}
        for name, blob in blobs.items():
            self.assertEqual(hashlib.sha256(blob).hexdigest(), name)

        def blob(descriptor: dict) -> bytes:
            found = blobs.pop(descriptor["digest"].removeprefix("sha256:"))
            self.assertEqual(len(found), descriptor["size"])
            return found

        (tagged,) = json.loads((layout / "index.json").read_text())["manifests"]
        self.assertEqual(tagged["annotations"], {"org.opencontainers.image.ref.name": __version__})
        self.assertEqual(tagged["mediaType"], MANIFEST)
        manifest = json.loads(blob(tagged))
        (layer,) = manifest["layers"]
        self.assertEqual(
            (manifest["mediaType"], manifest["config"]["mediaType"], layer["mediaType"]), (MANIFEST, CONFIG, CONTENT)
        )
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        self.assertEqual(json.loads(blob(manifest["config"])), chart)
        self.assertEqual(blob(layer), (directory / ARCHIVE).read_bytes())
        self.assertEqual(blobs, {}, "nothing else is in it")
        self.assertEqual(
            manifest["annotations"],
            {
                "org.opencontainers.image.title": "redisproxy",
                "org.opencontainers.image.version": __version__,
                "org.opencontainers.image.description": chart["description"],
                "org.opencontainers.image.created": "2023-11-14T22:13:20Z",
            },
        )

    def test_make_chart_makes_both(self) -> None:
        dry = run(tool("make", "apt-get install make"), "-n", "-o", ".venv/installed", "chart")
        self.assertIn("deploy/chart-package deploy/helm/redisproxy dist\n", dry.stdout)


class HelmTests(PackageCase):
    """Helm reads the archive as it reads the directory."""

    def test_helm_packages_the_same_files(self) -> None:
        program = "import sys, helm_python; print(helm_python.package(sys.argv[1], destination=sys.argv[2]))"
        theirs = self.content(Path(self.helm_says(program, str(CHART), str(self.directory)).strip()))
        ours = self.content(self.package() / ARCHIVE)
        # Helm writes this one anew.
        self.assertEqual(yaml.safe_load(ours.pop("Chart.yaml")), yaml.safe_load(theirs.pop("Chart.yaml")))
        self.assertEqual(ours, theirs)

    def test_what_the_archive_renders_is_what_the_chart_renders(self) -> None:
        program = (
            "import json, sys; from helm_python.chart import Chart; values = json.loads(sys.argv[2]); "
            "print(json.dumps(Chart.load(sys.argv[1]).render(values, name='redisproxy', namespace='redisproxy')))"
        )
        values = {"monitoring": {"enabled": True}, "service": {"ipFamilyPolicy": "PreferDualStack"}}
        rendered = json.loads(self.helm_says(program, str(self.package() / ARCHIVE), json.dumps(values)))
        self.assertEqual(rendered, helm(values)[0])


class RegistryTests(PackageCase):
    """A real registry, on loopback."""

    def setUp(self) -> None:
        super().setUp()
        program = tool("docker-registry", "apt-get install docker-registry")
        self.port = free_port()
        settings = self.directory / "registry.yml"
        settings.write_text(
            yaml.safe_dump(
                {
                    "version": "0.1",
                    "log": {"level": "error", "accesslog": {"disabled": True}},
                    "storage": {"filesystem": {"rootdirectory": str(self.directory / "registry")}},
                    "http": {"addr": f"127.0.0.1:{self.port}"},
                }
            )
        )
        with (self.directory / "registry.log").open("wb") as log:
            registry = subprocess.Popen(
                [program, "serve", str(settings)], env=plain_environment(), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self.addCleanup(registry.wait)
        self.addCleanup(registry.terminate)
        until(self.answers, "the registry answers")

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self.get("").startswith(b"{")
        return False

    def get(self, path: str, accept: str = "*/*") -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v2/{path}", headers={"Accept": accept})
        # Without the proxies of this machine's environment.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as answer:
            return answer.read()

    def stored(self, repository: str) -> dict:
        """The manifest that the registry has."""
        return json.loads(self.get(f"{repository}/manifests/{__version__}", MANIFEST))

    def own(self, directory: Path) -> tuple[str, dict]:
        """(digest, manifest) of the layout."""
        layout = directory / LAYOUT
        (tagged,) = json.loads((layout / "index.json").read_text())["manifests"]
        return tagged["digest"], json.loads((layout / "blobs" / tagged["digest"].replace(":", "/")).read_text())

    def pulled(self, repository: str) -> bytes:
        """What Helm downloads."""
        target = self.directory / "pulled"
        target.mkdir()
        program = (
            "import sys; from helm_python import RegistryClient; "
            "RegistryClient(plain_http=True).pull(sys.argv[1], version=sys.argv[2], destination=sys.argv[3], plain_http=True)"
        )
        self.helm_says(program, f"oci://127.0.0.1:{self.port}/{repository}", __version__, str(target))
        (archive,) = target.iterdir()
        return archive.read_bytes()

    def test_helm_pushes_the_archive_as_the_artifact_has_it(self) -> None:
        directory = self.package()
        program = "import sys; from helm_python import push; push(sys.argv[1], sys.argv[2], plain_http=True)"
        self.helm_says(program, str(directory / ARCHIVE), f"oci://127.0.0.1:{self.port}/charts")
        manifest, (_, own) = self.stored("charts/redisproxy"), self.own(directory)
        self.assertEqual(manifest["layers"], own["layers"])
        self.assertEqual(manifest["config"]["mediaType"], own["config"]["mediaType"])
        config = json.loads(self.get(f"charts/redisproxy/blobs/{manifest['config']['digest']}"))
        self.assertEqual(config, yaml.safe_load((CHART / "Chart.yaml").read_text()))
        self.assertEqual(manifest["annotations"].keys() - own["annotations"].keys(), {"org.opencontainers.image.created"})
        self.assertEqual(self.pulled("charts/redisproxy"), (directory / ARCHIVE).read_bytes())

    def test_skopeo_copies_the_artifact_and_helm_pulls_it(self) -> None:
        skopeo = tool("skopeo", "apt-get install skopeo")
        directory = self.package()
        copied = run(
            skopeo,
            "copy",
            "--insecure-policy",
            "--dest-tls-verify=false",
            f"oci:{directory / LAYOUT}:{__version__}",
            f"docker://127.0.0.1:{self.port}/charts/redisproxy:{__version__}",
            cwd=ROOT,
        )
        self.assertEqual(copied.returncode, 0, copied.stderr)
        digest, own = self.own(directory)
        self.assertEqual(self.stored("charts/redisproxy"), own)
        self.assertTrue(self.get(f"charts/redisproxy/manifests/{digest}", MANIFEST))
        self.assertEqual(self.pulled("charts/redisproxy"), (directory / ARCHIVE).read_bytes())

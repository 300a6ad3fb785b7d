"""deploy/image-build: which command it runs with each builder, and what it says is missing, before
anything is built.

The builders here are stand-ins that write down how they are called. `make image-check` builds with
a real one.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import unittest
from collections.abc import Mapping
from pathlib import Path

from redisproxy import __version__

from .documents import DEPLOY, ROOT, run, tool

BUILDERS = ("docker", "podman", "buildah")
#: What the script needs besides.
TOOLS = ("bash", "cat", "dirname", "env", "git", "grep", "sed", "tr")

#: In place of a builder. A file of the directory `answers` has what it answers to one call, or to
#: any: a line with the status, then the text.
STAND_IN = r"""#!/bin/sh
name="${{0##*/}}"
{{ printf '%s' "$name"; for argument; do printf '\037%s' "$argument"; done; echo; }} >>{log}
for call in "$name $*" "$name"; do
    answer="{answers}/$(printf %s "$call" | tr / _)"
    if [ -f "$answer" ]; then
        {{ read -r status; cat; }} <"$answer"
        exit "$status"
    fi
done
"""

#: A line each of what Linux shows of a handler.
ARM64 = "interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POF\noffset 0\nmagic 7f454c460201010000000000000000000200b700\n"
AMD64 = "interpreter /usr/bin/qemu-x86_64-static\nflags: F\noffset 0\nmagic 7f454c4602010100000000000000000002003e00\n"


class ImageBuildTests(unittest.TestCase):
    def setUp(self) -> None:
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="redisproxy-test-")))
        self.log, self.answers = self.directory / "log", self.directory / "answers"
        self.programs, self.handlers = self.directory / "bin", self.directory / "binfmt_misc"
        for path in (self.answers, self.programs, self.handlers):
            path.mkdir()
        for name in TOOLS:
            path = shutil.which(name)
            if path is None:
                raise unittest.SkipTest(f"{name} is not installed")
            (self.programs / name).symlink_to(path)
        self.said: dict[str, tuple[int, str]] = {
            "uname -m": (0, "x86_64"),
            "uname -s": (0, "Linux"),
            "docker --version": (0, "Docker version 28.2.2, build e6534b4"),
            "docker info --format {{.DriverStatus}}": (0, "[[Backing Filesystem extfs]]"),
            "docker buildx inspect": (0, "Name:   default\nDriver: docker\n\nNodes:\nPlatforms: linux/amd64, linux/386"),
            "docker buildx inspect --bootstrap": (0, "Driver: docker\nPlatforms: linux/amd64*, linux/386"),
        }
        self.install("uname")

    def install(self, *names: str) -> None:
        for name in names:
            path = self.programs / name
            path.write_text(STAND_IN.format(log=self.log, answers=self.answers))
            path.chmod(0o755)

    def handler(self, text: str, state: str = "enabled") -> None:
        (self.handlers / "any-name").write_text(f"{state}\n{text}")

    def build(self, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
        for call, (status, text) in self.said.items():
            (self.answers / call.replace("/", "_")).write_text(f"{status}\n{text}\n")
        self.log.write_text("")
        return subprocess.run(
            [str(DEPLOY / "image-build"), *options],
            env={"PATH": str(self.programs), "BINFMT_MISC": str(self.handlers), **environ},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def commands(self) -> list[list[str]]:
        """The calls that build, remove or push something, without the two arguments that name the
        revision.
        """
        calls = [line.split("\037") for line in self.log.read_text().split("\n")]
        found = []
        for call in calls:
            if call[1:2] in (["build"], ["push"], ["manifest"]) or call[1:3] == ["buildx", "build"]:
                revision = [argument for argument in call if argument.startswith("REVISION=")]
                found.append([argument for argument in call if argument not in revision])
        return found

    def built(self, *options: str, **environ: str) -> list[str]:
        """The commands of a build that succeeds, as they would be typed."""
        ran = self.build(*options, **environ)
        self.assertEqual((ran.returncode, ran.stderr), (0, ""))
        arguments = f" --build-arg VERSION={__version__} --build-arg"
        return [" ".join(command).replace(arguments, "") for command in self.commands()]

    def refused(self, environ: Mapping[str, str] = {}) -> str:
        """What is wrong. Nothing may have been built."""
        ran = self.build(**environ)
        self.assertEqual((ran.returncode, self.commands()), (1, []), ran.stdout)
        return ran.stderr

    def test_this_machines_platform_with_each_builder(self) -> None:
        for builder, wanted in (
            ("docker", f"docker buildx build --platform linux/amd64 --tag redisproxy:{__version__} --load ."),
            ("podman", f"podman build --platform linux/amd64 --tag redisproxy:{__version__} ."),
            ("buildah", f"buildah build --platform linux/amd64 --tag redisproxy:{__version__} ."),
        ):
            self.install(builder)
            self.assertEqual(self.built(BUILDER=builder), [wanted])

    def test_the_first_that_works_is_taken(self) -> None:
        self.install(*BUILDERS)
        self.assertEqual(self.built()[0].split()[0], "docker")
        for broken, answer, taken in (
            ("docker buildx version", (1, ""), "podman"),
            ("podman info", (125, ""), "buildah"),
        ):
            self.said[broken] = answer
            self.assertEqual(self.built()[0].split()[0], taken)

    def test_it_says_why_none_can_be_used(self) -> None:
        text = self.refused()
        for builder in BUILDERS:
            self.assertIn(f"{builder}: not installed", text)
        self.assertIn("apt-get install podman", text)
        self.install("docker", "podman")
        self.said["podman info"] = (125, "")
        for question, answer, reason in (
            ("docker info", (1, ""), "docker: its daemon does not answer"),
            ("docker buildx version", (1, ""), "docker: its plugin buildx is missing"),
            ("docker --version", (0, "podman version 4.3.1"), "docker: it is podman by another name"),
        ):
            self.said[question] = answer
            text = self.refused()
            self.assertIn(reason, text)
            self.assertIn("podman: it does not work here: see podman info", text)
        self.assertNotIn("podman:", self.refused({"BUILDER": "docker"}))
        self.assertIn("it takes docker, podman or buildah", self.refused({"BUILDER": "kaniko"}))

    def test_a_foreign_platform_needs_an_emulator(self) -> None:
        self.install("buildah")
        wanted = "No emulator for linux/arm64 is registered on this machine."
        for handler in (AMD64, ARM64.replace("POF", "PO")):
            self.handler(handler)
            self.assertIn(wanted, self.refused({"PLATFORM": "linux/arm64"}))
        self.handler(ARM64, "disabled")
        self.assertIn(wanted, self.refused({"PLATFORM": "linux/amd64,linux/arm64"}))
        self.assertIn("apt-get install qemu-user-static", self.refused({"PLATFORM": "linux/arm64"}))
        self.assertIn("--install arm64", self.refused({"PLATFORM": "linux/arm64"}))
        self.handler(ARM64)
        ran = self.build(PLATFORM="linux/arm64")
        self.assertEqual(ran.returncode, 0, ran.stderr)
        first, *_ = ran.stdout.splitlines()
        self.assertIn("/usr/libexec/qemu-binfmt/aarch64-binfmt-P runs it", first)
        self.handler(AMD64)
        self.said["uname -m"] = (0, "aarch64")
        self.assertEqual(len(self.built(PLATFORM="linux/amd64,linux/arm64")), 1)

    def test_an_emulator_may_be_where_it_is_not_seen(self) -> None:
        self.install("buildah", "podman")
        self.assertEqual(len(self.built(PLATFORM="linux/arm64", EMULATOR="yes")), 1)
        self.said["uname -s"] = (0, "Darwin")  # podman has a virtual machine there
        self.assertEqual(len(self.built(PLATFORM="linux/arm64")), 1)

    def test_docker_says_itself_for_which_platforms_it_builds(self) -> None:
        self.install("docker")
        self.handler(ARM64)  # of this machine, which may not be the daemon's
        self.assertIn("builds for linux/amd64 linux/386, and not for linux/arm64", self.refused({"PLATFORM": "linux/arm64"}))
        self.said["docker buildx inspect --bootstrap"] = (0, "Platforms: linux/amd64*, linux/arm64, linux/386")
        (command,) = self.built(PLATFORM="linux/arm64", IMAGE="r.example/p:1", PUSH="1")
        self.assertEqual(command, "docker buildx build --platform linux/arm64 --tag r.example/p:1 --push .")

    def test_several_platforms_are_one_name(self) -> None:
        self.handler(ARM64)
        both = {"PLATFORM": "linux/amd64,linux/arm64", "IMAGE": "r.example:5000/redisproxy:1"}
        for builder in ("podman", "buildah"):
            self.install(builder)
            built = f"{builder} build --platform linux/amd64,linux/arm64 --manifest r.example:5000/redisproxy:1 ."
            self.assertEqual(self.built(**both, BUILDER=builder), [built])
            pushed = f"{builder} manifest push --all r.example:5000/redisproxy:1 docker://r.example:5000/redisproxy:1"
            self.assertEqual(self.built(**both, BUILDER=builder, PUSH="1"), [built, pushed])
            # It would be added to the list of that name.
            self.said[f"{builder} images -q r.example:5000/redisproxy:1"] = (0, "9ccafea7f365")
            exists, *rest = self.built(**both, BUILDER=builder)
            self.assertEqual(exists, f"{builder} manifest exists r.example:5000/redisproxy:1")
            self.assertEqual(rest, [f"{builder} manifest rm r.example:5000/redisproxy:1", built])

    def test_the_name_of_an_image_for_one_platform_is_no_list(self) -> None:
        self.install("podman")
        self.handler(ARM64)
        image = f"redisproxy:{__version__}"
        self.said[f"podman images -q {image}"] = (0, "13e956d50c6b")
        self.said[f"podman manifest exists {image}"] = (125, "")
        ran = self.build(PLATFORM="linux/amd64,linux/arm64")
        self.assertEqual((ran.returncode, [command[2] for command in self.commands()]), (1, ["exists"]))
        self.assertIn(f"podman rmi {image}", ran.stderr)
        (command,) = self.built(PLATFORM="linux/arm64")
        self.assertIn("--tag", command)

    def test_docker_keeps_several_platforms_in_its_newer_store_alone(self) -> None:
        self.install("docker")
        self.said["docker buildx inspect --bootstrap"] = (0, "Driver: docker\nPlatforms: linux/amd64, linux/arm64")
        both = {"PLATFORM": "linux/amd64,linux/arm64", "IMAGE": "r.example/p:1"}
        self.assertIn("PUSH=1, which sends it", self.refused(both))
        self.assertIn("docker buildx create --use", self.refused({**both, "PUSH": "1"}))
        self.said["docker buildx inspect"] = (0, "Driver: docker-container")
        (command,) = self.built(**both, PUSH="1")
        self.assertEqual(command, "docker buildx build --platform linux/amd64,linux/arm64 --tag r.example/p:1 --push .")
        self.said["docker info --format {{.DriverStatus}}"] = (0, "[[driver-type io.containerd.snapshotter.v1]]")
        (command,) = self.built(**both)
        self.assertIn("--load", command)

    def test_to_push_takes_a_registry(self) -> None:
        self.install("podman")
        for image in ("", "redisproxy", "redisproxy:1", "r.example:5000", "team/redisproxy:1"):
            self.assertIn("has to name a registry", self.refused({"IMAGE": image, "PUSH": "1"}), image)
        for image in ("r.example/redisproxy:1", "localhost/redisproxy", "r:5000/redisproxy:1"):
            self.assertEqual(self.built(IMAGE=image, PUSH="1")[-1], f"podman push {image} docker://{image}")

    def test_other_platforms_are_refused(self) -> None:
        self.install("podman")
        for platform in ("arm64", "linux/s390x", "windows/amd64", "linux/amd64 linux/arm64"):
            text = self.refused({"PLATFORM": platform})
            self.assertIn(f"PLATFORM is '{platform}'; it takes linux/amd64, linux/arm64, or both", text)

    def test_options_go_to_the_builder(self) -> None:
        self.install("podman")
        (command,) = self.built("--build-arg", "PYTHON_IMAGE=r.example/python:3.13")
        self.assertIn(" --build-arg PYTHON_IMAGE=r.example/python:3.13 --tag ", command)

    def test_a_build_that_fails_is_not_pushed(self) -> None:
        self.install("podman")
        self.said["podman"] = (1, "no space left")
        self.said["podman info"] = (0, "")
        ran = self.build(IMAGE="r.example/p:1", PUSH="1")
        self.assertNotEqual(ran.returncode, 0)
        self.assertEqual([command[1] for command in self.commands()], ["build"])

    def test_make_image_hands_its_variables_on(self) -> None:
        dry = run(
            tool("make", "apt-get install make"), "-n", "image", "PLATFORM=linux/arm64", "IMAGE=r/p:1", "BUILD=--no-cache"
        )
        self.assertEqual(
            dry.stdout, "PLATFORM='linux/arm64' IMAGE='r/p:1' PUSH='' BUILDER='' deploy/image-build --no-cache\n"
        )

    def test_both_are_scripts_that_bash_can_read(self) -> None:
        for script in ("image-build", "emulator"):
            result = run(tool("bash", "apt-get install bash"), "-n", str(DEPLOY / script), cwd=ROOT)
            self.assertEqual((result.returncode, result.stderr), (0, ""))

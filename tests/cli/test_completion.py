"""Shell completion as docs/command.md sets it up, in real shells."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import pexpect
from click.shell_completion import BashComplete

from redisproxy.cli.main import command

from ..support.command import COMMAND
from ..support.proxy import plain_environment

PAGE = Path(__file__).parents[2] / "docs/command.md"
#: Seconds for a shell, or for the command behind one press of TAB.
LIMIT = 180
#: Reads command lines, and prints the completions of each in one line.
COMPLETE = """
compopt() { echo "compopt $*"; }
while IFS= read -r line; do
    read -ra COMP_WORDS <<<"$line"
    case "$line" in *" ") COMP_WORDS+=("") ;; esac
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    COMPREPLY=()
    made=$(_redisproxy_completion redisproxy; echo "${COMPREPLY[*]}")
    echo "$made" | tr '\\n' ' '
    echo
done
"""


class CompletionCase(unittest.TestCase):
    def setUp(self) -> None:
        home = tempfile.TemporaryDirectory(prefix="redisproxy-test-")
        self.addCleanup(home.cleanup)
        self.home = Path(home.name)
        (self.home / ".config/fish/completions").mkdir(parents=True)
        # There is no cluster, and nothing may ask for one.
        self.environ = {
            **plain_environment(),
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            "PATH": f"{Path(COMMAND).parent}:{os.environ['PATH']}",
            "KUBECONFIG": str(self.home / "none"),
            "TERM": "dumb",
        }

    def set_up(self, shell: str) -> None:
        """Runs the lines of the page for a shell, in bash, as `>` and `echo` are alike in all."""
        lines = re.findall(r"^    (_REDISPROXY_COMPLETE=.*|echo '\. .*)$", PAGE.read_text(), re.MULTILINE)
        wanted = [line for line in lines if shell in line]
        self.assertEqual(len(wanted), 1 if shell == "fish" else 2)
        subprocess.run(["bash", "-ec", "\n".join(wanted)], env=self.environ, check=True, timeout=LIMIT)

    def complete(self, shell: pexpect.spawn, typed: str, expected: str) -> None:
        """expected: what the shell adds to what was typed, behind TAB."""
        shell.send(typed + "\t")
        shell.expect_exact(expected)
        shell.sendcontrol("u")


class AnswersTests(unittest.TestCase):
    def test_what_is_completed(self) -> None:
        """Each line with what click answers a shell: a kind, and a value. It needs no cluster."""
        for line, answers in (
            ("", "plain,check plain,enroll plain,pause plain,resume plain,rotate plain,temp plain,tenants"),
            ("te", "plain,temp plain,tenants"),
            ("enroll --d", "plain,--databases plain,--dry-run"),
            ("temp team-blue --output ", "plain,table plain,json plain,yaml"),
            ("check --log-level ", "plain,debug plain,info plain,warn plain,error"),
            ("check --acl re", "plain,require"),
            ("check --client-ca ", "file,"),
            ("tenants --manifests d", "dir,d"),
            ("tenants --ns-prefix ", ""),
            ("rotate ", ""),
        ):
            words = f"redisproxy {line}"
            environ = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1), "KUBECONFIG": "/nowhere"}
            with self.subTest(line), mock.patch.dict(os.environ, environ, clear=True):
                shell = BashComplete(command, {}, "redisproxy", "_REDISPROXY_COMPLETE")
                self.assertEqual(shell.complete().split(), answers.split())


@unittest.skipIf(shutil.which("bash") is None, "bash is not installed")
class BashTests(CompletionCase):
    def test_the_function(self) -> None:
        """It is asked as bash asks it."""
        self.set_up("bash")
        lines = {
            "redisproxy te": "temp tenants",
            "redisproxy check --acl re": "require",
            "redisproxy tenants --manifests ": "compopt -o dirnames",
        }
        script = (self.home / ".redisproxy-complete.bash").read_text() + "\n" + COMPLETE
        done = subprocess.run(
            ["bash", "--norc", "-c", script],
            env=self.environ,
            input="".join(f"{line}\n" for line in lines),
            capture_output=True,
            text=True,
            timeout=len(lines) * LIMIT,
        )
        self.assertEqual(done.stderr, "")
        self.assertEqual(dict(zip(lines, map(str.strip, done.stdout.split("\n")), strict=False)), lines)

    def test_the_tab_key(self) -> None:
        self.set_up("bash")
        shell = pexpect.spawn("bash", ["--noprofile", "-i"], env=self.environ, encoding="utf-8", timeout=LIMIT)
        self.addCleanup(shell.close, True)
        self.complete(shell, "redisproxy rot", "ate ")


@unittest.skipIf(shutil.which("zsh") is None, "zsh is not installed: apt-get install zsh")
class ZshTests(CompletionCase):
    def test_the_tab_key(self) -> None:
        (self.home / ".zshrc").write_text("autoload -Uz compinit\ncompinit -u\n")
        self.set_up("zsh")
        shell = pexpect.spawn("zsh", ["-i"], env=self.environ, encoding="utf-8", timeout=LIMIT)
        self.addCleanup(shell.close, True)
        self.complete(shell, "redisproxy rot", "ate ")


@unittest.skipIf(shutil.which("fish") is None, "fish is not installed: apt-get install fish")
class FishTests(CompletionCase):
    def test_the_tab_key(self) -> None:
        self.set_up("fish")
        completed = subprocess.run(
            ["fish", "-c", "complete -C 'redisproxy rot'"],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        self.assertEqual((completed.stdout.split()[:1], completed.stderr), (["rotate"], ""))

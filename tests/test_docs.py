"""What the documents say is so: settings, messages, links, commands."""

from __future__ import annotations

import functools
import itertools
import json
import re
import runpy
import shlex
import unittest
from collections.abc import Iterator
from pathlib import Path

import click
import yaml

from redisproxy import __version__, messages
from redisproxy.cli.main import command
from redisproxy.messages import CloseReason
from redisproxy.tenants.limits import KNOWN

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])


# Markdown.


def prose(text: str) -> str:
    """Without blocks of code."""
    return "\n".join(
        line for line in re.sub(r"```.*?```", "", text, flags=re.DOTALL).split("\n") if not line.startswith("    ")
    )


def blocks(text: str) -> list[str]:
    """Blocks of code: what is indented, behind an empty line."""
    return re.findall(r"(?<=\n\n)(?: {4,}\S[^\n]*\n|\n+(?= {4}))+", text)


def spans(text: str) -> list[str]:
    """Code within the text."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def anchors(path: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*)", prose(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows(text: str) -> list[list[str]]:
    """The cells of all tables, without their heads."""
    lines = text.split("\n")
    tables = [line for line, after in itertools.pairwise([*lines, ""]) if line.startswith("|") and "| --- |" not in after]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in tables]
    return [row for row in cells if not set("".join(row)) <= {"-", " "}]


class GeneratedTests(unittest.TestCase):
    def test_generated_parts_are_what_the_code_says(self) -> None:
        """Also each setting is in one table, and each subcommand has its part: else this raises."""
        pages = runpy.run_path(str(ROOT / "docs/generate.py"))["pages"]()
        self.assertEqual({page.name for page in pages}, {"settings.md", "command.md", "troubleshoot.md", "tenants.md"})
        for page, text in pages.items():
            self.assertEqual(page.read_text(), text, f"docs/{page.name} is out of date: `make docs` writes it anew")


#: The installation of the reader, and what it is a copy of.
MINE = ("overlays/mine", "overlays/start")


class LinkTests(unittest.TestCase):
    def test_they_lead_somewhere(self) -> None:
        count = 0
        for page in PAGES:
            for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(page.read_text()))):
                if link.startswith("https://"):
                    continue
                count += 1
                file, _, anchor = link.partition("#")
                target = (page.parent / file).resolve() if file else page
                self.assertTrue(target.exists(), f"{page.name}: {link}")
                if anchor:
                    self.assertIn(anchor, anchors(target), f"{page.name}: {link}")
        self.assertGreater(count, 80)

    def test_no_link_has_a_space(self) -> None:
        """It would be shown as text, and the test above would not see it."""
        for page in PAGES:
            found = re.findall(r"\]\([^)\n]*\s[^)\n]*\)", re.sub(r"`[^`\n]*`", "", prose(page.read_text())))
            self.assertEqual(found, [], page.name)

    def test_each_page_can_be_reached_from_the_readme(self) -> None:
        readme = (ROOT / "README.md").read_text()
        for page in ROOT.glob("docs/*.md"):
            self.assertIn(f"](docs/{page.name})", readme)

    def test_files_that_are_named_are_there(self) -> None:
        for page in PAGES:
            for file in re.findall(r"(?<![\w/.-])(?:deploy|tests|benchmarks|docs)/[\w./-]*\w", page.read_text()):
                if file != "deploy/redisproxy":  # what kubectl calls the Deployment
                    self.assertTrue((ROOT / file.replace(*MINE)).exists(), f"{page.name}: {file}")


#: Options of other programs: redis-cli, twistd, kubectl, benchmarks.
OTHERS = re.compile(r"--(scan|bigkeys|memkeys|latency|pipe|eval|rdb|replica|stat|ldb|strict|variant|syslog|logfile|help)")


class CommandTests(unittest.TestCase):
    """Whatever can be typed."""

    def lines(self) -> Iterator[tuple[str, list[str]]]:
        """(page, words) of each command in a block."""
        for page in PAGES:
            for block in blocks(page.read_text()):
                for line in block.split("\n"):
                    line = line.replace('"$namespace"', "NAMESPACE").replace('"$index"', "N")  # of a loop
                    for part in re.sub(r"\s#\s.*|&$|\s[<>]\S+", "", line).split(" | "):
                        yield page.name, self.words(part)

    def words(self, line: str) -> list[str]:
        try:
            words = shlex.split(line)
        except ValueError:
            return []
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        return words[words.index("--") + 1 :] if "kubectl" in words[:1] and "--" in words and "exec" in words else words

    def test_the_operators_commands_are_taken(self) -> None:
        taken = set()
        for page, words in self.lines():
            if words[:1] == ["redisproxy"] and words[1:2] != [">"]:
                words = [{"N": "1", "NAMESPACE": "tenant-a"}.get(word, word) for word in words[1:]]
                sub = command.commands[words[0]]
                try:
                    sub.make_context(words[0], words[1:], parent=click.Context(command))
                except click.ClickException as error:
                    self.fail(f"{page}: redisproxy {' '.join(words)}: {error.format_message()}")
                taken.add(words[0])
        self.assertEqual(taken, set(command.commands))

    def test_options_that_are_named_are_there(self) -> None:
        known = {option for sub in command.commands.values() for parameter in sub.params for option in parameter.opts}
        known |= {
            option for sub in command.commands.values() for parameter in sub.params for option in parameter.secondary_opts
        }
        for page in PAGES:
            if page.name in ("CONTRIBUTING.md", "RESULTS.md"):
                continue
            for span in spans(page.read_text()):
                words = span.split()
                option = words[0].partition("=")[0]
                if option.startswith("--") and not OTHERS.fullmatch(option):
                    self.assertIn(option, known, f"{page.name}: {span}")
                if words[0] == "redisproxy" and len(words) > 1 and words[1] not in ("…", "--version"):
                    sub = command.commands[words[1]]
                    own = {option for parameter in sub.params for option in (*parameter.opts, *parameter.secondary_opts)}
                    for word in words:
                        if word.startswith("--"):
                            self.assertIn(word, own, f"{page.name}: {span}")

    def test_what_is_searched_in_the_log_can_be_there(self) -> None:
        """Each alternative of a `grep` over the log finds a message, as text and as JSON."""
        codes = [message.code for _, message in messages.all_messages() if isinstance(message, CloseReason)]
        values = ["NAMESPACE/secret", "1", "ssl:6380", *(f"NAMESPACE/secret: {code}" for code in codes)]
        lines = [
            line
            for value in values
            for _, message in messages.all_messages()
            for text in (re.sub(r"\{[^{}]*\}", value, message.text), message.example)
            for line in (f" {text}", json.dumps({"message": text}))
        ]
        searched = 0
        for page in PAGES:
            found = re.findall(r"kubectl [^\n]* logs [^\n]*\| grep (?:-\S+ )*'([^'\n]+)'", page.read_text())
            for pattern in (one for each in found for one in each.split("|")):
                matches = [line for line in lines if re.search(pattern, line)]
                self.assertTrue(any(line.startswith(" ") for line in matches), f"{page.name}: {pattern}, text")
                self.assertTrue(any(line.startswith("{") for line in matches), f"{page.name}: {pattern}, JSON")
                searched += 1
        self.assertGreater(searched, 20)

    def test_metrics_that_are_named_are_there(self) -> None:
        """tests/ops compares docs/metrics.md with the code."""
        listed = set(re.findall(r"\bredisproxy_[a-z_]+[a-z]", (ROOT / "docs/metrics.md").read_text()))
        for page in PAGES:
            if page.name != "CHANGELOG.md":  # it has the names of the past
                named = set(re.findall(r"\bredisproxy_[a-z_]+[a-z]", page.read_text()))
                self.assertEqual(named - listed, set(), page.name)

    def test_make_knows_its_targets(self) -> None:
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        named = set()
        for page in PAGES:
            text = page.read_text()
            named |= set(re.findall(r"`make ([a-z-]+)", text)) | set(re.findall(r"^ {4,}make ([a-z-]+)", text, re.MULTILINE))
        self.assertEqual(named - targets, set())
        self.assertLessEqual({"run", "test", "bench"}, named)

    def test_what_is_applied_or_installed_is_there(self) -> None:
        values = yaml.safe_load((ROOT / "deploy/helm/redisproxy/values.yaml").read_text())
        directories, charts = 0, 0
        for page in PAGES:
            text = page.read_text()
            for line in itertools.chain(spans(text), *(block.split("\n") for block in blocks(text))):
                for directory in re.findall(r"kubectl (?:kustomize|apply -k|delete -k) (deploy\S+)", line):
                    kustomization = ROOT / directory.replace(*MINE) / "kustomization.yaml"
                    self.assertTrue(kustomization.is_file(), f"{page.name}: {line}")
                    directories += 1
                if line.strip().startswith("helm install"):
                    charts += 1
                    words = shlex.split(line)
                    if words[3].startswith("oci://"):
                        self.assertTrue(words[3].endswith("/redisproxy"), f"{page.name}: {line}")
                        self.assertEqual(words[words.index("--version") + 1], __version__, f"{page.name}: {line}")
                    else:
                        self.assertTrue((ROOT / words[3] / "Chart.yaml").is_file(), f"{page.name}: {line}")
                    for setting in [words[place + 1] for place, word in enumerate(words) if word == "--set"]:
                        functools.reduce(lambda part, key: part[key], setting.partition("=")[0].split("."), values)
        self.assertGreater(directories, 2)
        self.assertGreaterEqual(charts, 1)

    def test_annotations_are_those_that_are_read(self) -> None:
        named = {name for page in PAGES for name in re.findall(r"\b(redisproxy/[a-z]+-[a-z-]+)\b", page.read_text())}
        self.assertEqual(named - set(KNOWN), set())
        self.assertEqual(set(KNOWN) - set(re.findall(r"redisproxy/[a-z-]+", (ROOT / "docs/operate.md").read_text())), set())

    def test_blocks_are_what_they_look_like(self) -> None:
        kinds = {"yaml": 0, "python": 0}
        for page in ROOT.glob("docs/*.md"):
            for block in blocks(page.read_text()):
                code = re.sub(r"^ {4}", "", block, flags=re.MULTILINE)
                if re.match(r"import |from ", code):
                    compile(code, page.name, "exec")
                    kinds["python"] += 1
                elif re.match(r"[A-Za-z]+:(\s|$)", code):
                    list(yaml.safe_load_all(code))
                    kinds["yaml"] += 1
        self.assertGreaterEqual(min(kinds.values()), 1, kinds)
